"""Functions that TVM imports, tuned with MetaSchedule: from a model to records, and what may go wrong on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgevit.device.connect import connect
from edgevit.errors import EnvironmentFailure, ToolchainError
from edgevit.model import Model
from edgevit.tuning.building.build import Builder, BuildFailure, Library
from edgevit.tuning.measure import Correct, Fault, Latency
from edgevit.tuning.metaschedule.schedules import DEFAULT_TRACE, apply_trace, module_hash, trace_key
from edgevit.tuning.metaschedule.search import TvmTrial
from edgevit.tuning.metaschedule.tasks import TvmTask, tvm_latencies
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import TvmRecord
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task
from tests.device.processes import MARK, marked, wait_until
from tests.tuning.upsampling import tasks_of, tune, upsampling


@pytest.fixture(scope="module")
def tasks() -> list[TvmTask]:
    return tasks_of(upsampling())


def records_of(path: Path) -> list[TvmRecord]:
    found = list(read_records(path))
    assert all(isinstance(record, TvmRecord) for record in found)
    return [record for record in found if isinstance(record, TvmRecord)]


def test_the_same_loops_are_one_task_in_whatever_model(tasks: list[TvmTask], small_model: Model) -> None:
    (task,) = tasks
    assert task.calls == {"model": 1}
    assert [tensor.shape for tensor in (*task.inputs, *task.outputs)][-1] == (1, 4, 6, 6)
    assert task.flops >= 2 * 4 * 4 * 9 * 36
    (same,) = tasks_of(upsampling(3, before="Softplus"))
    assert (same.digest, same.calls) == (task.digest, {"model": 3})
    assert tasks_of(small_model) == []
    assert tvm_latencies([same], {same.digest: 2e-6}) == {"model": pytest.approx(6e-6)}


def test_every_trial_becomes_a_record_and_none_is_repeated(tasks: list[TvmTask], tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    told: list[TvmTrial] = []
    for run in (1, 2):
        summary = tune(tasks, path, 6, report=told.append, provenance="a test")
        assert (summary.reason, summary.trials, summary.measured, summary.failures) == ("trials", 6, 6, {})
        assert 0 < summary.after["model"] <= summary.before["model"]
        found = records_of(path)
        tried = {trace_key(record.trace) for record in found if record.trace != DEFAULT_TRACE}
        assert len(tried) == 6 * run
    assert len(found) == len(told)
    assert {type(trial.outcome) for trial in told} == {Latency}
    assert sum(record.trace == DEFAULT_TRACE for record in found) == 1
    (task,) = tasks
    codes = {module_hash(apply_trace(record.trace, task.module)) for record in found}
    assert len(codes) == len(tried) + 1
    for record in found:
        assert (record.hash, record.workload, record.threads) == (task.digest, task.key, 1)
        assert record.device is not None
        assert record.device.kind == "process"
        assert record.run_seconds
        assert len(record.line()) < 20_000


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_under_an_emulator_only_outputs_are_compared(tmp_path: Path) -> None:
    from edgevit.targets import get_target

    target, path = get_target("arm64-linux"), tmp_path / "records.jsonl"
    told: list[TvmTrial] = []
    summary = tune(tasks_of(upsampling(), target), path, 3, connect=lambda: connect(emulate=target), report=told.append)
    assert (summary.trials, summary.measured, summary.correct, summary.failures) == (3, 0, 3, {})
    assert {type(trial.outcome) for trial in told} == {Correct}
    assert records_of(path) == []


def test_a_candidate_that_computes_something_else_has_no_latency(tasks: list[TvmTask], tmp_path: Path) -> None:
    class Wrong(Builder):
        """Swaps one candidate for the function of another model."""

        def build(self, task: Task, choices: Sequence[Choice]) -> tuple[list[Library], list[BuildFailure]]:
            import tvm

            bad = choices[0]["candidate"]
            task.workload.modules[bad] = tvm.ir.save_json(tvm.IRModule({"main": zeros(tasks[0])}))
            return super().build(task, choices)

    path = tmp_path / "records.jsonl"
    told: list[TvmTrial] = []
    summary = tune(tasks, path, 4, builder=Wrong(), report=told.append)
    assert (summary.trials, summary.measured, summary.failures) == (4, 3, {"wrong": 1})
    assert [trial.outcome.failure for trial in told if isinstance(trial.outcome, Fault)] == ["wrong"]
    assert [record.failure for record in records_of(path) if record.failure] == ["wrong"]


def zeros(task: TvmTask) -> Any:
    """A function of the task's tensors that writes zeros."""
    from tvm import tirx

    buffers = [
        tirx.decl_buffer(tensor.shape, tensor.dtype, name=f"t{i}")
        for i, tensor in enumerate((*task.inputs, *task.outputs))
    ]
    loops = [tirx.Var(f"i{axis}", "int32") for axis in range(4)]
    body = tirx.BufferStore(buffers[-1], tirx.const(0.0, "float32"), loops)
    for loop, extent in zip(reversed(loops), reversed(task.outputs[0].shape), strict=True):
        body = tirx.For(loop, tirx.const(0, "int32"), tirx.const(extent, "int32"), tirx.ForKind.SERIAL, body)
    return tirx.PrimFunc(buffers, body).with_attr("global_symbol", "main")


def test_candidates_that_never_build_are_an_error_and_no_success(tasks: list[TvmTask], tmp_path: Path) -> None:
    class Slow(Builder):
        def build(self, task: Task, choices: Sequence[Choice]) -> tuple[list[Library], list[BuildFailure]]:
            return [], [BuildFailure(choice, "timeout", "not built within 9 s") for choice in choices]

    path = tmp_path / "records.jsonl"
    with pytest.raises(EnvironmentFailure, match=r"none of 4 trials.*4 times the cause was timeout: not built"):
        tune(tasks, path, 4, builder=Slow())
    assert [record.failure for record in records_of(path)] == ["timeout"] * 4


def test_a_compiler_without_time_is_not_blamed_on_candidates(tasks: list[TvmTask], tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match="the default kernel does not build: not built within 0 s"):
        tune(tasks, tmp_path / "records.jsonl", 2, builder=Builder(library_seconds=0.001, kernel_seconds=0.0))
    assert records_of(tmp_path / "records.jsonl") == []


def test_what_the_report_raises_ends_the_run(tasks: list[TvmTask], tmp_path: Path) -> None:
    def interrupt(trial: TvmTrial) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(tasks, tmp_path / "records.jsonl", 4, report=interrupt)


def test_no_time_and_nothing_to_do_end_at_once(tasks: list[TvmTask], tmp_path: Path) -> None:
    summary = tune(tasks, tmp_path / "records.jsonl", 4, minutes=0.0)
    assert (summary.reason, summary.trials) == ("minutes", 0)
    assert summary.before == summary.after
    assert summary.before["model"] > 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_tuner_that_is_ended_leaves_records_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    mark, path = uuid.uuid4().hex, tmp_path / "records.jsonl"
    command = [sys.executable, "-W", "error", "-m", "tests.tuning.upsampling", str(path)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env={**os.environ, MARK: mark}, **streams) as tuner:  # type: ignore[call-overload]
        assert tuner.stdout.readline()
        assert len(marked(mark)) >= 3  # itself, a compiler and a device
        tuner.send_signal(number)
        _, said = tuner.communicate(timeout=120)
    assert tuner.returncode == -number
    assert said.decode().strip().splitlines()[-1:] == ([] if number == signal.SIGKILL else ["KeyboardInterrupt"])
    assert wait_until(lambda: not marked(mark))
    assert records_of(path)
