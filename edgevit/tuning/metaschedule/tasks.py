"""The other kind of tuning task: functions that TVM imported, for operators that no kernel family covers."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit.compiler.graph import Tensor
from edgevit.target_schema import Target
from edgevit.tuning.metaschedule.schedules import as_module, module_hash
from edgevit.tuning.workloads import TVM_FAMILY, TVM_VERSION

if TYPE_CHECKING:
    from edgevit.model import Model

# Rates of loops that nobody tuned, on a small core: they divide a run's time until something is measured.
_FLOPS_PER_SECOND = 1e9
_BYTES_PER_SECOND = 2e9
_CALL_SECONDS = 1e-6


@dataclass(frozen=True, eq=False)
class TvmTask:
    """A function to tune with MetaSchedule.

    Attributes:
        digest: structural hash of the module, TVM's decimal text.
        name: of the function, for people: the operators that TVM fused.
        module: with the function alone, unscheduled, as ``main``.
        target: to generate code for.
        calls: of the function in one inference, by model.
        inputs: that it takes.
        outputs: that it writes.
        flops: of one call, as TVM counts them.
    """

    digest: str
    name: str
    module: Any
    target: Target
    calls: Mapping[str, int]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    flops: float

    @property
    def key(self) -> str:
        """The workload in tuning records."""
        return f"{TVM_FAMILY}/{TVM_VERSION}/{int(self.digest):016x}"

    @property
    def bytes(self) -> int:
        """Of inputs and outputs, each moved once."""
        from edgevit.compiler.program import byte_size

        return sum(map(byte_size, (*self.inputs, *self.outputs)))

    @property
    def guessed_seconds(self) -> float:
        """Latency with the schedule of last resort, guessed from the work."""
        return max(self.flops / _FLOPS_PER_SECOND, self.bytes / _BYTES_PER_SECOND) + _CALL_SECONDS


@dataclass
class _Found:
    """A function while models are read."""

    name: str
    module: Any
    inputs: int
    calls: Counter[str] = field(default_factory=Counter)


def extract_tvm_tasks(models: Mapping[str, Model], target: Target) -> list[TvmTask]:
    """The distinct functions that TVM imports for models, in the order in which they are first called.

    Args:
        models: by a name of each, which tells whose calls are counted. Image sizes are models of their own.
        target: to tune for.

    Raises:
        ModelError: TVM's importer refuses an operator.
    """
    from edgevit.compiler.lower import imported_module

    found: dict[str, _Found] = {}
    for name, model in models.items():
        module = imported_module(model, target)
        if module is None:
            continue
        digests: dict[str, str] = {}
        for variable, inputs in _calls(module):
            label = variable.name_hint
            if label not in digests:
                alone = as_module(module[variable])
                digests[label] = module_hash(alone)
                found.setdefault(digests[label], _Found(label, alone, inputs))
            found[digests[label]].calls[name] += 1
    return [_task(digest, entry, target) for digest, entry in found.items()]


def tvm_latencies(tasks: Sequence[TvmTask], known: Mapping[str, float] | None = None) -> dict[str, float]:
    """Seconds that one inference spends in these functions, by model.

    Args:
        tasks: of the models.
        known: seconds of a call that were measured, by digest; the others are guessed from their work and how those
            did.
    """
    totals: dict[str, float] = {}
    for task, seconds in zip(tasks, call_seconds(tasks, known or {}), strict=True):
        for model, calls in task.calls.items():
            totals[model] = totals.get(model, 0.0) + calls * seconds
    return totals


def call_seconds(tasks: Sequence[TvmTask], known: Mapping[str, float]) -> list[float]:
    """Seconds of a call of each task: measured, or guessed from its work and how the measured ones did."""
    factors = [known[task.digest] / task.guessed_seconds for task in tasks if task.digest in known]
    factor = statistics.median(factors) if factors else 1.0
    return [known.get(task.digest, task.guessed_seconds * factor) for task in tasks]


def _calls(module: Any) -> Iterator[tuple[Any, int]]:
    """Functions of TIR that a model's Relax functions call, without kernels of ours, and how many inputs each takes."""
    from tvm import ir, relax, tirx

    from edgevit.compiler.lower import PROFILE
    from edgevit.compiler.rest import SEGMENT

    found: list[tuple[Any, int]] = []

    def visit(expression: Any) -> None:
        arguments = list(expression.args) if isinstance(expression, ir.Call) else []
        if len(arguments) < 2 or not isinstance(arguments[0], ir.GlobalVar):
            return
        callee = module[arguments[0]]
        if isinstance(callee, tirx.PrimFunc) and not arguments[0].name_hint.startswith(SEGMENT) and _is_plain(callee):
            inputs = arguments[1]
            found.append((arguments[0], len(inputs.fields) if isinstance(inputs, relax.Tuple) else 1))

    for variable, function in module.functions_items():
        # The profile calls what the model's own function calls.
        if isinstance(function, relax.Function) and not variable.name_hint.startswith(PROFILE):
            relax.analysis.post_order_visit(function, visit)
    yield from found


def _is_plain(function: Any) -> bool:
    """Whether a function takes whole tensors of known shapes alone: some of TVM's also take parts of larger ones."""
    from tvm import tirx

    if not all(map(tirx.buffer.is_buffer_var, function.params)):
        return False
    kinds = [buffer.ty for buffer in function.params]
    numbers = [number for kind in kinds for number in (*kind.shape, kind.elem_offset)]
    return all(isinstance(number, int | tirx.IntImm) for number in numbers) and not any(kind.strides for kind in kinds)


def _task(digest: str, found: _Found, target: Target) -> TvmTask:
    from tvm import s_tir

    function = found.module["main"]
    tensors = [
        Tensor(str(buffer.name), tuple(int(extent) for extent in buffer.shape), str(buffer.dtype))
        for buffer in function.params
    ]
    flops = float(s_tir.analysis.estimate_tir_flops(found.module))
    return TvmTask(
        digest,
        found.name,
        found.module,
        target,
        dict(found.calls),
        tuple(tensors[: found.inputs]),
        tuple(tensors[found.inputs :]),
        flops if math.isfinite(flops) else 0.0,
    )
