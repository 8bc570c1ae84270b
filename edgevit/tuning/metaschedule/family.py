"""Functions that MetaSchedule arranged, as a kernel family, so that the same builders and devices serve both.

The choice is the number of a candidate; the workload holds the candidates' modules. Number 0 is the schedule of last
resort, which the others are compared with.
"""
# ruff: noqa: ARG001 - every family has the same functions, whatever they depend on

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit.tuning.workloads import TVM_FAMILY, TVM_VERSION

if TYPE_CHECKING:
    from edgevit.target_schema import Target
    from edgevit.tuning.metaschedule.tasks import TvmTask
    from edgevit.tuning.records import Choice

NAME = TVM_FAMILY
VERSION = TVM_VERSION

CANDIDATE = "candidate"
DEFAULT = 0


@dataclass
class Workload:
    """What is measured together.

    Attributes:
        modules: of the candidates, as TVM's JSON.
    """

    modules: dict[int, str] = field(default_factory=dict)


def claim(node: Any) -> None:
    """Claims nothing: what it computes is what the others leave."""


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """The candidates at hand."""
    return {CANDIDATE: tuple(workload.modules)}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """The schedule of last resort."""
    return {CANDIDATE: DEFAULT}


def emit(workload: Workload, target: Target, choice: Mapping[str, int], name: str) -> Any:
    """TIR function over pointers, as the families write them."""
    import tvm

    return _over_pointers(tvm.ir.load_json(workload.modules[choice[CANDIDATE]])["main"])


def default_module(task: TvmTask) -> Any:
    """The task's module with the schedule of last resort, or with TVM's own loops where that does not apply."""
    import tvm

    from edgevit.compiler.kernels.default import schedule

    with tvm.target.Target(task.target.tvm_target()):
        scheduled = schedule(task.module["main"], task.target, None)
    return task.module if scheduled is None else tvm.IRModule({"main": scheduled})


def _over_pointers(function: Any) -> Any:
    """A function of tensors as a private one of pointers, which returns 0."""
    from tvm import ir, tirx

    pointers, flat, shaped = [], [], []
    for index, buffer in enumerate(function.params):
        pointer = tirx.Var(f"pointer{index}", ir.PointerType(ir.PrimType(str(buffer.dtype))))
        size = math.prod(int(extent) for extent in buffer.shape)
        pointers.append(pointer)
        flat.append(tirx.DeclBuffer(tirx.decl_buffer((size,), buffer.dtype, name=f"flat{index}"), data=pointer))
        shaped.append(tirx.DeclBuffer(buffer, data=pointer))
    body = tirx.SeqStmt([*flat, *shaped, function.body, tirx.Return(tirx.const(0, "int32"))])
    # As in edgevit.compiler.kernels.builder: lowering of allocations asks for the device.
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt("default", key, tirx.const(value, "int32"), body)
    kernel = tirx.PrimFunc(pointers, body, ret_type=ir.PrimType("int32"))
    return kernel.with_attr("s_tir", True).with_attr("tirx.noalias", True)
