"""Logs are counted, exported, merged and pruned without losing what decides."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit.errors import UserError
from edgevit.targets import get_target
from edgevit.tuning.maintenance import export, merge, prune, status
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import FailureRecord, KernelRecord, Record
from edgevit.tuning.writing import rejected_path
from tests.tuning.making import failed, measured

STALE = "conv/99/0123456789abcdef"


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own folder, empty."""
    folder = tmp_path / "own"
    folder.mkdir()
    monkeypatch.setenv("EDGEVIT_TUNING_DIR", str(folder))
    return folder


def write(path: Path, *records: Record | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(record if isinstance(record, bytes) else record.line() for record in records))
    return path


def rows(log: Path) -> list[int]:
    found = [entry for entry in read_records(log) if isinstance(entry, KernelRecord | FailureRecord)]
    return [record.choice["rows"] for record in found if "rows" in record.choice]


def test_status_counts_by_layer_and_target(own: Path, tmp_path: Path) -> None:
    write(own / "rpi4" / "a.jsonl", measured({"rows": 1}), measured({"rows": 2}, evidence="estimated"), b"?\n")
    write(own / "rpi5" / "a.jsonl", failed(target="rpi5"), measured(target="rpi5", workload=STALE))
    given = write(tmp_path / "given" / "a.jsonl", measured(workload="pool/1/00", date="2026-01-01T00:00:00Z")).parent
    found = status(folder=given)
    listed = [(h.layer.label, h.target, dict(h.counts), len(h.workloads), h.newest[:4]) for h in found.holdings]
    shipped = [entry for entry in listed if entry[0] == "shipped"]
    assert [entry for entry in listed if entry not in shipped] == [
        ("--tuning-log", "rpi4", {"measured": 1}, 1, "2026"),
        ("user", "rpi4", {"measured": 1, "estimated": 1}, 1, "2025"),
        ("user", "rpi5", {"failure": 1}, 1, "2025"),
    ]
    assert found.stale == 1
    assert len(found.rejected) == 1
    alone = status(get_target("rpi5"), given)
    assert {held.target for held in alone.holdings if held.layer.label != "shipped"} == {"rpi5"}


def test_export_is_one_log_without_doubles_in_one_order(own: Path, tmp_path: Path) -> None:
    first, second = measured({"rows": 1}), measured({"rows": 2}, target="rpi5")
    write(own / "rpi4" / "a.jsonl", second, first, first)
    write(own / "b.jsonl", first)
    everything = tmp_path / "everything.jsonl"
    export(everything)
    assert {1, 2} <= set(rows(everything))
    assert len(everything.read_bytes().splitlines()) == len(set(everything.read_bytes().splitlines()))
    assert export(tmp_path / "rpi5.jsonl", get_target("rpi5")) >= 1
    assert 1 not in rows(tmp_path / "rpi5.jsonl")
    again = tmp_path / "again.jsonl"
    export(again)
    assert again.read_bytes() == everything.read_bytes()


def test_merge_adds_each_record_once_oldest_first(tmp_path: Path) -> None:
    old, new = measured({"rows": 1}, date="2025-01-01T00:00:00Z"), measured({"rows": 2}, date="2025-01-02T00:00:00Z")
    known = measured({"rows": 3})
    one = write(tmp_path / "one.jsonl", new, known)
    two = write(tmp_path / "two" / "a.jsonl", old, new, b"?\n").parent
    output = write(tmp_path / "output.jsonl", known)
    done = merge([one, two, output], output)
    assert (done.added, done.known, len(done.rejected)) == (2, 2, 1)
    assert rows(output) == [3, 1, 2]
    assert merge([one, two], output).added == 0
    assert merge([output], tmp_path / "new" / "log.jsonl").added == 3
    with pytest.raises(UserError, match="no such tuning log"):
        merge([tmp_path / "nowhere.jsonl"], output)


def test_prune_drops_what_decides_nothing(tmp_path: Path) -> None:
    lucky = measured({"rows": 6}, 1e-9, date="2024-01-01T00:00:00Z")
    newer = b'{"format": 3}\n'
    log = write(
        tmp_path / "log.jsonl",
        measured({"rows": 1}, 1.0),
        measured({"rows": 2}, 2.0),
        newer,
        measured({"rows": 2}, 2.0),
        measured({"rows": 3}, 3.0),
        measured({"rows": 4}, 4.0),
        measured({"rows": 5}, 0.5),
        failed({"rows": 5}),
        failed({"rows": 5}, date="2026-01-01T00:00:00Z"),
        lucky,
        measured({"rows": 6}, 2.5),
        measured({"rows": 7}, evidence="estimated"),
        measured({"rows": 8}, threads=4),
        measured({"rows": 9}, workload=STALE),
        b"nonsense\n",
    )
    (done,) = prune([log], keep=3)
    assert dict(done.dropped) == {
        "double": 2,
        "failed since": 1,
        "measured again": 1,
        "measured since": 1,
        "slower": 2,
        "stale": 1,
    }
    assert rows(log) == [1, 2, 5, 6, 8]
    assert done.kept == len(log.read_bytes().splitlines()) == 6
    assert newer in log.read_bytes()
    assert len(done.set_aside) == 1
    assert "nonsense" in rejected_path(log).read_text(encoding="utf-8")
    before = log.read_bytes()
    (again,) = prune([log], keep=3)
    assert not again.dropped
    assert log.read_bytes() == before


