"""Kernels whose threads each write one vector, in the order of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import gcd

from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder, cover, div, mod, within
from edgevit.compiler.gpu.tiles import group_limit, line
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.runs import Axis
from edgevit.target_schema import Gpu

_SCALAR_ONLY = ("int64", "uint64", "float64")
"""Types without vectors: Metal has none of 64 bits, and TVM narrows those of int64 to int32."""


def flat_builder(name: str, count: int, gpu: Gpu, storage: Sequence[str]) -> ThreadBuilder:
    """Builder of a kernel of ``count`` threads in a line."""
    return ThreadBuilder(name, line(count, gpu), storage)


@contextmanager
def each(builder: ThreadBuilder, count: int) -> Iterator[Expr]:
    """What the thread of every index below ``count`` does; the others do nothing. No barriers inside."""
    block, grid = builder.launch.block[0], builder.launch.grid[0]
    index = builder.bind(builder.group(0) * block + builder.thread(0), "index")
    with builder.inside(within((index, count, grid * block))):
        yield index


def lanes_for(dtypes: Sequence[str], *extents: int) -> int:
    """Lanes of vectors that divide all extents, for elements of these types: 4, 2 or 1."""
    return 1 if any(dtype in _SCALAR_ONLY for dtype in dtypes) else gcd(4, *extents)


def aligned_lanes(axes: Sequence[Axis], dtypes: Sequence[str], starts: Sequence[int] = ()) -> int:
    """Lanes of vectors along the last axis such that every tensor's are aligned.

    Args:
        axes: outermost first, with the strides of all tensors; 0 where a tensor repeats.
        dtypes: of the elements.
        starts: first elements of the tensors, if those are not 0.
    """
    *outer, inner = axes
    if any(stride not in (0, 1) for stride in inner.strides):
        return 1
    walking = [tensor for tensor, stride in enumerate(inner.strides) if stride]
    steps = [abs(axis.strides[tensor]) for axis in outer for tensor in walking]
    return lanes_for(dtypes, inner.extent, *steps, *starts)


def offsets(builder: ThreadBuilder, index: Expr, axes: Sequence[Axis], lanes: int = 1) -> list[Expr]:
    """Where the vector of a number begins in every tensor that the axes have strides for."""
    places: list[Expr] = [tirx.const(0, "int32") for _ in axes[-1].strides]
    for number, axis in enumerate(reversed(axes)):
        extent, step = (axis.extent // lanes, lanes) if number == 0 else (axis.extent, 1)
        position = index if number == len(axes) - 1 else mod(index, extent)
        index = div(index, extent)
        places = [
            place + position * (stride * step) if stride else place
            for place, stride in zip(places, axis.strides, strict=True)
        ]
    return [builder.bind(place, "place") for place in places]


def coordinates(index: Expr, shape: Sequence[int]) -> tuple[Expr, ...]:
    """Position along every axis of an element of a contiguous tensor."""
    places: list[Expr] = []
    for number, extent in enumerate(reversed(shape)):
        places.append(index if number == len(shape) - 1 else mod(index, extent))
        index = div(index, extent)
    return tuple(reversed(places))


def shared_line(parts: int, others: int, gpu: Gpu) -> tuple[int, int]:
    """Threads that share one result, a power of two not above ``parts``, and results of a group.

    Args:
        parts: that the work of one result can be divided into.
        others: results there are.
        gpu: with the limits of a group.
    """
    limit = group_limit(gpu)
    sharing = 1
    while sharing * 2 <= min(parts, gpu.max_threads):
        sharing *= 2
    # More threads than usual only where so few results are left that cores would lie idle.
    while sharing > limit and others >= gpu.cores:
        sharing //= 2
    return sharing, max(1, min(others, limit // sharing, cover(others, gpu.cores)))
