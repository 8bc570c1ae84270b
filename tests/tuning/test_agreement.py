"""How agreement with measurements is computed, on hand-made estimates and latencies."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from scipy.stats import kendalltau

from edgevit.targets import get_target
from edgevit.tuning.agreement import LEAST, Agreement, Summary, agree, agreement, is_held_out, kendall_tau
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.static.model import ChoiceEstimate
from edgevit.tuning.tasks import Task
from tests.tuning import faulty_family
from tests.tuning.making import measured

TARGET = get_target("rpi4")


def task_of(default: int = 0) -> Task:
    assert faulty_family.__name__ in sys.modules
    return faulty_family.task(TARGET, default)


def estimator(seconds: dict[int, float]) -> Any:
    def estimate(task: Task, choice: dict[str, int]) -> ChoiceEstimate:
        if choice["way"] not in seconds:
            raise ValueError("refused")
        return ChoiceEstimate(choice, seconds[choice["way"]], 0, 0, (0, 0, 0), fine=True)

    return estimate


def latencies(seconds: dict[int, float]) -> dict[Any, float]:
    return {choice_key({"way": way}): value for way, value in seconds.items()}


def records(task: Task, seconds: dict[int, float], **fields: Any) -> list[KernelRecord]:
    return [measured({"way": way}, value, workload=task.key, target=TARGET, **fields) for way, value in seconds.items()]


def test_tau_counts_pairs_in_the_same_order() -> None:
    # Of six pairs five are in order: (5 - 1) / 6.
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    tied = ([1, 1, 2, 3], [5, 6, 7, 7])
    assert kendall_tau(*tied) == pytest.approx(kendalltau(*tied).statistic)
    # tau-b of the tied case: three pairs in order; five pairs untied on either side.
    assert kendall_tau(*tied) == pytest.approx(4 / 5)
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None


def test_regret_is_of_the_choice_with_the_lowest_estimate() -> None:
    found = agree(task_of(), latencies({0: 10.0, 1: 8.0, 2: 9.0}), estimator({0: 2.0, 1: 1.5, 2: 1.0}))
    assert found is not None
    assert (found.pick_seconds, found.default_seconds, found.best_seconds) == (9.0, 10.0, 8.0)
    assert found.to_default == pytest.approx(0.9)
    assert found.to_best == pytest.approx(9 / 8)
    assert found.estimated_gain == pytest.approx(0.5)
    assert found.tau == pytest.approx(1 / 3)


def test_of_equal_estimates_the_default_is_the_pick() -> None:
    found = agree(task_of(default=2), latencies({0: 1.0, 1: 2.0, 2: 3.0}), estimator({0: 1.0, 1: 1.0, 2: 1.0}))
    assert found is not None
    assert found.pick_seconds == 3.0
    assert found.tau is None


def test_choices_that_cannot_be_estimated_are_left_out() -> None:
    found = agree(task_of(), latencies({0: 1.0, 1: 2.0, 2: 0.5}), estimator({0: 1.0, 1: 2.0}))
    assert found is not None
    assert (found.choices, found.best_seconds) == (2, 1.0)
    assert agree(task_of(), latencies({0: 1.0}), estimator({})) is None


def test_a_limit_keeps_the_default_and_draws_alike() -> None:
    task = task_of()
    seen: list[list[int]] = []

    def estimate(_: Task, choice: dict[str, int]) -> ChoiceEstimate:
        seen[-1].append(choice["way"])
        return ChoiceEstimate(choice, 1.0 + choice["way"], 0, 0, (0, 0, 0), fine=True)

    for ways in (range(9), reversed(range(9))):
        seen.append([])
        agree(task, latencies(dict.fromkeys(ways, 1.0)), estimate, most=4)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4
    assert seen[0][0] == 0


def test_only_measurements_that_compare_are_counted() -> None:
    task = task_of()
    ways = {way: 1.0 + way for way in range(9)}
    strangers = [
        *records(task, dict.fromkeys(ways, 1e-9), threads=2),
        *records(task, dict.fromkeys(ways, 1e-9), evidence="estimated"),
        *records(task, {0: 1e-9}, cpu="another"),
        measured({"way": 0}, 1e-9, workload=task.key, target="rpi5"),
    ]
    later = records(task, {3: 0.5}, date="2025-02-01T00:00:00Z")
    estimates = estimator({way: 1.0 + way for way in ways})
    found = agreement([task], [*later, *records(task, ways), *strangers], estimates)
    assert found.threads == 1
    assert [(each.choices, each.best_seconds) for each in found.tasks] == [(9, 0.5)]
    with pytest.raises(ValueError, match="no measured record"):
        agreement([task], strangers[:9], estimates, threads=3)


def test_tasks_with_few_choices_are_left_out() -> None:
    task = task_of()
    few = {way: 1.0 + way for way in range(LEAST - 1)}
    found = agreement([task], records(task, few), estimator(dict.fromkeys(few, 1.0)))
    assert (found.tasks, found.left_out) == ((), 1)
    assert any("left out" in note for note in found.notes())
    assert found.all.tau is None


def test_summaries_say_what_acting_on_the_estimates_would_give() -> None:
    task = task_of()
    good = agree(task, latencies({0: 10.0, 1: 5.0}), estimator({0: 2.0, 1: 1.0}))
    slight = agree(task, latencies({0: 10.0, 1: 20.0}), estimator({0: 2.0, 1: 1.99}))
    same = agree(task, latencies({0: 10.0, 1: 20.0}), estimator({0: 2.0, 1: 3.0}))
    assert good is not None
    assert slight is not None
    assert same is not None
    found = Summary.of([good, slight, same], {"faulty": 0.05})
    assert (found.tasks, found.choices, found.acted, found.acted_wins) == (3, 6, 1, 1)
    assert found.acted_to_default == pytest.approx(0.5)
    assert found.to_default == pytest.approx((0.5 * 2 * 1) ** (1 / 3))
    assert (found.wins, found.losses) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.tau == (0.0, 1.0, 1.0)
    # Each of the three calls takes ten seconds with the default.
    assert found.weighted_tau == pytest.approx((1 - 1 + 1) / 3)
    assert Summary.of([good, slight], {"faulty": 0.0}).acted == 2
    assert Summary.of([good, slight], {"another": 0.0}).acted == 0


def test_everything_goes_to_json_and_halves_are_by_key() -> None:
    task = task_of()
    ways = {way: 1.0 + way for way in range(9)}
    found: Agreement = agreement([task], records(task, ways), estimator({way: float(way) + 1 for way in ways}))
    data = json.loads(json.dumps(found.to_json()))
    assert data["tasks"][0]["tau"] == pytest.approx(1.0)
    assert data["families"]["faulty"]["tasks"] == 1
    assert list(data["halves"]) == ["held out" if is_held_out(task.key) else "chosen on"]
    assert is_held_out("conv/1/0f")
    assert not is_held_out("conv/1/f0")
