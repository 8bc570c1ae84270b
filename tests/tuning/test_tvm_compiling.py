"""What was found for functions that TVM imports decides how they are compiled, where it is better than the default."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgevit.compiler.compile import compile_model
from edgevit.model import Model
from edgevit.targets import get_target
from edgevit.tuning.layers import Layer
from edgevit.tuning.metaschedule.schedules import DEFAULT_TRACE, BadTrace, TvmSchedules, apply_trace
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import TargetFacts, TvmRecord
from edgevit.tuning.records import TuningLog
from tests.tuning.upsampling import tasks_of, tune, upsampling

HOST = get_target("host")
MANY = 4096


@pytest.fixture(scope="module")
def model() -> Model:
    return upsampling(2)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, model: Model) -> list[TvmRecord]:
    """Some trials on this machine and the default's own record, which is the first."""
    path = tmp_path_factory.mktemp("log") / "records.jsonl"
    tune(tasks_of(model), path, 4)
    found = [record for record in read_records(path) if isinstance(record, TvmRecord)]
    default = next(record for record in found if record.trace == DEFAULT_TRACE)
    trials = {str(record.trace): record for record in found if record.trace != DEFAULT_TRACE}
    return [default, *trials.values()]


def timed(records: Sequence[TvmRecord], *seconds: float, **fields: Any) -> list[TvmRecord]:
    """Records as if these had been their latencies, with so many threads that all of them count."""
    pairs = zip(records, seconds, strict=False)
    return [
        record.model_copy(update={"run_seconds": (each,), "threads": MANY, "failure": None, **fields})
        for record, each in pairs
    ]


def log_of(records: Sequence[TvmRecord]) -> TuningLog:
    return TuningLog(((Layer.GIVEN, record) for record in records), HOST)


def test_the_fastest_record_arranges_the_loops_and_the_result_is_right(model: Model, measured: list[TvmRecord]) -> None:
    records = timed(measured, 3e-3, 1e-3, 2e-3)
    untuned = compile_model(model, HOST, tuning_log=TuningLog())
    assert untuned.manifest.kernels == {"default": 1}
    assert untuned.manifest.tuning.measured == 0
    artifact = compile_model(model, HOST, tuning_log=log_of(records))
    assert artifact.manifest.kernels == {"tvm": 1}
    assert artifact.manifest.tuning.measured == 1
    check = artifact.resolution.check
    assert check.status == "passed"
    assert check.reference is not None
    assert check.reference.startswith("onnxruntime")
    # Others beside it decide nothing, and the same records give the same bytes.
    alone = compile_model(model, HOST, tuning_log=log_of([records[1]]))
    assert alone.files == artifact.files
    assert alone.manifest.tuning == artifact.manifest.tuning
    assert artifact.files != untuned.files


def test_each_rule_of_choice(measured: list[TvmRecord]) -> None:
    default, one, two, *_ = measured

    def first(records: Sequence[TvmRecord], threads: int = 4) -> list[Any] | None:
        ranked = TvmSchedules(records, threads).ranked(default.hash)
        return ranked[0].trace if ranked else None

    assert first([]) is None
    assert first(timed([one, two], 2e-3, 1e-3)) == two.trace
    # The default was faster.
    assert first(timed([default, one, two], 1e-3, 2e-3, 3e-3)) is None
    # The latest measurement of a trace counts.
    later = timed([one], 5e-3, date="2199-01-01T00:00:00Z")
    assert first([*timed([one, two], 1e-3, 2e-3), *later]) == two.trace
    # What failed afterwards is passed over.
    wrong = one.model_copy(update={"run_seconds": (), "failure": "wrong"})
    assert first([*timed([one, two], 1e-3, 2e-3), wrong]) == two.trace
    # Latencies with other numbers of threads do not compare: the nearest number decides.
    assert first([*timed([one], 1e-3, threads=1), *timed([two], 2e-3, threads=4)]) == two.trace
    assert first([*timed([one], 1e-3, threads=1), *timed([two], 2e-3, threads=4)], 1) == one.trace
    # Latencies under an emulator are none.
    assert default.device is not None
    emulated = default.device.model_copy(update={"emulated": True})
    assert first(timed([one], 1e-3, device=emulated)) is None


def test_records_of_another_target_are_not_taken(model: Model, measured: list[TvmRecord]) -> None:
    foreign = timed(measured[1:], 1e-3, target=TargetFacts.of(get_target("rpi5")))
    artifact = compile_model(model, HOST, tuning_log=log_of(foreign), verify=False)
    assert artifact.manifest.kernels == {"default": 1}
    assert artifact.manifest.tuning.records_sha256 is None


def test_a_trace_that_does_not_apply_is_passed_over_and_said(
    model: Model, measured: list[TvmRecord], caplog: pytest.LogCaptureFixture
) -> None:
    lost = [[["GetSBlock", [], ["nowhere", "main"], ["b0"]]], []]
    records = timed(measured, 3e-3, 1e-3)
    bad = records[1].model_copy(update={"trace": lost, "run_seconds": (1e-9,)})
    with caplog.at_level(logging.WARNING):
        artifact = compile_model(model, HOST, tuning_log=log_of([*records, bad]), verify=False)
    assert artifact.manifest.kernels == {"tvm": 1}
    assert "1 tuning records do not apply" in caplog.text
    only_bad = compile_model(model, HOST, tuning_log=log_of([bad]), verify=False)
    assert only_bad.manifest.kernels == {"default": 1}
    assert only_bad.manifest.tuning.records_sha256 is None


@pytest.mark.parametrize(
    "trace",
    [
        [[["Tensorize", ["b0"], ["anything", True], []]], []],
        [[["UnsafeHideBufferAccess", ["b0"], [], []]], []],
        [
            [
                ["GetSBlock", [], ["root", "main"], ["b0"]],
                ["Annotate", ["b0", '"int f() {}"'], ["pragma_import_c"], []],
            ],
            [],
        ],
        [],
        [[]],
        [1, 2],
        [[["GetSBlock"]], []],
        [[["Annotate", [], [], []]], []],
        [[["SamplePerfectTile", ["l0"], [4, 64], ["v1"]]], []],
    ],
)
def test_a_trace_may_only_arrange_loops(model: Model, trace: list[Any]) -> None:
    (task,) = tasks_of(model)
    with pytest.raises(BadTrace):
        apply_trace(trace, task.module)


def test_a_schedule_without_work_for_all_cores_needs_a_measurement_with_them(measured: list[TvmRecord]) -> None:
    (task,) = tasks_of(upsampling())
    serial = timed(measured[1:2], 1e-3, threads=1, trace=[[["GetSBlock", [], ["root", "main"], ["b0"]]], []])
    function = task.module["main"]
    assert TvmSchedules(serial, 1).schedule(function) is not None
    assert TvmSchedules(serial, 8).schedule(function) is None
    parallel = timed(serial, 1e-3, threads=8)
    assert TvmSchedules(parallel, 8).schedule(function) is not None


def test_tvms_own_database_takes_the_records(measured: list[TvmRecord], tmp_path: Path) -> None:
    from tvm.s_tir import meta_schedule as ms

    from edgevit.tuning.metaschedule.database import write_database

    write_database(timed(measured, 3e-3, 1e-3, 2e-3), tmp_path)
    (task,) = tasks_of(upsampling())
    database = ms.database.JSONDatabase(work_dir=str(tmp_path))
    assert database.has_workload(task.module)
    assert len(database) == 3
