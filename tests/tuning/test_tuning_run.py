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
from edgevit.model import Model
from edgevit.targets import get_target
from edgevit.tuning.measure import Correct, Protocol
from edgevit.tuning.places import find_places
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.run import Plan, log_for, open_run
from edgevit.tuning.search import Budget, Trial
from tests.device.processes import MARK, marked, wait_until

CALM = Protocol(rounds=3, most_rounds=200, seconds=1e-4, slow_share=1e6)
"""Every round is calm: tests run beside others."""


def test_what_is_tuned_is_used(small_model: Model, tmp_path: Path) -> None:
    target = get_target("host")
    path = log_for(target, tmp_path / "logs")
    told: list[Trial] = []
    for _ in range(2):
        plan = Plan(path, budget=Budget(trials=12, rest=0.0), batch=6, provenance="a test", protocol=CALM)
        with open_run({"small": small_model}, target, find_places(target), plan) as run:
            run.tuner.report = told.append
            summary = run.tuner.run()
        assert summary.measured > 0
        assert 0 < summary.after["small"] <= summary.before["small"]
        assert run.peaks is not None
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


def test_measuring_anew_keeps_what_was_measured(small_model: Model, tmp_path: Path) -> None:
    target, path = get_target("host"), tmp_path / "records.jsonl"
    choices = []
    for resume in (True, False):
        plan = Plan(path, threads=1, budget=Budget(trials=3, rest=0.0), batch=3, resume=resume, protocol=CALM)
        with open_run({"small": small_model}, target, find_places(target, threads=1), plan) as run:
            run.tuner.run()
        choices.append({(record.workload, choice_key(record.choice)) for record in read_records(path)})  # type: ignore[union-attr]
    assert choices[0] == choices[1]
    assert len(list(read_records(path))) >= 2 * len(choices[0])


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_the_same_way_under_an_emulator_without_latencies(small_model: Model, tmp_path: Path) -> None:
    target, path = get_target("arm64-linux"), tmp_path / "records.jsonl"
    told: list[Trial] = []
    plan = Plan(path, threads=1, budget=Budget(trials=6, rest=0.0), batch=3)
    places = find_places(target, emulate=True, devices=2)
    with open_run({"small": small_model}, target, places, plan) as run:
        run.tuner.report = told.append
        summary = run.tuner.run()
    assert run.emulated
    assert (summary.trials, summary.measured, summary.failures) == (6, 0, {})
    assert {type(trial.outcome) for trial in told} == {Correct}
    assert list(read_records(path)) == []


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from edgevit.model import from_proto
from edgevit.targets import get_target
from edgevit.tuning.measure import Protocol
from edgevit.tuning.places import find_places
from edgevit.tuning.run import Plan, open_run
from edgevit.tuning.search import Budget
from tests.models import small_proto

target, path = get_target("host"), Path({path!r})
protocol = Protocol(rounds=3, most_rounds=200, seconds=1e-4, slow_share=1e6)
plan = Plan(path, threads=1, workers=2, budget=Budget(rest=0.0), batch=3, protocol=protocol)
with open_run({{"small": from_proto(small_proto())}}, target, find_places(target, threads=1), plan) as run:
    run.tuner.report = lambda trial: print(trial.number, flush=True)
    run.tuner.run()
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
