"""Normalisation of the last axis that no product takes in: ``layer_norm`` and ``rms_norm``.

A group holds some rows in shared memory; the variance is the mean of centred squares.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, div, mod, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.rows import SharedRows
from edgevit.compiler.gpu.tiles import group_limit, lanes_of
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import normalise
from edgevit.compiler.kernels.normalise import Workload
from edgevit.target_schema import Target

NAME = "normalise"
_ROWS = 8


def claim(node: Node) -> Workload | None:
    """Workload of a ``layer_norm`` or ``rms_norm`` node."""
    return normalise.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: input, factors, addends, epilogue operands, output."""
    assert target.gpu is not None
    shape, width = workload.shape, workload.shape[-1]
    count, lanes = prod(shape[:-1]), lanes_of(width)
    threads, held = group_limit(target.gpu), 1
    while held < _ROWS and held < count and 2 * held * width * 4 <= target.gpu.local_bytes // 2:
        held *= 2
    b = ThreadBuilder(name, Launch((cover(count, held), 1, 1), (threads, 1, 1)), storage)
    x = b.argument("x", prod(shape))
    scale = b.argument("scale", width) if workload.scale else None
    bias = b.argument("bias", width) if workload.bias else None
    epilogue = Epilogue(b, workload.epilogue, shape)
    y = b.argument("y", prod(shape))
    first = b.bind(b.group(0) * held, "first")
    rows = SharedRows(b, held, width, lanes)
    rows.read(x, first, count)
    rows.normalise(workload.epsilon, centred=workload.centred)
    vectors, steps = held * (width // lanes), cover(held * (width // lanes), threads)
    with b.loop(steps, "write") as step:
        index = b.bind(step * threads + b.thread(0), "index")
        row = b.bind(first + div(index, width // lanes), "row")
        limits = within((index, vectors, steps * threads), (row, count, cover(count, held) * held))
        with b.inside(limits):
            column = b.bind(mod(index, width // lanes) * lanes, "column")
            value = b.load(rows.buffer, index * lanes, lanes)
            if scale is not None:
                value = value * b.load(scale, column, lanes)
            if bias is not None:
                value = value + b.load(bias, column, lanes)
            value = epilogue.apply(b.bind(value), _coordinates(shape, row, column), lanes)
            b.store(y, row * width + column, value, lanes)
    return b.finish()


def _coordinates(shape: tuple[int, ...], row: Any, column: Any) -> tuple[Any, ...]:
    """Position in the output of an element of a row."""
    place = [column]
    for axis, extent in reversed(list(enumerate(shape[:-1]))):
        place.append(row if axis == 0 else mod(row, extent))
        row = div(row, extent)
    return tuple(reversed(place))
