"""Where each value lies in the one workspace that a program runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector."""


@dataclass(frozen=True)
class Lifetime:
    """A block of memory and when it is needed.

    Attributes:
        size: bytes.
        first: step that writes it.
        last: last step that reads it.
    """

    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        """Whether both are needed at some step."""
        return self.first <= other.last and other.first <= self.last


def plan(blocks: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Offsets of all blocks, and the bytes they take together.

    Blocks are placed in order of size, largest first, each into the smallest gap that fits among the blocks
    placed before it and alive at the same time ("greedy by size", Pisarchyk and Lee, arXiv 2001.03288).
    """
    order = sorted(range(len(blocks)), key=lambda index: (-blocks[index].size, blocks[index].first, index))
    offsets = [0] * len(blocks)
    placed: list[int] = []
    total = 0
    for index in order:
        size = aligned(blocks[index].size)
        neighbours = sorted((offsets[i], aligned(blocks[i].size)) for i in placed if blocks[i].overlaps(blocks[index]))
        offsets[index] = _smallest_gap(neighbours, size)
        placed.append(index)
        total = max(total, offsets[index] + size)
    return offsets, total


def aligned(size: int) -> int:
    """Bytes rounded up to whole cache lines."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def _smallest_gap(neighbours: Sequence[tuple[int, int]], size: int) -> int:
    """Start of the smallest gap of at least ``size`` bytes between sorted neighbours, else behind them all."""
    best, best_gap = -1, 0
    end = 0
    for offset, length in neighbours:
        gap = offset - end
        if gap >= size and (best < 0 or gap < best_gap):
            best, best_gap = end, gap
        end = max(end, offset + length)
    return best if best >= 0 else end
