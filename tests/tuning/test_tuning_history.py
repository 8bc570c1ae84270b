"""A run's curve, computed again from the records that it left."""

from __future__ import annotations

import pytest

from edgevit.tuning.history import comparable, history
from edgevit.tuning.record import KernelRecord
from tests.tuning.making import measured

CONV, DEPTHWISE, POOL = "conv/1/00", "depthwise/1/01", "pool/1/02"
CALLS = {CONV: {"one": 2, "two": 1}, DEPTHWISE: {"one": 1}, POOL: {"two": 3}}


def trial(workload: str, rows: int, seconds: float, second: int = 0) -> KernelRecord:
    date = f"2025-01-31T12:{second // 60:02}:{second % 60:02}Z"
    return measured({"rows": rows}, seconds, workload=workload, date=date)


def test_sums_and_times_are_those_computed_by_hand() -> None:
    found = history(
        [
            trial(CONV, 4, 1.0, second=0),
            trial(CONV, 6, 0.75, second=30),
            trial(DEPTHWISE, 4, 0.5, second=60),
            trial(CONV, 8, 2.0, second=60),
            trial(DEPTHWISE, 2, 0.25, second=90),
        ],
        CALLS,
    )
    assert found.before == {"one": 2.5, "two": 1.0}
    assert found.missing == {"one": 0, "two": 1}
    # Depthwise counts with its default from the first trial on, though it is measured later.
    assert [point.totals["one"] for point in found.points] == [2.5, 2.0, 2.0, 2.0, 1.75]
    assert [point.totals["two"] for point in found.points] == [1.0, 0.75, 0.75, 0.75, 0.75]
    assert [point.trial for point in found.points] == [1, 2, 3, 4, 5]
    assert [point.minutes for point in found.points] == [0, 0.5, 1, 1, 1.5]
    assert [point.ratio for point in found.points] == pytest.approx([1, 4 / 3, 1, 0.5, 2])


def test_dates_order_the_trials_and_lines_those_of_one_second() -> None:
    late = trial(CONV, 6, 0.5, second=59)
    early = [trial(CONV, 4, 1.0, second=1), trial(CONV, 2, 0.75, second=1)]
    found = history([late, *early], CALLS)
    assert [point.seconds for point in found.points] == [1.0, 0.75, 0.5]


def test_a_choice_that_was_measured_again_counts_once_with_its_latest_latency() -> None:
    lucky = [trial(CONV, 4, 1.0), trial(CONV, 6, 0.25, 1), trial(CONV, 6, 0.75, 2), trial(CONV, 8, 0.8, 3)]
    found = history(lucky, CALLS)
    assert [point.totals["two"] for point in found.points] == [1.0, 0.75, 0.75]
    assert [point.trial for point in found.points] == [1, 2, 3]


def test_the_best_so_far_never_rises_and_ends_at_the_least_of_each_task() -> None:
    seconds = [1.0, 1.2, 0.7, 0.9, 0.65, 0.66, 1.5]
    records = [
        trial(workload, rows, each * weight, rows)
        for rows, each in enumerate(seconds)
        for workload, weight in ((CONV, 1.0), (DEPTHWISE, 3.0), (POOL, 0.1))
    ]
    totals = [point.totals for point in history(records, CALLS).points]
    for model in ("one", "two"):
        curve = [total[model] for total in totals]
        assert curve == sorted(curve, reverse=True)
    assert totals[-1]["one"] == pytest.approx(2 * 0.65 + 3 * 0.65)
    assert totals[-1]["two"] == pytest.approx(0.65 + 3 * 0.065)


def test_a_given_default_is_what_trials_are_compared_with() -> None:
    records = [trial(CONV, 6, 0.5), trial(CONV, 4, 1.0, 1), trial(POOL, 2, 0.1, 2)]
    found = history(records, CALLS, {CONV: {"rows": 4}, POOL: {"rows": 9}})
    assert found.before["one"] == 2.0
    assert [point.ratio for point in found.points] == [2.0, 1.0, None]  # the default of pooling was never measured
    assert found.before["two"] == pytest.approx(1.0 + 3 * 0.1)


def test_what_is_no_measurement_of_these_models_is_left_out() -> None:
    guess = measured({"rows": 2}, 1e-9, workload=CONV, evidence="estimated")
    stranger = measured({"rows": 2}, 1e-9, workload="conv/1/ff")
    found = history([guess, stranger, trial(CONV, 4, 1.0)], CALLS)
    assert [point.seconds for point in found.points] == [1.0]
    nothing = history([], CALLS)
    assert (nothing.points, nothing.missing) == ((), {"one": 2, "two": 2})


def test_only_measurements_of_one_bench_compare() -> None:
    ours = [measured({"rows": rows}, 1.0) for rows in (1, 2, 3)]
    others = [
        measured(target="rpi5"),
        measured(threads=4),
        measured(threads=4),
        measured(cpu="Cortex-A76"),
        measured(evidence="estimated"),
    ]
    assert comparable([*others, *ours]) == ours
    assert comparable([]) == []
    later = [measured({"rows": rows}, 1.0, threads=2, date="2025-02-01T00:00:00Z") for rows in (1, 2, 3)]
    assert comparable([*later, *ours]) == later
