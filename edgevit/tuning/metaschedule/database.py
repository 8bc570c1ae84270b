"""Records of TVM's MetaSchedule in edgevit's log, and back.

MetaSchedule's ``JSONDatabase`` is two files: ``database_workload.json`` has a line ``[hash, module]`` for each module,
``database_tuning_record.json`` a line ``[index of the module, [trace, seconds, target, arguments]]`` for each trial. A
trial that failed has 1e10 seconds there. Here every trial is a record of its own that carries its module deflated, so
that logs can be merged and pruned line by line.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from edgevit.errors import UserError
from edgevit.files import make_folder, write_atomic
from edgevit.tuning.origin import Origin
from edgevit.tuning.record import About, Failure, TvmRecord
from edgevit.tuning.workloads import TVM_FAMILY, TVM_VERSION

WORKLOADS, TRIALS = "database_workload.json", "database_tuning_record.json"

_FAILED_SECONDS = 1e10
_MAX_MODULE = 64 << 20


def read_database(folder: Path, origin: Origin) -> Iterator[TvmRecord]:
    """The trials of a MetaSchedule database.

    Args:
        folder: ``work_dir`` of the database.
        origin: where its trials were run: the database does not say.

    Raises:
        UserError: there is no database, or it is damaged.
    """
    modules = [_module(line, where) for line, where in _lines(folder / WORKLOADS)]
    for line, where in _lines(folder / TRIALS):
        yield _trial(line, where, modules, origin)


def write_database(records: Iterable[TvmRecord], folder: Path) -> None:
    """Write a MetaSchedule database that holds these records; a database that is there is replaced.

    Raises:
        UserError: the folder cannot be written, or a record's module is damaged.
    """
    places: dict[str, int] = {}
    workloads: list[str] = []
    trials: list[str] = []
    for record in records:
        if record.hash not in places:
            places[record.hash] = len(workloads)
            workloads.append(_json([record.hash, _inflated(record)]))
        seconds = list(record.run_seconds) or [_FAILED_SECONDS]
        trials.append(_json([places[record.hash], [record.trace, seconds, record.tvm_target, record.arguments]]))
    make_folder(folder)
    write_atomic(folder / WORKLOADS, "".join(workloads))
    write_atomic(folder / TRIALS, "".join(trials))


def trial_record(workload: Any, trial: Any, origin: Origin, failure: Failure | None = None) -> TvmRecord:
    """A trial as a record.

    Args:
        workload: hash and text of the module, as TVM writes them.
        trial: trace, seconds, target and arguments, as TVM writes them; no seconds for a failure.
        origin: where it was run.
        failure: why there are no seconds.

    Raises:
        UserError: it is not what TVM writes.
    """
    digest, module = _module(workload, "a MetaSchedule workload")
    record = _record(digest, module, tuple(trial), origin)
    return record.model_copy(update={"failure": failure}) if failure else record


def _trial(line: Any, where: str, modules: list[tuple[str, str]], origin: Origin) -> TvmRecord:
    try:
        index, (trace, seconds, target, arguments) = line
        digest, module = modules[index]
        return _record(digest, module, (trace, seconds, target, arguments), origin)
    except (TypeError, ValueError, IndexError) as error:
        raise _damaged(where) from error


def _record(digest: str, module: str, trial: tuple[Any, Any, Any, Any], origin: Origin) -> TvmRecord:
    trace, seconds, target, arguments = trial
    ran = seconds and max(seconds) < _FAILED_SECONDS
    return TvmRecord(
        **origin.shared(TVM_VERSION),
        workload=f"{TVM_FAMILY}/{TVM_VERSION}/{int(digest):016x}",
        about=_about(arguments),
        hash=digest,
        module=module,
        trace=trace,
        run_seconds=tuple(seconds) if ran else (),
        tvm_target=target,
        arguments=arguments,
        failure=None if ran else "unknown",
        device=origin.facts,
    )


def _about(arguments: list[Any] | None) -> About:
    tensors = [(dtype, "x".join(map(str, shape))) for kind, dtype, shape in arguments or [] if kind == "TENSOR"]
    shape = "; ".join(f"{dtype} {text}" for dtype, text in tensors)
    return About(family=TVM_FAMILY, shape=shape[:1000], dtype=tensors[-1][0] if tensors else "")


def _module(line: Any, where: str) -> tuple[str, str]:
    """Hash and deflated module of a line of the table of modules."""
    try:
        digest, text = line
        raw = base64.b64decode(text, validate=True)
        return str(int(digest)), base64.b64encode(zlib.compress(raw, 9)).decode()
    except (TypeError, ValueError) as error:
        raise _damaged(where) from error


def _inflated(record: TvmRecord) -> str:
    """TVM's text of a record's module."""
    try:
        stream = zlib.decompressobj()
        raw = stream.decompress(base64.b64decode(record.module, validate=True), _MAX_MODULE)
    except (binascii.Error, zlib.error) as error:
        raise _damaged(record.workload) from error
    if not stream.eof:
        raise _damaged(record.workload)
    return base64.b64encode(raw).decode()


def _lines(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        with path.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield _loaded(line, where), where
    except OSError as error:
        raise UserError(
            f"cannot read the database: {error.strerror or error}.",
            where=str(path),
            advice="Give the work_dir of a MetaSchedule JSONDatabase.",
        ) from error


def _loaded(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _damaged(where) from error


def _damaged(where: str) -> UserError:
    return UserError(
        "this is not what MetaSchedule writes.", where=where, advice="Leave the line out, or tune the operator again."
    )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"
