"""Which record decides, by the rules of docs/tuning.md."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.errors import UserError
from edgevit.target_schema import Target
from edgevit.targets import get_target, list_targets
from edgevit.tuning.layers import Layer, user_log
from edgevit.tuning.record import Record, TargetFacts
from edgevit.tuning.records import TuningLog, load_tuning_log
from edgevit.tuning.relatives import Nearness, nearness, relatives
from tests.tuning.making import KEY, failed, measured

RPI4 = get_target("rpi4")


def log(*records: Record, target: Target = RPI4, layer: Layer = Layer.USER, **options: object) -> TuningLog:
    return TuningLog([(layer, record) for record in records], target, **options)  # type: ignore[arg-type]


def test_without_records_there_is_no_choice() -> None:
    assert TuningLog().best(KEY) is None
    assert len(TuningLog()) == 0
    assert log(measured()).best("conv/1/ffff") is None


def test_the_lowest_median_wins() -> None:
    found = log(measured({"rows": 1}, 3e-3), measured({"rows": 2}, 1e-3), measured({"rows": 3}, 2e-3))
    assert found.best(KEY) == {"rows": 2}
    assert len(found) == 1


def test_measured_beats_borrowed_beats_estimated() -> None:
    own = measured({"rows": 1}, 9.0)
    lent = measured({"rows": 2}, 5.0, target="rpi5")
    guess = measured({"rows": 3}, 1.0, evidence="estimated")
    for records, choice, evidence in (
        ((guess, lent, own), 1, "measured"),
        ((guess, lent), 2, "borrowed"),
        ((guess,), 3, "estimated"),
        ((measured({"rows": 4}, evidence="borrowed"), guess), 4, "borrowed"),
    ):
        pick = log(*records).find(KEY)
        assert pick is not None
        assert (pick.choice["rows"], pick.evidence) == (choice, evidence)


def test_what_a_relative_estimated_or_borrowed_is_not_lent() -> None:
    assert log(measured(evidence="estimated", target="rpi5")).best(KEY) is None
    assert log(measured(evidence="borrowed", target="rpi5")).best(KEY) is None


def test_other_architectures_lend_nothing() -> None:
    assert log(measured(target="x86-64-v3")).best(KEY) is None
    assert log(measured(target="armv7-linux")).best(KEY) is None


def test_the_nearest_relative_lends() -> None:
    near, far = measured({"rows": 1}, 9.0, target="rpi3"), measured({"rows": 2}, 1.0, target="graviton3")
    assert log(near, far).best(KEY) == {"rows": 1}


def test_the_nearest_device_counts_and_latencies_of_devices_are_not_compared() -> None:
    slow = measured({"rows": 1}, 9.0, cpu="Cortex-A72 at 600 MHz")
    fast = measured({"rows": 2}, 1.0, cpu="Cortex-A72 at 2 GHz")
    assert log(slow, fast, device="Cortex-A72 at 600 MHz").best(KEY) == {"rows": 1}
    assert log(slow, fast, device="Cortex-A72 at 2 GHz").best(KEY) == {"rows": 2}
    # Where the device is not known, the user's own measurements count more than shipped ones.
    layers = [(Layer.SHIPPED, fast), (Layer.USER, slow)]
    pick = TuningLog(layers, RPI4).find(KEY)
    assert pick is not None
    assert (pick.choice, pick.layer) == ({"rows": 1}, Layer.USER)


def test_the_nearest_number_of_threads_counts() -> None:
    one = measured({"rows": 1}, 1.0, threads=1)
    four = measured({"rows": 4}, 2.0, threads=4)
    assert RPI4.cores == 4
    assert log(one, four).best(KEY) == {"rows": 4}
    assert log(one, four, threads=1).best(KEY) == {"rows": 1}
    assert log(one, four, threads=3).best(KEY) == {"rows": 4}
    # As far from either: the larger.
    assert log(one, four, threads=2).best(KEY) == {"rows": 4}
    assert log(one).best(KEY) == {"rows": 1}


def test_a_choice_that_was_measured_again_has_its_latest_latency() -> None:
    lucky = measured({"rows": 1}, 1.0, date="2025-01-01T00:00:00Z")
    again = measured({"rows": 1}, 3.0, date="2025-01-02T00:00:00Z")
    other = measured({"rows": 2}, 2.0)
    for records in ((lucky, again, other), (again, other, lucky)):
        assert log(*records).best(KEY) == {"rows": 2}


def test_a_failure_vetoes_the_choice() -> None:
    fast, slow = measured({"rows": 1}, 1.0), measured({"rows": 2}, 2.0)
    assert log(fast, slow, failed({"rows": 1})).best(KEY) == {"rows": 2}
    assert log(fast, failed({"rows": 1})).best(KEY) is None
    # Of a relative: what failed there is not borrowed from there; what is known to work here stays.
    lent = measured({"rows": 3}, 1.0, target="rpi5")
    assert log(lent, failed({"rows": 3}, target="rpi5")).best(KEY) is None
    assert log(lent, failed({"rows": 3})).best(KEY) is None
    assert log(fast, failed({"rows": 1}, target="rpi5")).best(KEY) == {"rows": 1}
    # Of another workload.
    assert log(fast, failed({"rows": 1}, workload="conv/1/ffff")).best(KEY) == {"rows": 1}


def test_stale_records_are_counted_and_not_used() -> None:
    stale = measured(workload="conv/1/0123456789abcdef")
    current = measured({"rows": 2}, workload="conv/2/0123456789abcdef")
    unknown = measured(workload="gone/1/0123456789abcdef")
    found = log(stale, current, unknown, versions={"conv": 2})
    assert found.stale == 2
    assert len(found) == 1
    assert found.best("conv/1/0123456789abcdef") is None
    assert found.best("conv/2/0123456789abcdef") == {"rows": 2}


def test_a_choice_that_cannot_be_used_gives_way_to_the_next() -> None:
    found = log(measured({"rows": 1}, 1.0), measured({"rows": 2}, 2.0))
    pick = found.find(KEY, lambda choice, _: choice["rows"] > 1)
    assert pick is not None
    assert pick.choice == {"rows": 2}
    assert found.find(KEY, lambda _choice, _threads: False) is None


def test_the_later_of_two_measurements_counts_to_the_millisecond() -> None:
    second = "2025-01-31T12:00:00"
    for earlier, later in ((f"{second}Z", f"{second}.250Z"), (f"{second}.250Z", f"{second}.251Z")):
        lucky = measured({"rows": 1}, 1.0, date=earlier)
        again = measured({"rows": 1}, 3.0, date=later)
        other = measured({"rows": 2}, 2.0, date=f"{second}Z")
        assert log(again, lucky, other).best(KEY) == {"rows": 2}
        assert log(lucky.model_copy(update={"date": later}), again.model_copy(update={"date": earlier}), other).best(
            KEY
        ) == {"rows": 1}


def test_what_was_tried_need_not_be_tried_again() -> None:
    found = log(
        measured({"rows": 1}),
        measured({"rows": 2}, threads=4),
        measured({"rows": 3}, target="rpi5"),
        measured({"rows": 4}, evidence="estimated"),
        measured({"rows": 5}, cpu="another"),
        failed({"rows": 6}),
        failed({"rows": 7}, target="rpi5"),
    )
    assert found.tried(KEY, 1) == {(("rows", 1),), (("rows", 5),), (("rows", 6),)}
    assert found.tried(KEY, 1, "another (4 cores, linux)") == {(("rows", 5),), (("rows", 6),)}
    assert found.tried(KEY, 4) == {(("rows", 2),), (("rows", 6),)}


def test_the_order_of_records_does_not_matter() -> None:
    records = [
        measured({"rows": rows}, seconds, threads=threads, cpu=cpu)
        for rows, seconds, threads, cpu in ((1, 1.0, 1, "a"), (2, 1.0, 1, "b"), (3, 1.0, 4, "a"), (4, 1.0, 4, "b"))
    ]
    assert log(*records).best(KEY) == log(*reversed(records)).best(KEY)


def test_a_target_of_ones_own_with_the_same_processor_has_the_records(tmp_path: Path) -> None:
    (tmp_path / "my-board.toml").write_text('base = "rpi4"\nname = "my-board"\ncores = 2\n')
    mine = get_target(tmp_path / "my-board.toml")
    pick = log(measured(), target=mine).find(KEY)
    assert pick is not None
    assert pick.evidence == "measured"


def test_nearness_is_symmetric_and_in_the_documented_order() -> None:
    facts = {target.name: TargetFacts.of(target) for target in list_targets()}
    for one in facts.values():
        for other in facts.values():
            assert nearness(one, other) == nearness(other, one)
        assert nearness(one, one) == Nearness.SAME
    base = TargetFacts.of(RPI4)
    hidden = base.model_copy(update={"features": ()})
    twin = base.model_copy(update={"cpu": "cortex-a57"})
    newer = twin.model_copy(update={"features": (*base.features, "sve")})
    wider = newer.model_copy(update={"vector_bits": 256})
    order = [nearness(base, other) for other in (base, hidden, twin, newer)]
    assert order == list(Nearness)
    assert nearness(base, wider) is None
    assert nearness(facts["x86-64-v3"], facts["rpi4"]) is None


def test_relatives_are_listed_nearest_first() -> None:
    names = [target.name for target in relatives(RPI4)]
    assert names[:2] == ["arm64-linux", "rpi3"]
    assert "rpi4" not in names
    assert not {"armv7-linux", "x86-64-v3", "host"} & set(names)
    assert names == [target.name for target in relatives(RPI4, reversed(list_targets()[1:]))]
    # Other vector registers want other tiles.
    assert relatives(get_target("x86-64-v4")) == []


def test_layers_are_read_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_TUNING_DIR", str(tmp_path / "own"))
    assert load_tuning_log(RPI4).best(KEY) is None
    path = user_log("rpi4")
    assert path == tmp_path / "own" / "rpi4" / "records.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(measured({"rows": 1}, 2.0).line() + b"nonsense\n")
    path.with_name("records.rejected.jsonl").write_bytes(measured({"rows": 9}, 0.1).line())
    given = tmp_path / "given"
    (given / "rpi5").mkdir(parents=True)
    (given / "rpi5" / "a.jsonl").write_bytes(measured({"rows": 2}, 1.0, target="rpi5").line())
    (given / "b.jsonl").write_bytes(measured({"rows": 3}, 1.0, workload="pool/1/00").line())
    found = load_tuning_log(RPI4, given)
    assert found.best(KEY) == {"rows": 1}
    picks = [found.find(key) for key in (KEY, "pool/1/00")]
    assert [(pick.layer, pick.evidence) for pick in picks if pick] == [
        (Layer.USER, "measured"),
        (Layer.GIVEN, "measured"),
    ]
    assert [str(line) for line in found.rejected] == [f"{path}:2: not JSON: Expecting value"]
    pick = load_tuning_log(get_target("graviton2"), given).find(KEY)
    assert pick is not None
    assert pick.evidence == "borrowed"


def test_a_folder_that_does_not_exist_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such tuning log folder"):
        load_tuning_log(RPI4, tmp_path / "nowhere")
