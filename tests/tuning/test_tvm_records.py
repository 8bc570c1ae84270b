"""MetaSchedule's database in edgevit's log, and back: TVM itself reads and writes both ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgevit.device.session import DeviceInfo
from edgevit.errors import UserError
from edgevit.targets import get_target
from edgevit.tuning.layers import Layer
from edgevit.tuning.metaschedule.database import read_database, write_database
from edgevit.tuning.origin import Origin
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import TvmRecord
from edgevit.tuning.records import TuningLog
from edgevit.tuning.writing import LogWriter

ORIGIN = Origin(get_target("x86-64-v3"), DeviceInfo(kind="process", cpu="CPU", cores=2, system="linux"), 2, "test")
SIZES = (16, 24)


def product(size: int) -> Any:
    import tvm
    from tvm import te

    left, right = (te.placeholder((size, size), name=name) for name in "AB")
    axis = te.reduce_axis((0, size), name="k")
    out = te.compute((size, size), lambda i, j: te.sum(left[i, axis] * right[axis, j], axis=axis), name="C")
    return tvm.IRModule({"main": te.create_prim_func([left, right, out])})


def schedule(module: Any, factor: int) -> Any:
    from tvm import s_tir

    found = s_tir.Schedule(module)
    outer, *_ = found.get_loops(found.get_sblock("C"))
    found.split(outer, [None, factor])
    return found


def database(folder: Path) -> Any:
    from tvm.s_tir import meta_schedule as ms

    return ms.database.JSONDatabase(work_dir=str(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of two products with three trials each, one of which failed."""
    import tvm
    from tvm.s_tir import meta_schedule as ms

    path = tmp_path_factory.mktemp("database")
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 2})
    filled = database(path)
    for size in SIZES:
        module = product(size)
        workload = filled.commit_workload(module)
        for factor, seconds in ((2, [3e-5, 2.5e-5]), (4, [1e-5]), (8, [1e10])):
            trace = schedule(module, factor).trace
            arguments = ms.arg_info.ArgInfo.from_prim_func(module["main"])
            filled.commit_tuning_record(ms.database.TuningRecord(trace, workload, seconds, target, arguments))
    return path


def test_tvm_finds_its_records_again_after_the_way_through_a_log(folder: Path, tmp_path: Path) -> None:
    import tvm

    with LogWriter(tmp_path / "records.jsonl") as writer:
        for record in read_database(folder, ORIGIN):
            writer.append(record)
    records = [record for record in read_records(tmp_path / "records.jsonl") if isinstance(record, TvmRecord)]
    assert len(records) == 6
    write_database(records, tmp_path / "back")
    before, after = database(folder), database(tmp_path / "back")
    assert len(before) == len(after) == 6
    target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3", "num-cores": 2})
    for size in SIZES:
        module = product(size)
        assert after.has_workload(module)
        one, other = (each.query_tuning_record(module, target, "main") for each in (before, after))
        assert [float(s) for s in other.run_secs] == [1e-5]
        assert one.as_json() == other.as_json()
        expected = schedule(module, 4).mod
        found = after.query_ir_module(module, target, "main")
        tvm.ir.assert_structural_equal(found, expected)
    texts = [sorted(str(r.as_json()) for r in each.get_all_tuning_records()) for each in (before, after)]
    assert texts[0] == texts[1]


def test_records_say_what_they_are_about(folder: Path) -> None:
    records = list(read_database(folder, ORIGIN))
    assert {record.workload for record in records} == {f"tvm/1/{int(record.hash):016x}" for record in records}
    assert len({record.workload for record in records}) == 2
    assert records[0].about.shape == "float32 16x16; float32 16x16; float32 16x16"
    assert [record.failure for record in records[:3]] == [None, None, "unknown"]
    assert all(len(record.line()) < 8000 for record in records)
    log = TuningLog(((Layer.USER, record) for record in records), ORIGIN.target, versions={"tvm": 1})
    assert len(log.tvm) == 6
    assert len(log) == 0
    assert not TuningLog(((Layer.USER, record) for record in records), get_target("x86-64-v4")).tvm


def test_pruning_keeps_the_fastest_traces_and_the_failures(folder: Path, tmp_path: Path) -> None:
    from edgevit.tuning.maintenance import prune

    log = tmp_path / "records.jsonl"
    log.write_bytes(b"".join(record.line() for record in read_database(folder, ORIGIN)))
    (done,) = prune([log], keep=1)
    assert dict(done.dropped) == {"slower": 2}
    left = [record for record in read_records(log) if isinstance(record, TvmRecord)]
    assert [record.run_seconds for record in left] == [(1e-5,), ()] * 2


@pytest.mark.parametrize("line", ["[0]", "[7,[[],[1.0],null,null]]", '{"a":1}', "[[", '["a",[[],[1.0],null,null]]'])
def test_a_damaged_database_is_named(folder: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "database_workload.json").write_bytes((folder / "database_workload.json").read_bytes())
    (tmp_path / "database_tuning_record.json").write_text(line + "\n")
    with pytest.raises(UserError, match="not what MetaSchedule writes") as caught:
        list(read_database(tmp_path, ORIGIN))
    assert str(caught.value.where).endswith("database_tuning_record.json:1")
    with pytest.raises(UserError, match="cannot read the database"):
        list(read_database(tmp_path / "nowhere", ORIGIN))


def test_a_module_that_was_tampered_with_is_refused(folder: Path, tmp_path: Path) -> None:
    import base64
    import zlib

    record = next(read_database(folder, ORIGIN))
    bomb = zlib.compress(bytes(100 << 20), 9)
    for module in (b"", b"nonsense", bomb, bomb[:100]):
        wrong = record.model_copy(update={"module": base64.b64encode(module).decode()})
        with pytest.raises(UserError, match="not what MetaSchedule writes"):
            write_database([wrong], tmp_path)
    assert not list(tmp_path.iterdir())
