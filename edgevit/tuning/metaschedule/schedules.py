"""MetaSchedule's traces: applied to functions, and the best one that is known for a function.

A function is known by the structural hash of a module that holds it alone, under the name ``main``: the same loops in
another model, under another name, have the same hash. A trace that is empty stands for the schedule of last resort
(:mod:`edgevit.compiler.kernels.default`), which all others are compared with.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import log2
from typing import Any

from edgevit.tuning.record import TvmRecord

DEFAULT_TRACE: list[Any] = [[], []]
"""The trace of records that say how long the schedule of last resort takes."""

_INSTRUCTIONS = frozenset(
    (
        *("GetSBlock", "GetLoops", "GetChildBlocks", "GetProducers", "GetConsumers", "GetOutputBlocks"),
        *("SamplePerfectTile", "SampleCategorical", "SampleComputeLocation"),
        *("Split", "Fuse", "Reorder", "AddUnitLoop", "Parallel", "Vectorize", "Unroll"),
        *("CacheRead", "CacheWrite", "ComputeAt", "ReverseComputeAt", "ComputeInline", "ReverseComputeInline"),
        *("RFactor", "DecomposeReduction", "Annotate", "Unannotate", "EnterPostproc"),
    )
)
_PRAGMAS = ("pragma_auto_unroll_max_step", "pragma_unroll_explicit")


class BadTrace(ValueError):
    """A trace that does not apply to a function; its text says why."""


def as_module(function: Any) -> Any:
    """Module that MetaSchedule tunes: the function alone, without what its surroundings gave it."""
    import tvm
    from tvm import tirx

    bare = tirx.PrimFunc(function.params, function.body, ret_type=function.ret_type)
    for key, value in (("global_symbol", "main"), ("tirx.noalias", True), ("s_tir", True)):
        bare = bare.with_attr(key, value)
    return tvm.IRModule({"main": bare})


def module_hash(module: Any) -> str:
    """Structural hash as TVM's database writes it."""
    from tvm_ffi import structural_hash

    return str(structural_hash(module) % (1 << 64))


def trace_key(trace: Sequence[Any]) -> str:
    """Equal for equal traces."""
    return json.dumps(trace, separators=(",", ":"))


def apply_trace(trace: Sequence[Any], module: Any) -> Any:
    """The module after a trace, which must be of instructions that only arrange loops.

    Logs come from anywhere, and some instructions of TVM's put foreign code into a function: those are refused.

    Raises:
        BadTrace: it does not apply.
    """
    from tvm import s_tir
    from tvm.s_tir.schedule import Trace

    _refuse_strangers(trace)
    try:
        schedule = s_tir.Schedule(module)
        Trace.apply_json_to_schedule(trace, schedule)
        s_tir.analysis.verify_well_formed(schedule.mod)
    except Exception as error:  # TVM raises what it likes
        lines = str(error).strip().splitlines()
        raise BadTrace(lines[-1].strip() if lines else type(error).__name__) from error
    return schedule.mod


def _refuse_strangers(trace: Sequence[Any]) -> None:
    try:
        instructions, _ = trace
        for kind, _inputs, attributes, _outputs in instructions:
            if kind not in _INSTRUCTIONS:
                raise BadTrace(f"the instruction {kind} is none of a schedule for processors")
            if kind == "Annotate" and not str(attributes[0]).startswith(("meta_schedule.", *_PRAGMAS)):
                raise BadTrace(f"the annotation {attributes[0]} is none of MetaSchedule's")
    except BadTrace:
        raise
    except (TypeError, ValueError, IndexError) as error:
        raise BadTrace("it is not what MetaSchedule writes") from error


@dataclass
class _Bench:
    """What was measured at one place: by device and number of threads, whose latencies compare."""

    threads: int
    newest: str = ""
    latest: dict[str, TvmRecord] = field(default_factory=dict)

    def take(self, record: TvmRecord) -> None:
        self.latest[trace_key(record.trace)] = record
        self.newest = max(self.newest, record.moment)

    def ranked(self) -> list[TvmRecord]:
        """Records that beat the schedule of last resort, the fastest first."""
        default = self.latest.get(trace_key(DEFAULT_TRACE))
        limit = median_seconds(default) if default else float("inf")
        faster = [
            record
            for key, record in self.latest.items()
            if record is not default and median_seconds(record) < limit and key != trace_key(DEFAULT_TRACE)
        ]
        return sorted(faster, key=lambda record: (median_seconds(record), trace_key(record.trace)))


class TvmSchedules:
    """The traces that are known for a target.

    Attributes:
        used: records whose traces were applied, each once.
        refused: workloads of those that did not apply.
    """

    def __init__(self, records: Iterable[TvmRecord], threads: int) -> None:
        """Sort records by function.

        Args:
            records: measured for this very target: :attr:`edgevit.tuning.records.TuningLog.tvm`.
            threads: that kernels will be called with.
        """
        self.used: list[TvmRecord] = []
        self.refused: list[str] = []
        self._threads = threads
        self._benches: dict[str, dict[tuple[str, int], _Bench]] = {}
        self._vetoes: set[tuple[str, str]] = set()
        for record in sorted(records, key=lambda record: record.moment):
            if record.failure:
                self._vetoes.add((record.hash, trace_key(record.trace)))
            elif record.device is not None and not record.device.emulated:
                place = record.device.identity, record.threads
                self._benches.setdefault(record.hash, {}).setdefault(place, _Bench(record.threads)).take(record)

    def __bool__(self) -> bool:
        return bool(self._benches)

    def ranked(self, digest: str) -> list[TvmRecord]:
        """Records worth a try for a function, the best first; none where the schedule of last resort is the fastest.

        Those of one device and number of threads alone: the number that is nearest to what the function will be called
        with, as a ratio, of two as near the larger; then the newest.
        """
        benches = self._benches.get(digest, {}).values()
        if not benches:
            return []
        newest = sorted(benches, key=lambda bench: bench.newest, reverse=True)
        best = min(newest, key=lambda bench: (abs(log2(bench.threads / self._threads)), -bench.threads))
        return [record for record in best.ranked() if (digest, trace_key(record.trace)) not in self._vetoes]

    def schedule(self, function: Any) -> Any | None:
        """The function after the best trace that applies to it; None where no record is better than the default."""
        if not self:
            return None
        module = as_module(function)
        for record in self.ranked(module_hash(module)):
            try:
                found = apply_trace(record.trace, module)["main"]
            except BadTrace:
                self.refused.append(record.workload)
                continue
            # With fewer threads than will call it, nobody saw whether there is work for all.
            if record.threads < self._threads and _tasks(found) < self._threads:
                continue
            if record not in self.used:
                self.used.append(record)
            return found.without_attr("global_symbol")
        return None


def _tasks(function: Any) -> int:
    """Iterations of the longest parallel loop."""
    from tvm import s_tir, tirx

    schedule = s_tir.Schedule(function)
    blocks = schedule.get_child_blocks(schedule.get_sblock("root"))
    loops = [schedule.get(loop) for block in blocks for loop in schedule.get_loops(block)]
    return max((int(loop.extent) for loop in loops if loop.kind == tirx.ForKind.PARALLEL), default=1)


def median_seconds(record: TvmRecord) -> float:
    """Latency of a trial that was measured."""
    return statistics.median(record.run_seconds)
