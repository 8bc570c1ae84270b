"""Permutations, concatenation, slices and padding: a thread moves one vector to its place in the output.

Where a permutation transposes matrices, groups bring square tiles into shared memory, so that reads and writes both
follow memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, within
from edgevit.compiler.gpu.flat import aligned_lanes, coordinates, each, flat_builder, lanes_for, offsets
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import copy, permute
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.copy import Concat, Slice
from edgevit.compiler.kernels.padding import Padding
from edgevit.compiler.kernels.runs import Axis, contiguous_strides, merge_axes
from edgevit.target_schema import Gpu, Target

NAME = "movement"

Workload = permute.Workload | Concat | Slice | Padding

_TILE = 32
_ROWS = 8
"""Rows of a tile that a group moves at a time."""
_SMALL = 8
"""Matrices with fewer rows or columns are not worth a tile."""
_MOST_INPUTS = 24
"""Metal has 31 buffers."""


def claim(node: Node) -> Workload | None:
    """Workload of a ``permute``, ``concat``, ``slice`` or ``pad`` node."""
    if node.output.dtype == "float64":
        return None
    if node.op == "concat" and len(node.inputs) > _MOST_INPUTS:
        return None
    workload: Workload | None = permute.claim(node) or copy.claim(node)
    return workload


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: inputs, output."""
    assert target.gpu is not None
    if isinstance(workload, Concat):
        return _concat(workload, target.gpu, name, storage)
    if isinstance(workload, Slice):
        return _slice(workload, target.gpu, name, storage)
    if isinstance(workload, Padding):
        return _pad(workload, target.gpu, name, storage)
    return _permute(workload, target.gpu, name, storage)


