"""Copies between strided layouts: what permutations, slices, concatenations, padding and gathers are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum
from edgevit.compiler.kernels.lanes import take_lanes, transpose_lanes
from edgevit.compiler.kernels.runs import PARALLEL_ELEMENTS, Axis, Pieces, Step, emit_runs, loop_nest
from edgevit.target_schema import Target

UNROLL = 4
"""Vectors that a copy moves in one iteration."""

_LINE = 64
"""Bytes of a cache line."""
_BLOCK = 64
"""Elements along both axes of the blocks that a transposition works through: two of them fit an L1 cache."""
_STORAGE = {"bool": "uint8", "float16": "uint16"}
_MOVABLE = frozenset(
    {"float32", "float64", "float16", "bool"} | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def is_movable(dtype: str) -> bool:
    """Whether copies know elements of this type."""
    return dtype in _MOVABLE


def storage(dtype: str) -> str:
    """Type of the same size that is moved without conversions."""
    return _STORAGE.get(dtype, dtype)


def item_bytes(dtype: str) -> int:
    """Bytes of an element."""
    return np.dtype(dtype).itemsize


def vector_lanes(dtype: str, target: Target) -> int:
    """Elements in a vector register."""
    return max(1, target.vector.bytes // item_bytes(dtype))


def stored_value(value: float, dtype: str, lanes: int) -> Expr:
    """``value`` as an element of :func:`storage`'s type, in every lane."""
    number = np.asarray(value).astype(dtype).view(storage(dtype)).item()
    scalar = tirx.const(number, storage(dtype))
    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def copy_step(builder: KernelBuilder, source: Any, start: Expr, output: Any, place: Expr, stride: int = 1) -> Step:
    """Step that copies part of a run.

    Args:
        builder: kernel under construction.
        source: buffer that is read.
        start: of the run in it.
        output: buffer that is written, without gaps.
        place: of the run in it.
        stride: of the run in ``source``; 0 repeats one element.
    """
    splat = builder.bind(builder.load(source, start)) if stride == 0 else None

    def read(position: Expr, lanes: int) -> Expr:
        if splat is not None:
            return builder.splat(splat, lanes)
        if stride == -1:
            vector = builder.bind(builder.load(source, start - position - (lanes - 1), lanes))
            return vector if lanes == 1 else take_lanes([vector], range(lanes - 1, -1, -1))
        if stride == 1 or lanes == 1:
            return builder.load(source, start + position * stride, lanes)
        elements = [builder.load(source, start + (position + lane) * stride) for lane in range(lanes)]
        return tirx.Shuffle(elements, [tirx.const(lane, "int32") for lane in range(lanes)])

    def step(position: Expr, pieces: Pieces) -> None:
        vectors = [builder.bind(read(position + shift, lanes)) for shift, lanes in pieces]
        for vector, (shift, lanes) in zip(vectors, pieces, strict=True):
            builder.store(output, place + position + shift, vector, lanes)

    return step


def fill_step(builder: KernelBuilder, output: Any, place: Expr, value: Callable[[int], Expr]) -> Step:
    """Step that writes one value; ``value`` gives it in so many lanes."""

    def step(position: Expr, pieces: Pieces) -> None:
        for shift, lanes in pieces:
            builder.store(output, place + position + shift, value(lanes), lanes)

    return step


def strided_copy(
    builder: KernelBuilder,
    source: Any,
    output: Any,
    axes: Sequence[Axis],
    lanes: int,
    starts: tuple[int, int] = (0, 0),
) -> None:
    """Copy runs along the last axis, which has no gaps in ``output``.

    Args:
        builder: kernel under construction.
        source: buffer that is read.
        output: buffer that is written.
        axes: merged, with the strides of source and output.
        lanes: of a whole vector.
        starts: first element in source and output.
    """
    stride = axes[-1].strides[0]

    def prepare(offsets: tuple[Expr, ...]) -> Step:
        start, place = (offset + first for offset, first in zip(offsets, starts, strict=True))
        return copy_step(builder, source, start, output, place, stride)

    emit_runs(builder, axes, lanes, UNROLL, prepare)


def transposing_copy(
    builder: KernelBuilder, source: Any, output: Any, axes: Sequence[Axis], lanes: int, item: int
) -> None:
    """Copy between layouts whose innermost axes differ.

    Small tiles are read in vectors along the source's innermost axis, transposed in registers and written in
    vectors along the output's. A tile writes whole cache lines where it can. The last tiles of an axis overlap
    their neighbours where its extent is no multiple. Blocks of tiles keep the lines they share in the first cache.

    Args:
        builder: kernel under construction.
        source: buffer that is read.
        output: buffer that is written.
        axes: merged, with the strides of source and output.
        lanes: of a whole vector.
        item: bytes of an element.
    """
    column, row = next(axis for axis in axes if axis.strides[0] == 1), axes[-1]
    width = _power_below(min(column.extent, lanes))
    height = _power_below(min(row.extent, max(_LINE // item, lanes)))
    tiles = [ceil(row.extent / height), ceil(column.extent / width)]
    group = [max(1, _BLOCK // height), max(1, _BLOCK // width)]
    outer = [Axis(axis.extent, (*axis.strides, 0, 0)) for axis in axes[:-1] if axis is not column]
    outer.append(Axis(ceil(tiles[0] / group[0]), (0, 0, 1, 0)))
    outer.append(Axis(ceil(tiles[1] / group[1]), (0, 0, 0, 1)))
    elements = row.extent * column.extent
    for axis in outer[:-2]:
        elements *= axis.extent

    def start(block: Expr, tile: Expr, kind: int, size: int, extent: int) -> Expr:
        first = (block * group[kind] + tile) * size
        return builder.bind(first if extent % size == 0 else minimum(first, extent - size), "start")

    def count(block: Expr, kind: int) -> Expr:
        if tiles[kind] % group[kind] == 0:
            return group[kind]
        return builder.bind(minimum(tiles[kind] - block * group[kind], group[kind]), "tiles")

    with loop_nest(builder, outer, 4, parallel=elements >= PARALLEL_ELEMENTS) as (base, place, row_block, column_block):
        rows, columns = count(row_block, 0), count(column_block, 1)
        with builder.loop(rows, "row_tile") as row_tile:
            r = start(row_block, row_tile, 0, height, row.extent)
            with builder.loop(columns, "column_tile") as column_tile:
                c = start(column_block, column_tile, 1, width, column.extent)
                _transpose_tile(
                    builder,
                    (source, base + r * row.strides[0] + c, row.strides[0]),
                    (output, place + c * column.strides[1] + r, column.strides[1]),
                    (height, width, lanes),
                )


def _transpose_tile(
    builder: KernelBuilder, source: tuple[Any, Expr, int], output: tuple[Any, Expr, int], tile: tuple[int, int, int]
) -> None:
    """Copy ``height`` rows of ``width`` elements to ``width`` rows of ``height``, ``lanes`` of them at a time.

    ``source`` and ``output`` are buffer, first element and distance between rows.
    """
    height, width, lanes = tile
    first, place = builder.bind(source[1], "first"), builder.bind(output[1], "place")
    step = min(height, lanes)
    for part in range(0, height, step):
        rows = [
            builder.bind(builder.load(source[0], first + (part + r) * source[2], width), "row") for r in range(step)
        ]
        for c, value in enumerate(transpose_lanes(builder, rows, width)):
            builder.store(output[0], place + c * output[2] + part, value, step)


def _power_below(number: int) -> int:
    return 1 << (number.bit_length() - 1)
