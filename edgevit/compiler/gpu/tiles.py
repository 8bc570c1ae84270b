"""How many threads share a kernel's work, and how."""

from __future__ import annotations

from math import gcd

from edgevit.compiler.gpu.builder import Launch, cover
from edgevit.target_schema import Gpu

_WAVES = 8
"""Waves of threads that a shader core should have to choose from: while some wait for memory, others compute."""
_GROUP = 128
"""Threads of a group when nothing asks for more: large enough to fill a wave, small enough to leave registers."""


def lanes_of(*extents: int) -> int:
    """Elements of a vector that divides all extents: 4, 2 or 1."""
    return gcd(4, *extents)


def wanted_threads(gpu: Gpu) -> int:
    """Threads that keep every core of the GPU busy."""
    return gpu.cores * gpu.simd * _WAVES


def group_limit(gpu: Gpu) -> int:
    """Threads of a usual group."""
    return min(_GROUP, gpu.max_threads)


def split(extent_x: int, extent_y: int, gpu: Gpu, *, depth: int = 1) -> Launch:
    """Groups over a plane of threads; neighbours along x belong together.

    Args:
        extent_x, extent_y: threads needed.
        gpu: with the limit of a group.
        depth: threads along z, all in one group.
    """
    limit = group_limit(gpu) // depth
    x = _share(extent_x, min(limit, 32))
    y = _share(extent_y, max(1, limit // x))
    return Launch((cover(extent_x, x), cover(extent_y, y), 1), (x, y, depth))


def line(extent: int, gpu: Gpu) -> Launch:
    """Groups over a line of threads."""
    x = _share(extent, group_limit(gpu))
    return Launch((cover(extent, x), 1, 1), (x, 1, 1))


def _share(extent: int, limit: int) -> int:
    """Threads of a group along an axis: the fewest groups, and then no more threads than they need."""
    return cover(extent, cover(extent, limit))
