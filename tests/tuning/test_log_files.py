"""Logs survive kills, full disks, other writers and whatever was written into them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.errors import EnvironmentFailure, UserError
from edgevit.tuning.reading import Rejected, read_lines, read_records
from edgevit.tuning.record import MAX_LINE, Record, TvmRecord
from edgevit.tuning.writing import LogWriter, rejected_path
from tests.tuning.making import failed, measured

HERE = Path(__file__).resolve().parent


def records(log: Path) -> list[Record]:
    found = list(read_records(log))
    assert not [entry for entry in found if isinstance(entry, Rejected)]
    return found  # type: ignore[return-value]


def set_aside(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in rejected_path(log).read_text(encoding="utf-8").splitlines()]


def test_records_are_there_at_once_and_in_order(tmp_path: Path) -> None:
    log = tmp_path / "rpi4" / "records.jsonl"
    written = [measured({"rows": rows}) for rows in range(1, 6)]
    with LogWriter(log) as writer:
        for count, record in enumerate(written, start=1):
            writer.append(record)
            assert records(log) == written[:count]
    with LogWriter(log) as writer:
        writer.append(failed())
    assert records(log) == [*written, failed()]
    assert not rejected_path(log).exists()


@pytest.mark.parametrize("cut", [1, 20, 300])
def test_a_torn_line_is_set_aside_and_never_glued_to_the_next(tmp_path: Path, cut: int) -> None:
    log = tmp_path / "records.jsonl"
    torn = measured({"rows": 2}).line()[:cut]
    log.write_bytes(measured({"rows": 1}).line() + torn)
    with LogWriter(log) as writer:
        assert [line.why for line in writer.set_aside] == ["the line has no end"]
        # Another writer is killed while this one is open.
        log.write_bytes(log.read_bytes() + torn)
        writer.append(measured({"rows": 3}))
    assert [record.choice["rows"] for record in records(log)] == [1, 3]
    assert [entry["text"] for entry in set_aside(log)] == [torn.decode()] * 2


def test_a_record_that_only_lacks_its_end_of_line_is_kept(tmp_path: Path) -> None:
    """As editors leave it."""
    log = tmp_path / "records.jsonl"
    log.write_bytes(measured({"rows": 1}).line().rstrip())
    with LogWriter(log) as writer:
        writer.append(measured({"rows": 2}))
    assert [record.choice["rows"] for record in records(log)] == [1, 2]


def test_what_is_no_record_is_set_aside_when_writing_and_only_reported_when_reading(tmp_path: Path) -> None:
    log = tmp_path / "records.jsonl"
    newer = b'{"format": 3}\n'
    log.write_bytes(measured().line() + b"<<<<<<< HEAD\n\n" + newer + b'{"format":2}\n' + failed().line())
    before = log.read_bytes()
    found = list(read_records(log))
    assert [str(entry) for entry in found if isinstance(entry, Rejected)] == [
        f"{log}:2: not JSON: Expecting value",
        f"{log}:4: format 3 is of a later version of edgevit",
        f"{log}:5: Unable to extract tag using discriminator 'kind'",
    ]
    assert log.read_bytes() == before
    assert not rejected_path(log).exists()
    with LogWriter(log) as writer:
        assert [line.line for line in writer.set_aside] == [2, 5]
    # The record of a later version stays for that version.
    assert log.read_bytes() == measured().line() + newer + failed().line()
    assert [(entry["line"], entry["text"]) for entry in set_aside(log)] == [
        (2, "<<<<<<< HEAD\n"),
        (5, '{"format":2}\n'),
    ]


def test_a_line_of_100_megabytes_takes_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    log = tmp_path / "records.jsonl"
    with log.open("wb") as stream:
        stream.write(measured().line())
        for _ in range(100):
            stream.write(b"[" * (1 << 20))
        stream.write(b"\n" + failed().line())
    tracemalloc.start()
    sizes = [(line.size, isinstance(line.found, Rejected)) for line in read_lines(log)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [rejected for _, rejected in sizes] == [False, True, False]
    assert sizes[1][0] == (100 << 20) + 1
    assert peak < 5 * MAX_LINE
    with LogWriter(log):
        pass
    assert len(records(log)) == 2
    assert set_aside(log)[0]["bytes"] == (100 << 20) + 1
    assert rejected_path(log).stat().st_size < 10_000


def test_a_long_tail_without_end_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "records.jsonl"
    log.write_bytes(measured().line() + b"x" * (MAX_LINE + 100_000))
    with LogWriter(log) as writer:
        writer.append(failed())
    assert records(log) == [measured(), failed()]


def test_a_log_that_was_replaced_gets_the_next_record(tmp_path: Path) -> None:
    """``prune`` in another process, or git, renames another file into place."""
    log = tmp_path / "records.jsonl"
    with LogWriter(log) as first, LogWriter(log) as second:
        first.append(measured({"rows": 1}))
        second.replace(lambda lines: [line.raw for line in lines][1:])
        first.append(measured({"rows": 2}))
        log.unlink()
        second.append(measured({"rows": 3}))
        first.append(measured({"rows": 4}))
    assert [record.choice["rows"] for record in records(log)] == [3, 4]


def test_a_full_disk_leaves_the_log_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "records.jsonl"
    write = os.write

    def half_a_line(descriptor: int, data: bytes) -> int:
        return write(descriptor, data[: len(data) // 2])

    def nothing(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with LogWriter(log) as writer:
        writer.append(measured())
        for full in (half_a_line, nothing):
            monkeypatch.setattr(os, "write", full)
            with pytest.raises(EnvironmentFailure, match="disk is full") as caught:
                writer.append(failed())
            assert caught.value.where == str(log)
            assert "Make room" in str(caught.value.advice)
            monkeypatch.setattr(os, "write", write)
            assert records(log) == [measured()]
        writer.append(failed())
    assert records(log) == [measured(), failed()]


def test_a_limit_on_the_file_is_as_a_full_disk(tmp_path: Path) -> None:
    """The system itself cuts the write short."""
    log = tmp_path / "records.jsonl"
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from edgevit.errors import EnvironmentFailure\n"
        "from edgevit.tuning.writing import LogWriter\n"
        "from tests.tuning.making import measured\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "with LogWriter(Path(sys.argv[1])) as writer:\n"
        "    try:\n"
        "        for rows in range(100):\n"
        "            writer.append(measured({'rows': rows}))\n"
        "    except EnvironmentFailure as error:\n"
        "        print(rows, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(log)], cwd=HERE.parents[1], capture_output=True, text=True, check=True
    )
    assert "the disk is full" in done.stdout
    assert len(records(log)) == int(done.stdout.split()[0]) > 2


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_log_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="cannot write the tuning log") as caught:
        LogWriter(tmp_path / "records.jsonl")
    assert "EDGEVIT_TUNING_DIR" in str(caught.value.advice)


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "rpi4").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        LogWriter(tmp_path / "rpi4" / "records.jsonl")


def _run(script: str, log: Path) -> dict[str, list[list[int]]]:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.tuning.{script}", str(log)],
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[list[int]]] = json.loads(done.stdout)
    return result


def test_twenty_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    log = tmp_path / "records.jsonl"
    acknowledged = [tuple(entry) for entry in _run("killed_writers", log)["acknowledged"]]
    found = list(read_records(log))
    rejected = [entry for entry in found if isinstance(entry, Rejected)]
    # Only the last one can have left a torn line: those before were set aside by the writer after them.
    assert len(rejected) <= 1
    assert all(entry.torn and entry.line == len(found) for entry in rejected)
    present = [tuple(record.trace) for record in found if isinstance(record, TvmRecord)]
    assert len(present) == len(set(present)), "a record is doubled"
    assert set(acknowledged) <= set(present), "an acknowledged record is lost"
    assert len({life for life, _ in acknowledged}) == 20
    # At most the trial in flight of each life had no acknowledgement.
    assert len(present) - len(acknowledged) <= 20
    with LogWriter(log) as writer:
        writer.append(measured())
    assert len(records(log)) == len(present) + 1


def test_two_writers_and_a_pruner_at_once(tmp_path: Path) -> None:
    log = tmp_path / "records.jsonl"
    replaced = _run("rival_writers", log)["replaced"]
    found = sorted((r.choice["life"], r.choice["trial"]) for r in records(log))  # type: ignore[union-attr]
    assert found == [(life, trial) for life in range(2) for trial in range(200)]
    assert replaced
    assert not rejected_path(log).exists()