def _permute(workload: permute.Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> Any:
    strides = contiguous_strides(workload.view)
    shape = [workload.view[axis] for axis in workload.perm]
    axes = merge_axes(shape, [[strides[axis] for axis in workload.perm], contiguous_strides(shape)])
    size, inner = prod(workload.view), axes[-1]
    column = next((axis for axis in axes if axis.strides[0] == 1), inner)
    tiled = gpu.local_on_chip and gpu.max_threads >= _TILE * _ROWS and workload.dtype == "float32"
    if tiled and column is not inner and min(column.extent, inner.extent) >= _SMALL:
        return _transpose(axes, column, size, name, storage)
    return _strided(axes, (size, size), (0, 0), workload.dtype, gpu, name, storage)


def _transpose(axes: list[Axis], column: Axis, size: int, name: str, storage: Sequence[str]) -> Any:
    """``column`` is the axis that the source has innermost, the last one the output's."""
    row = axes[-1]
    outer = [axis for axis in axes[:-1] if axis is not column]
    images = prod(axis.extent for axis in outer)
    grid = cover(column.extent, _TILE), cover(row.extent, _TILE), images
    b = ThreadBuilder(name, Launch(grid, (_TILE, _ROWS, 1)), storage)
    source, output = b.argument("source", size), b.argument("output", size)
    tile = b.shared(_TILE * (_TILE + 1), "tile")
    start, place = offsets(b, b.group(2), outer) if outer else [tirx.const(0, "int32")] * 2
    first_column, first_row = b.group(0) * _TILE, b.group(1) * _TILE
    for step in range(0, _TILE, _ROWS):
        c, r = b.bind(first_column + b.thread(0), "c"), b.bind(first_row + b.thread(1) + step, "r")
        with b.inside(within((c, column.extent, grid[0] * _TILE), (r, row.extent, grid[1] * _TILE))):
            value = b.load(source, start + r * row.strides[0] + c)
            b.store(tile, (b.thread(1) + step) * (_TILE + 1) + b.thread(0), value)
    b.barrier()
    for step in range(0, _TILE, _ROWS):
        c, r = b.bind(first_column + b.thread(1) + step, "c"), b.bind(first_row + b.thread(0), "r")
        with b.inside(within((c, column.extent, grid[0] * _TILE), (r, row.extent, grid[1] * _TILE))):
            value = b.load(tile, b.thread(0) * (_TILE + 1) + b.thread(1) + step)
            b.store(output, place + c * column.strides[1] + r, value)
    return b.finish()


def _strided(
    axes: list[Axis],
    sizes: tuple[int, int],
    starts: tuple[int, int],
    dtype: str,
    gpu: Gpu,
    name: str,
    storage: Sequence[str],
) -> Any:
    """Copy along axes with strides of source and output."""
    lanes = aligned_lanes(axes, [dtype], starts)
    count = prod(axis.extent for axis in axes) // lanes
    b = flat_builder(name, count, gpu, storage)
    source, output = b.argument("source", sizes[0], dtype), b.argument("output", sizes[1], dtype)
    with each(b, count) as index:
        start, place = offsets(b, index, axes, lanes)
        if axes[-1].strides[0]:
            value = b.load(source, start + starts[0], lanes)
        else:
            value = b.splat(b.load(source, start + starts[0]), lanes)
        b.store(output, place + starts[1], value, lanes)
    return b.finish()


def _slice(workload: Slice, gpu: Gpu, name: str, storage: Sequence[str]) -> Any:
    whole = contiguous_strides(workload.shape)
    strides = [stride * step for stride, step in zip(whole, workload.steps, strict=True)]
    start = sum(stride * first for stride, first in zip(whole, workload.starts, strict=True))
    axes = merge_axes(workload.size, [strides, contiguous_strides(workload.size)])
    sizes = prod(workload.shape), prod(workload.size)
    return _strided(axes, sizes, (start, 0), workload.dtype, gpu, name, storage)


def _concat(workload: Concat, gpu: Gpu, name: str, storage: Sequence[str]) -> Any:
    """A thread finds the input that its vector comes from."""
    axis, dtype = workload.axis, workload.dtype
    runs = [prod(shape[axis:]) for shape in workload.shapes]
    rows, row = prod(workload.shapes[0][:axis]), sum(runs)
    lanes = lanes_for([dtype], *runs)
    count = rows * row // lanes
    b = flat_builder(name, count, gpu, storage)
    sources = [b.argument(f"source{i}", prod(shape), dtype) for i, shape in enumerate(workload.shapes)]
    output = b.argument("output", rows * row, dtype)
    with each(b, count) as index:
        number, vector = coordinates(index, (rows, row // lanes))
        place = b.bind(vector * lanes, "place")
        first = 0
        for source, run in zip(sources, runs, strict=True):
            with b.when(_inside(place, first, run, row)):
                value = b.load(source, number * run + (place - first), lanes)
                b.store(output, index * lanes, value, lanes)
            first += run
    return b.finish()


def _inside(place: Expr, first: int, length: int, whole: int) -> Expr:
    checks = [place >= first] * (first > 0) + [place < first + length] * (first + length < whole)
    if not checks:
        return tirx.const(True, "bool")
    return checks[0] if len(checks) == 1 else tirx.And(*checks)


def _pad(workload: Padding, gpu: Gpu, name: str, storage: Sequence[str]) -> Any:
    shape, size, dtype = workload.shape, workload.size, workload.dtype
    # What lies behind the last padded axis moves in one piece.
    padded = [axis for axis, (old, new) in enumerate(zip(shape, size, strict=True)) if old != new]
    last = padded[-1] if padded else -1
    unit = prod(size[last + 1 :])
    # TVM has no spelling for constant vectors of truth values.
    lanes = 1 if dtype == "bool" else lanes_for([dtype], unit)
    count = prod(size) // lanes
    b = flat_builder(name, count, gpu, storage)
    source, output = b.argument("source", prod(shape), dtype), b.argument("output", prod(size), dtype)
    with each(b, count) as index:
        *places, rest = coordinates(index, (*size[: last + 1], unit // lanes))
        strides = contiguous_strides((*shape[: last + 1], unit))
        start, inside = rest * lanes, None
        for axis, place in enumerate(places):
            position = b.bind(place - workload.before[axis], "position")
            if shape[axis] != size[axis]:
                if workload.mode == "constant":
                    here = tirx.And(position >= 0, position < shape[axis])
                    inside = here if inside is None else tirx.And(inside, here)
                else:
                    position = _mirrored(position, shape[axis], workload.mode)
            start = start + position * strides[axis]
        with b.inside(inside):
            b.store(output, index * lanes, b.load(source, start, lanes), lanes)
        if inside is not None:
            with b.unless(inside):
                b.store(output, index * lanes, _margin(b, workload, lanes), lanes)
    return b.finish()


def _margin(b: ThreadBuilder, workload: Padding, lanes: int) -> Expr:
    if workload.dtype == "bool":
        return tirx.const(bool(workload.value), "bool")
    floating = workload.dtype.startswith("float")
    return b.constant(workload.value if floating else int(workload.value), _register(workload.dtype), lanes)


def _register(dtype: str) -> str:
    return "float32" if dtype == "float16" else dtype


def _mirrored(position: Expr, extent: int, mode: str) -> Expr:
    last = tirx.const(extent - 1, "int32")
    if mode == "edge":
        return tirx.max(tirx.min(position, last), tirx.const(0, "int32"))
    return last - tirx.abs(last - tirx.abs(position))