def test_prune_of_one_target_leaves_the_others(tmp_path: Path) -> None:
    log = write(
        tmp_path / "log.jsonl", *[measured({"rows": r}, float(r), target=t) for r in (1, 2) for t in ("rpi4", "rpi5")]
    )
    list(prune([tmp_path], keep=1, target=get_target("rpi4")))
    assert rows(log) == [1, 1, 2]


def test_pruning_does_not_change_what_is_chosen(tmp_path: Path) -> None:
    import random

    from edgevit.tuning.layers import Layer
    from edgevit.tuning.records import TuningLog

    draw = random.Random(0)
    target = get_target("rpi4")
    keys = ["conv/1/00", "pool/1/01", "conv/1/02"]
    records: list[Record] = []
    for _ in range(300):
        key, choice = draw.choice(keys), {"rows": draw.randint(1, 12)}
        date = f"2025-01-{draw.randint(1, 28):02}T00:00:00Z"
        if draw.random() < 0.02:
            records.append(failed(choice, workload=key, date=date))
        else:
            evidence = draw.choice(["measured", "measured", "estimated"])
            cpu, name = draw.choice(["a", "b"]), draw.choice(["rpi4", "rpi5"])
            seconds = draw.uniform(1e-4, 1e-3)
            record = measured(
                choice, seconds, workload=key, date=date, evidence=evidence, cpu=cpu, target=name,
                threads=draw.choice([1, 4]),
            )  # fmt: skip
            records.append(record)
    log = write(tmp_path / "log.jsonl", *records)
    before = TuningLog(((Layer.USER, record) for record in records), target)
    list(prune([log], keep=1))
    left = [entry for entry in read_records(log) if isinstance(entry, Record)]
    assert len(left) < 100
    after = TuningLog(((Layer.USER, record) for record in left), target)
    for key in keys:
        one, other = before.find(key), after.find(key)
        assert one is not None
        assert other is not None
        assert one.evidence == other.evidence == "measured"
        assert one.record == other.record


def test_commands_say_the_same_in_json(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from edgevit.cli.main import app

    def run(*arguments: str) -> dict[str, object]:
        done = CliRunner().invoke(app, ["records", *arguments, "--json"])
        assert done.exit_code == 0, done.output
        answer: dict[str, object] = json.loads(done.stdout)
        return answer

    log = write(own / "rpi4" / "records.jsonl", measured({"rows": 1}), failed({"rows": 2}), b"?\n")
    counted = run("status", "--target", "rpi4")
    assert counted["user_folder"] == str(own)
    assert counted["rejected"] == [f"{log}:3: not JSON: Expecting value"]
    assert {
        "counts": {"failure": 1, "measured": 1},
        "devices": ["Cortex-A72"],
        "layer": "user",
        "target": "rpi4",
    }.items() <= counted["holdings"][0].items()  # type: ignore[index]
    exported = tmp_path / "all.jsonl"
    assert run("export", str(exported), "--target", "rpi4") == {"file": str(exported), "records": 2}
    merged = run("merge", str(exported), "--output", str(tmp_path / "m.jsonl"))
    assert merged == {"added": 2, "file": str(tmp_path / "m.jsonl"), "known": 0, "rejected": []}
    pruned = run("prune")["logs"]
    assert pruned == [
        {"dropped": {}, "file": str(log), "kept": 2, "set_aside": [f"{log}:3: not JSON: Expecting value"]}
    ]
    for arguments in (["status"], ["prune"], ["status", "--target", "rpi4"]):
        assert CliRunner().invoke(app, ["records", *arguments]).exit_code == 0


def test_a_logs_name_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgevit.cli.records import merge_command

    log = tmp_path / "\x1b[2J.jsonl"
    log.write_text("no record\n")
    merge_command([log], tmp_path / "merged.jsonl")
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert r"\x1b[2J.jsonl:1: not JSON" in shown.replace("\n", "")
