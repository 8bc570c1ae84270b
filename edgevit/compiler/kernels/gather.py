"""Slices of a tensor chosen by indices."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.moves import UNROLL, copy_step, is_movable, item_bytes, storage, vector_lanes
from edgevit.compiler.kernels.runs import PARALLEL_ELEMENTS, loop_nest, merge_axes, run_steps
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "gather"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One gather.

    Negative indices count from the end. Indices out of range, which ONNX leaves undefined, are moved to the
    nearest valid one.

    Attributes:
        shape: of the tensor.
        axis: that the indices address.
        indices: shape of the indices, which takes the place of the axis.
        dtype: of the elements, numpy's name.
        index_dtype: int32 or int64.
    """

    shape: tuple[int, ...]
    axis: int
    indices: tuple[int, ...]
    dtype: str = "float32"
    index_dtype: str = "int64"

    @property
    def flops(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """What is read and written, and the indices."""
        count, extent = prod(self.indices), self.shape[self.axis]
        moved = prod(self.shape) // extent * (count + min(count, extent)) * item_bytes(self.dtype)
        return moved + count * item_bytes(self.index_dtype)


def claim(node: Node) -> Workload | None:
    """Workload of a ``gather`` node."""
    if node.op != "gather":
        return None
    x, indices = node.input(0), node.input(1)
    if indices.dtype not in ("int32", "int64") or not is_movable(x.dtype) or 0 in (*x.shape, *indices.shape):
        return None
    return Workload(x.shape, node.attrs["axis"] % len(x.shape), indices.shape, x.dtype, indices.dtype)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """No choices."""
    return {}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """The only choice."""
    return {}


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments tensor, indices, output."""
    builder = KernelBuilder(name)
    shape, axis, count, dtype = workload.shape, workload.axis, prod(workload.indices), storage(workload.dtype)
    outer, extent, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    source = builder.argument("source", prod(shape), dtype)
    indices = builder.argument("indices", count, workload.index_dtype)
    output = builder.argument("output", outer * count * inner, dtype)
    # Strides of source, output and indices; the last axis of the output is the run.
    axes = merge_axes((outer, count), [(extent * inner, 0), (count * inner, inner), (0, 1)])
    parallel = outer * count * inner >= PARALLEL_ELEMENTS
    with loop_nest(builder, axes, 3, parallel=parallel) as (base, place, which):
        index = _valid(builder, builder.load(indices, which), extent, workload.index_dtype)
        start = builder.bind(base + index * inner, "start")
        run_steps(builder, inner, vector_lanes(dtype, target), UNROLL, copy_step(builder, source, start, output, place))
    return builder.finish()


def _valid(builder: KernelBuilder, index: Expr, extent: int, dtype: str) -> Expr:
    """``index`` as an int32 from 0 to ``extent`` - 1."""
    index = builder.bind(index, "index")
    zero, last = tirx.const(0, dtype), tirx.const(extent - 1, dtype)
    wrapped = tirx.Select(index < zero, index + tirx.const(extent, dtype), index)
    clamped = tirx.min(tirx.max(wrapped, zero), last)
    return builder.bind(clamped if dtype == "int32" else clamped.astype("int32"), "index")
