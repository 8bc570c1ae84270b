"""Whatever is killed in the middle of a run, no record is lost or doubled, and nobody is left behind."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from edgevit.cli.main import run
from edgevit.errors import DeviceError
from edgevit.model import Model
from edgevit.targets import get_target
from edgevit.tuning.building.build import Builder
from edgevit.tuning.measure import Protocol
from edgevit.tuning.places import Places, find_places
from edgevit.tuning.reading import Rejected, read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.run import Plan, open_run
from edgevit.tuning.search import Budget, Summary, Trial, Tuner
from edgevit.tuning.writing import LogWriter
from tests.device.conftest import server_binary as server_binary
from tests.device.processes import marked, own, stock, tracker_knows, wait_until, worker_of
from tests.models import small_proto
from tests.tuning import faulty_family as faulty
from tests.tuning.calm_command import calm, start

HOST = get_target("host")
CALM = Protocol(rounds=3, most_rounds=200, seconds=1e-5, slow_share=1e6, call_seconds=10.0)
LIVES = 20

Board = Callable[[], tuple[subprocess.Popen[bytes], int]]


pytestmark = pytest.mark.usefixtures("mark")


def whole_lines(log: Path) -> bytes:
    """A log up to its last line end."""
    data = log.read_bytes() if log.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def counted(log: Path) -> Counter[tuple[str, Any]]:
    """How many records each choice of each kernel has."""
    found = [entry for entry in read_records(log) if not isinstance(entry, Rejected)] if log.is_file() else []
    assert all(isinstance(record, KernelRecord) for record in found)
    return Counter((record.workload, choice_key(record.choice)) for record in found)  # type: ignore[union-attr]


def test_twenty_kills_lose_and_double_nothing(tmp_path: Path, mark: str) -> None:
    """Each run goes on with the log of the one before, which was killed at an instant that was drawn."""
    onnx.save(small_proto(), tmp_path / "small.onnx")
    log, draw = tmp_path / "logs" / "host" / "records.jsonl", random.Random(0)
    arguments = ("tune", "small.onnx", "--minutes", "20", "--threads", "1", "--batch", "4", "--tuning-log", "logs")
    before, known = b"", Counter[tuple[str, Any]]()
    for life in range(LIVES):
        wanted, pause = draw.randint(0, 6), draw.uniform(0.0, 0.06)
        with start(*arguments, "--workers", str(1 + life % 2), cwd=tmp_path) as process:
            enough = before.count(b"\n") + wanted
            assert wait_until(lambda: whole_lines(log).count(b"\n") >= enough or process.poll() is not None, 120)  # noqa: B023
            time.sleep(pause)
            assert process.poll() is None, process.communicate()
            process.kill()
            process.communicate()
        after, found = whole_lines(log), list(read_records(log)) if log.is_file() else []
        assert after.startswith(before), "a record is lost"
        assert after.count(b"\n") >= enough
        rejected = [entry for entry in found if isinstance(entry, Rejected)]
        # Only the line that was being written has no end; the next writer sets it aside.
        assert all(entry.torn and entry is found[-1] for entry in rejected)
        counts = counted(log)
        assert all(counts[key] == count for key, count in known.items()), "a record is doubled"
        assert max(counts.values(), default=0) <= 2  # what became the best is measured twice
        before, known = after, counts
    assert len(known) >= LIVES
    assert set(log.parent.iterdir()) <= {log, log.with_name("records.rejected.jsonl")}
    assert wait_until(lambda: not marked(mark))


def tuned(
    model: Model, path: Path, places: Places, report: Callable[[Trial], None], **options: Any
) -> tuple[Summary, list[Trial]]:
    """A run of so many trials."""
    trials: list[Trial] = []

    def note(trial: Trial) -> None:
        trials.append(trial)
        report(trial)

    plan = Plan(path, threads=1, budget=Budget(trials=9, rest=0.0), batch=3, protocol=CALM, **options)
    with open_run({"small": model}, HOST, places, plan) as opened:
        opened.tuner.report = note
        summary = opened.tuner.run()
    assert len(list(read_records(path))) == len(trials)
    keys = [(trial.progress.task.key, choice_key(trial.outcome.choice)) for trial in trials if not trial.again]
    assert len(set(keys)) == len(keys) == summary.trials
    return summary, trials


def once(action: Callable[[], None], at: int = 2) -> Callable[[Trial], None]:
    """Do something at a trial."""

    def report(trial: Trial) -> None:
        if trial.number == at and not trial.again and not done:
            done.append(True)
            action()

    done: list[bool] = []
    return report


def test_a_device_whose_process_is_killed_starts_again(small_model: Model, tmp_path: Path, mark: str) -> None:
    places = find_places(HOST, threads=1)
    summary, _ = tuned(small_model, tmp_path / "log.jsonl", places, once(lambda: worker_of(mark).kill()))
    assert (summary.reason, summary.measured, summary.failures) == ("trials", 9, {})


def kill_builders(mark: str) -> None:
    """As the system does when memory runs out."""
    builders = [p for p in marked(mark, containing="build_process") if p.cmdline()[0] != "/bin/sh"]
    assert builders
    for process in builders:
        process.kill()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_builder_that_is_killed_starts_again(small_model: Model, tmp_path: Path, mark: str, workers: int) -> None:
    places = find_places(HOST, threads=1)
    action = once(lambda: kill_builders(mark))
    summary, _ = tuned(small_model, tmp_path / "log.jsonl", places, action, workers=workers)
    assert (summary.reason, summary.trials) == ("trials", 9)
    assert summary.measured + summary.failures.get("build", 0) == 9
    assert summary.measured >= 9 - workers


def test_a_builder_that_is_killed_blames_no_choice(mark: str) -> None:
    with Builder() as builder:
        builder.build(faulty.task(HOST), [{"way": faulty.OTHER_CODE}])
        kill_builders(mark)
        assert builder.build(faulty.task(HOST), [{"way": faulty.WRONG}])[1] == []


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """As a machine that loses its power."""
    for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
        each.kill()


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server_binary: str) -> Iterator[Board]:
    """Starts servers that stand for other machines: what lies in their folder is not ours to remove."""
    (tmp_path / "board").mkdir()
    with ExitStack() as stack:

        def begin() -> tuple[subprocess.Popen[bytes], int]:
            with monkeypatch.context() as there:
                there.setenv("TMPDIR", str(tmp_path / "board"))
                return stack.enter_context(own(server_binary))

        yield begin


def test_a_tracker_that_goes_is_not_missed(small_model: Model, tmp_path: Path, server_binary: str) -> None:
    """Who has a device keeps it."""
    with ExitStack() as stack:
        tracker, port = stack.enter_context(stock("rpc_tracker"))
        offer = ("--tracker", f"127.0.0.1:{port}", "--key", "board", "--custom-addr", "127.0.0.1")
        stack.enter_context(own(server_binary, *offer))
        assert wait_until(lambda: tracker_knows(port, "board"), 60)
        places = find_places(HOST, tracker=f"127.0.0.1:{port}", key="board")
        summary, _ = tuned(small_model, tmp_path / "log.jsonl", places, once(lambda: kill_all(tracker)))
    assert (summary.reason, summary.measured) == ("trials", 9)


def test_one_of_two_devices_that_goes_leaves_its_work_to_the_other(
    small_model: Model, tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Tuner.__init__.__kwdefaults__, "patience", 0.5)
    (first, one), (_, two) = board(), board()
    places = find_places(HOST, rpc=[f"127.0.0.1:{one}", f"127.0.0.1:{two}"])
    summary, _ = tuned(small_model, tmp_path / "log.jsonl", places, once(lambda: kill_all(first)))
    assert (summary.reason, summary.measured, summary.failures) == ("trials", 9, {})


def test_the_only_device_that_goes_ends_the_run(
    small_model: Model, tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Tuner.__init__.__kwdefaults__, "patience", 0.5)
    path = tmp_path / "log.jsonl"
    server, port = board()
    places = find_places(HOST, rpc=[f"127.0.0.1:{port}"])
    with pytest.raises(DeviceError) as caught:
        tuned(small_model, path, places, once(lambda: kill_all(server)))
    assert caught.value.where == f"127.0.0.1:{port}"
    assert caught.value.advice
    known = counted(path)
    assert sum(known.values()) >= 2
    # Another device like it goes on.
    plan = Plan(path, threads=1, budget=Budget(trials=2, rest=0.0), batch=2, protocol=CALM)
    with open_run({"small": small_model}, HOST, find_places(HOST, rpc=[f"127.0.0.1:{board()[1]}"]), plan) as again:
        assert again.tuner.run().reason == "trials"
    assert all(counted(path)[key] == count for key, count in known.items())
    assert len(counted(path)) == len(known) + 2


def test_a_full_disk_ends_the_command_and_leaves_the_log_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    onnx.save(small_proto(), tmp_path / "small.onnx")
    calm(monkeypatch.setattr)
    write, before, written = os.write, signal.getsignal(signal.SIGTERM), list[bytes]()

    def limited(descriptor: int, data: bytes) -> int:
        if b'"workload":' not in data:  # no record
            return write(descriptor, data)
        written.append(data)
        if len(written) == 5:
            return write(descriptor, data[: len(data) // 2])
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    arguments = ["tune", str(tmp_path / "small.onnx"), "--threads", "1", "--tuning-log", str(tmp_path / "logs")]
    monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
    with monkeypatch.context() as full:
        full.setattr(os, "write", limited)
        with pytest.raises(SystemExit) as ended:
            run()
    signal.signal(signal.SIGTERM, before)
    said = " ".join(capfd.readouterr().err.split())
    assert ended.value.code == 3, said
    assert "the disk is full" in said
    assert "Make room" in said
    log = tmp_path / "logs" / "host" / "records.jsonl"
    assert whole_lines(log) == log.read_bytes()
    assert sum(counted(log).values()) == 4
    with LogWriter(log) as writer:
        assert writer.set_aside == []
