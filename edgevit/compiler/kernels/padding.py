"""Padding: rows of the output are left margin, a run of the input, right margin, or margin altogether."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.moves import UNROLL, copy_step, fill_step, item_bytes, storage, stored_value
from edgevit.compiler.kernels.runs import PARALLEL_ELEMENTS, Axis, contiguous_strides, loop_nest, run_steps

MODES = ("constant", "reflect", "edge")


@dataclass(frozen=True)
class Padding:
    """One padding.

    Attributes:
        shape: of the input.
        before: elements in front of it along every axis.
        size: shape of the output.
        value: of the margin, if the mode is constant.
        mode: one of ``MODES``, numpy's names.
        dtype: of the elements, numpy's name.
    """

    shape: tuple[int, ...]
    before: tuple[int, ...]
    size: tuple[int, ...]
    value: float = 0.0
    mode: str = "constant"
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """Input and output."""
        return (prod(self.shape) + prod(self.size)) * item_bytes(self.dtype)


def emit_padding(builder: KernelBuilder, workload: Padding, lanes: int) -> None:
    """Write a padding's loops; declares the arguments input, output."""
    dtype = storage(workload.dtype)
    source = builder.argument("source", prod(workload.shape), dtype)
    output = builder.argument("output", prod(workload.size), dtype)
    _Padder(builder, workload, lanes, source, output).emit()


class _Padder:
    """The last padded axis and all behind it make a row; the axes before it are loops over the output."""

    def __init__(self, builder: KernelBuilder, workload: Padding, lanes: int, source: Any, output: Any) -> None:
        self._builder = builder
        self._workload = workload
        self._lanes = lanes
        self._source = source
        self._output = output
        padded = [axis for axis, (old, new) in enumerate(zip(workload.shape, workload.size, strict=True)) if old != new]
        self._last = padded[-1] if padded else 0
        self._unit = prod(workload.size[self._last + 1 :])
        self._row = prod(workload.size[self._last :])

    def emit(self) -> None:
        """Write the loops."""
        builder, w = self._builder, self._workload
        extents = w.size[: self._last]
        strides = contiguous_strides(w.size)
        # "Tensors" of the nest: the output, and one per axis that counts its position.
        axes = [
            Axis(extent, (strides[axis], *(int(other == axis) for other in range(self._last))))
            for axis, extent in enumerate(extents)
            if extent != 1
        ]
        large = prod(w.size) >= PARALLEL_ELEMENTS
        alone = prod(extents) == 1
        with loop_nest(builder, axes, 1 + self._last, parallel=large) as (place, *positions):
            inside, start = self._read_from(positions)
            if inside is None:
                self._copied_row(place, start, parallel=large and alone)
                return
            inside = builder.bind(inside, "inside")
            with builder.when(inside):
                self._copied_row(place, start, parallel=False)
            with builder.when(tirx.Not(inside)):
                self._fill(place, self._row)

    def _read_from(self, positions: Sequence[Expr]) -> tuple[Expr | None, Expr]:
        """Whether a row has a source (None: always), and where that begins."""
        w, strides = self._workload, contiguous_strides(self._workload.shape)
        inside: Expr | None = None
        start: Expr = tirx.const(0, "int32")
        for axis, position in enumerate(positions):
            extent, before = w.shape[axis], w.before[axis]
            index = position if before == 0 else position - before
            if extent != w.size[axis]:
                index = self._builder.bind(index)
                if w.mode == "constant":
                    here = tirx.And(index >= 0, index < extent)
                    inside = here if inside is None else tirx.And(inside, here)
                else:
                    index = self._mirrored(index, extent)
            start = start + index * strides[axis]
        return inside, self._builder.bind(start)

    def _mirrored(self, index: Expr, extent: int) -> Expr:
        last = tirx.const(extent - 1, "int32")
        if self._workload.mode == "edge":
            return tirx.max(tirx.min(index, last), tirx.const(0, "int32"))
        return last - tirx.abs(last - tirx.abs(index))

    def _copied_row(self, place: Expr, start: Expr, *, parallel: bool) -> None:
        w = self._workload
        extent, before, unit = w.shape[self._last], w.before[self._last], self._unit
        after = w.size[self._last] - extent - before
        right = place + (before + extent) * unit
        if w.mode == "constant":
            self._fill(place, before * unit)
            self._fill(right, after * unit)
        else:
            reflect = w.mode == "reflect"
            self._margin(place, before, lambda index: start + (before - index if reflect else 0) * unit)
            last = extent - 1
            self._margin(right, after, lambda index: start + (last - 1 - index if reflect else last) * unit)
        self._copy(place + before * unit, start, extent * unit, parallel=parallel)

    def _margin(self, place: Expr, count: int, source: Callable[[Expr], Expr]) -> None:
        if count:
            with self._builder.loop(count, "margin") as index:
                self._copy(place + index * self._unit, source(index), self._unit)

    def _copy(self, place: Expr, start: Expr, length: int, *, parallel: bool = False) -> None:
        step = copy_step(self._builder, self._source, start, self._output, place)
        run_steps(self._builder, length, self._lanes, UNROLL, step, parallel=parallel)

    def _fill(self, place: Expr, length: int) -> None:
        w = self._workload
        step = fill_step(self._builder, self._output, place, lambda lanes: stored_value(w.value, w.dtype, lanes))
        run_steps(self._builder, length, self._lanes, UNROLL, step)
