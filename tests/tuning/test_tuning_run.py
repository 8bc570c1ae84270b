"""From a model to records that its next compilation uses, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.model import Model
from edgevit.targets import get_target
from edgevit.tuning.measure import Correct, Measurer, Protocol
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.search import Budget, Trial, Tuner, read_known
from edgevit.tuning.tasks import extract_tasks
from edgevit.tuning.writing import LogWriter
from tests.device.processes import MARK, marked, wait_until

CALM = Protocol(rounds=3, most_rounds=200, seconds=1e-4, slow_share=1e6)
"""Every round is calm: tests run beside others."""


def test_what_is_tuned_is_used(small_model: Model, tmp_path: Path) -> None:
    target = get_target("host")
    tasks = extract_tasks({"small": small_model}, target)
    path = tmp_path / "logs" / "host" / "records.jsonl"
    told: list[Trial] = []
    for _ in range(2):
        with Measurer(connect, threads=target.cores, protocol=CALM) as measurer, LogWriter(path) as log:
            known = read_known(target, path)
            budget = Budget(trials=12, rest=0.0)
            tuner = Tuner(tasks, measurer, log, known, budget=budget, batch=6, report=told.append, provenance="a test")
            summary = tuner.run()
        assert summary.measured > 0
        assert 0 < summary.after["small"] <= summary.before["small"]
    found = list(read_records(path))
    assert len(found) == len(told)
    tried = [(record.workload, choice_key(record.choice)) for record in found if isinstance(record, KernelRecord)]
    assert len(set(tried)) == len([trial for trial in told if not trial.again])
    assert {record.device.kind for record in found if isinstance(record, KernelRecord) and record.device} == {"process"}
    # What was measured may have any order here; but it is what the compiler takes, and it computes the right thing.
    artifact = compile_model(small_model, target, tuning_log=path.parent)
    tuned = {kernel.workload for kernel in artifact.resolution.program if kernel.tuned}
    assert tuned == {workload for workload, _ in tried}
    assert artifact.resolution.check.status == "passed"


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_the_same_way_under_an_emulator_without_latencies(small_model: Model, tmp_path: Path) -> None:
    target, path = get_target("arm64-linux"), tmp_path / "records.jsonl"
    tasks = [task for task in extract_tasks({"small": small_model}, target) if task.family.NAME == "conv"]
    told: list[Trial] = []
    with Measurer(lambda: connect(emulate=target), threads=1) as measurer, LogWriter(path) as log:
        tuner = Tuner(tasks, measurer, log, budget=Budget(trials=6, rest=0.0), batch=3, report=told.append)
        summary = tuner.run()
    assert (summary.trials, summary.measured, summary.failures) == (6, 0, {})
    assert {type(trial.outcome) for trial in told} == {Correct}
    assert list(read_records(path)) == []


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from edgevit.device.connect import connect
from edgevit.model import from_proto
from edgevit.targets import get_target
from edgevit.tuning.measure import Measurer, Protocol
from edgevit.tuning.search import Budget, Tuner, read_known
from edgevit.tuning.tasks import extract_tasks
from edgevit.tuning.writing import LogWriter
from tests.models import small_proto

target, path = get_target("host"), Path({path!r})
tasks = extract_tasks({{"small": from_proto(small_proto())}}, target)
protocol = Protocol(rounds=3, most_rounds=200, seconds=1e-4, slow_share=1e6)
with Measurer(connect, threads=1, protocol=protocol) as measurer, LogWriter(path) as log:
    known, budget = read_known(target, path), Budget(rest=0.0)
    report = lambda trial: print(trial.number, flush=True)
    Tuner(tasks, measurer, log, known, budget=budget, batch=3, report=report).run()
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_ended_at_any_time_it_leaves_records_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: signal.Signals
) -> None:
    mark, path = uuid.uuid4().hex, tmp_path / "records.jsonl"
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv(MARK, mark)
    monkeypatch.setenv("TMPDIR", str(temporary))
    program = PROGRAM.format(root=str(Path(__file__).parents[2]), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(7)]
    os.kill(process.pid, end)
    process.wait(timeout=60)
    process.stdout.close()
    assert int(told[-1]) >= 4
    found = list(read_records(path))
    assert len(found) >= len(told)
    assert all(isinstance(record, KernelRecord) for record in found)
    assert wait_until(lambda: not marked(mark) and not list(temporary.glob("edgevit*")))
