"""Concatenation, slicing and padding, as copies of the longest runs that neither side interrupts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.compiler.kernels.moves import (
    UNROLL,
    copy_step,
    is_movable,
    item_bytes,
    storage,
    strided_copy,
    vector_lanes,
)
from edgevit.compiler.kernels.padding import MODES, Padding, emit_padding
from edgevit.compiler.kernels.runs import (
    PARALLEL_ELEMENTS,
    Axis,
    contiguous_strides,
    loop_nest,
    merge_axes,
    run_steps,
)
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "copy"
VERSION = 1

_ROWS = 16
"""Rows from which a concatenation writes its output row by row instead of input by input."""


@dataclass(frozen=True)
class Concat:
    """Tensors one after the other along an axis.

    Attributes:
        shapes: of the inputs.
        axis: along which they follow each other.
        dtype: of the elements, numpy's name.
    """

    shapes: tuple[tuple[int, ...], ...]
    axis: int
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """Inputs and output."""
        return 2 * sum(map(prod, self.shapes)) * item_bytes(self.dtype)


@dataclass(frozen=True)
class Slice:
    """Elements at regular distances along every axis.

    Attributes:
        shape: of the input.
        starts: index of the first element along every axis.
        steps: from one element to the next, possibly negative.
        size: shape of the output.
        dtype: of the elements, numpy's name.
    """

    shape: tuple[int, ...]
    starts: tuple[int, ...]
    steps: tuple[int, ...]
    size: tuple[int, ...]
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """What is read and written."""
        return 2 * prod(self.size) * item_bytes(self.dtype)


Workload = Concat | Slice | Padding


def claim(node: Node) -> Workload | None:
    """Workload of a ``concat``, ``slice`` or ``pad`` node."""
    if node.op not in ("concat", "slice", "pad") or not is_movable(node.output.dtype):
        return None
    shapes, output, dtype = tuple(t.shape for t in node.inputs if t is not None), node.output.shape, node.output.dtype
    if 0 in output or any(0 in shape for shape in shapes):
        return None
    if node.op == "concat":
        return Concat(shapes, node.attrs["axis"] % len(output), dtype)
    if node.op == "slice":
        return Slice(shapes[0], tuple(node.attrs["starts"]), tuple(node.attrs["steps"]), output, dtype)
    mode, value = node.attrs.get("mode", "constant"), float(node.attrs.get("value", 0.0))
    return Padding(shapes[0], tuple(node.attrs["before"]), output, value, mode, dtype) if mode in MODES else None


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """No choices."""
    return {}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """The only choice."""
    return {}


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments inputs, output."""
    builder, lanes = KernelBuilder(name), vector_lanes(workload.dtype, target)
    if isinstance(workload, Concat):
        _concat(builder, workload, lanes)
    elif isinstance(workload, Slice):
        _slice(builder, workload, lanes)
    else:
        emit_padding(builder, workload, lanes)
    return builder.finish()


def _concat(builder: KernelBuilder, workload: Concat, lanes: int) -> None:
    axis, dtype = workload.axis, storage(workload.dtype)
    sources = [builder.argument(f"source{i}", prod(shape), dtype) for i, shape in enumerate(workload.shapes)]
    runs = [prod(shape[axis:]) for shape in workload.shapes]
    rows, row = prod(workload.shapes[0][:axis]), sum(runs)
    output = builder.argument("output", rows * row, dtype)
    starts = [sum(runs[:number]) for number in range(len(runs))]
    if rows < _ROWS:
        for source, run, start in zip(sources, runs, starts, strict=True):
            # Not merged: a run of one element would disappear, and the output's gaps with it.
            axes = [Axis(rows, (run, row)), Axis(run, (1, 1))]
            strided_copy(builder, source, output, axes, lanes, (0, start))
        return
    axes = [Axis(rows, (row, *runs))]
    with loop_nest(builder, axes, 1 + len(runs), parallel=rows * row >= PARALLEL_ELEMENTS) as (place, *offsets):
        for source, run, start, offset in zip(sources, runs, starts, offsets, strict=True):
            run_steps(builder, run, lanes, UNROLL, copy_step(builder, source, offset, output, place + start))


def _slice(builder: KernelBuilder, workload: Slice, lanes: int) -> None:
    dtype, whole = storage(workload.dtype), contiguous_strides(workload.shape)
    source = builder.argument("source", prod(workload.shape), dtype)
    output = builder.argument("output", prod(workload.size), dtype)
    strides = [stride * step for stride, step in zip(whole, workload.steps, strict=True)]
    start = sum(stride * first for stride, first in zip(whole, workload.starts, strict=True))
    axes = merge_axes(workload.size, [strides, contiguous_strides(workload.size)])
    strided_copy(builder, source, output, axes, lanes, (start, 0))
