"""Maximum and average pooling of NHWC images: a thread computes a vector of channels of one output pixel."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.flat import coordinates, each, flat_builder
from edgevit.compiler.gpu.reduce import emit as emit_reduction
from edgevit.compiler.gpu.tiles import lanes_of
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import pool
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.pool import Workload
from edgevit.target_schema import Target

NAME = "pool"


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``pool`` node."""
    return pool.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: input, epilogue operands, output."""
    assert target.gpu is not None
    if workload.whole:
        return emit_reduction(workload.whole, target, name, storage)
    windows = workload.windows
    shape, channels = windows.output_shape, windows.channels
    lanes = lanes_of(channels)
    count = prod(shape) // lanes
    b = flat_builder(name, count, target.gpu, storage)
    source = b.argument("source", windows.input_size)
    epilogue = Epilogue(b, workload.epilogue, shape)
    output = b.argument("output", windows.output_size)
    with each(b, count) as index:
        image, row, column, vector = (b.bind(i) for i in coordinates(index, (*shape[:3], channels // lanes)))
        channel = b.bind(vector * lanes, "channel")
        taps = [windows.rows.valid_taps(b, row), windows.columns.valid_taps(b, column)]
        value = b.bind(_accumulate(b, workload, source, (image, row, column, channel), taps, lanes))
        if workload.kind == "average":
            value = b.bind(value * b.splat(_share(b, workload, row, column, taps), lanes))
        result = epilogue.apply(value, (image, row, column, channel), lanes)
        b.store(output, index * lanes, result, lanes)
    return b.finish()


def _accumulate(
    b: ThreadBuilder,
    workload: Workload,
    source: Any,
    place: tuple[Expr, Expr, Expr, Expr],
    taps: list[tuple[Expr, Expr]],
    lanes: int,
) -> Expr:
    """Sum or maximum over the taps inside the image."""
    windows, (image, row, column, channel) = workload.windows, place
    rows, columns = windows.rows, windows.columns
    largest = workload.kind == "max"
    held = b.registers(lanes, name="held")
    b.store(held, 0, b.constant(float(np.finfo(np.float32).min) if largest else 0.0, lanes=lanes), lanes)
    (first_row, row_taps), (first_column, column_taps) = taps
    top = b.bind(row * rows.stride - rows.before + first_row * rows.dilation, "top")
    left = b.bind(column * columns.stride - columns.before + first_column * columns.dilation, "left")
    with b.loop(row_taps, "y") as y:
        line = b.bind((image * rows.size + (top + y * rows.dilation)) * columns.size + left, "line")
        with b.loop(column_taps, "x") as x:
            pixel = line + x * columns.dilation
            value = b.load(source, pixel * windows.channels + channel, lanes)
            total = b.load(held, 0, lanes)
            b.store(held, 0, tirx.max(total, value) if largest else total + value, lanes)
    return b.load(held, 0, lanes)


def _share(b: ThreadBuilder, workload: Workload, row: Expr, column: Expr, taps: list[tuple[Expr, Expr]]) -> Expr:
    """One over the taps that an average counts."""
    windows = workload.windows
    if workload.include_padding:
        count = windows.rows.padded_taps_of(row) * windows.columns.padded_taps_of(column)
    else:
        count = taps[0][1] * taps[1][1]
    return b.bind(b.constant(1.0) / tirx.max(count, 1).astype("float32"), "share")
