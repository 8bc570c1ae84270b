"""Threads of a group that work on one result, and what they make of their parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edgevit.compiler.gpu.builder import ThreadBuilder
from edgevit.compiler.kernels.builder import Expr

Merge = Callable[[Expr, Expr], Expr]


@dataclass(frozen=True)
class Team:
    """Where a thread stands in its group.

    All threads of the group must reach the methods, whatever they work on.

    Attributes:
        builder: kernel under construction.
        part: the thread's number among those that share a result.
        parts: how many those are, a power of two.
        result: number of the result in the group.
        results: of the group.
        parts_adjacent: whether threads of one result lie side by side, rather than those of different results.
    """

    builder: ThreadBuilder
    part: Expr
    parts: int
    result: Expr
    results: int
    parts_adjacent: bool

    def shared(self, lanes: int = 1) -> Any:
        """Memory for one vector per thread."""
        return self.builder.shared(self.parts * self.results * lanes, "parts")

    def combine(self, buffer: Any, value: Expr, merge: Merge, lanes: int = 1) -> Expr:
        """What the parts of a result make together, in every thread that shares it.

        ``buffer`` may be used again: nobody reads it any more when this returns.
        """
        b = self.builder
        if self.parts == 1:
            return b.bind(value, "whole")
        b.store(buffer, self._place(self.part) * lanes, value, lanes)
        step = self.parts // 2
        while step:
            b.barrier()
            with b.when(self.part < step):
                here, there = self._place(self.part) * lanes, self._place(self.part + step) * lanes
                b.store(buffer, here, merge(b.load(buffer, here, lanes), b.load(buffer, there, lanes)), lanes)
            step //= 2
        b.barrier()
        whole = b.bind(b.load(buffer, self._place(0) * lanes, lanes), "whole")
        b.barrier()
        return whole

    def _place(self, part: Expr) -> Expr:
        if self.parts_adjacent:
            return self.result * self.parts + part
        return part * self.results + self.result


def across(builder: ThreadBuilder, vector: Expr, lanes: int, merge: Merge) -> Expr:
    """All lanes of a vector merged."""
    if lanes == 1:
        return vector
    vector = builder.bind(vector, "vector")
    whole = builder.lane(vector, 0, lanes)
    for lane in range(1, lanes):
        whole = merge(whole, builder.lane(vector, lane, lanes))
    return whole
