"""The loop nest of a kernel as numbers: what each stretch of straight-line code does, how often, and where it reads.

Read from the kernel's TIR, before LLVM: iterations of every loop are known there, and it takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from edgevit.tuning.static.index import Counter, Index


@dataclass
class Work:
    """Instructions of straight-line code, in vector registers of the target.

    Attributes:
        multiply_adds: fused, or pairs of multiplications and additions where there is no fused one.
        arithmetic: other operations on vectors or floating-point scalars.
        divisions: and square roots.
        shuffles: across lanes.
        loads: from memory.
        folded: loads that an x86 instruction takes as its operand; among ``loads``.
        stores: to memory.
        calls: of functions of a library, one for each lane.
        flops: two for every lane of every multiply-add.
    """

    multiply_adds: float = 0.0
    arithmetic: float = 0.0
    divisions: float = 0.0
    shuffles: float = 0.0
    loads: float = 0.0
    folded: float = 0.0
    stores: float = 0.0
    calls: float = 0.0
    flops: int = 0

    @property
    def instructions(self) -> float:
        """All of them, as they are decoded."""
        counted = (self.multiply_adds, self.arithmetic, self.divisions, self.shuffles, self.loads, self.stores)
        return sum(counted) - self.folded

    def add(self, other: Work, times: float = 1.0) -> None:
        """Add so many times what another stretch does."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + times * getattr(other, each.name))


@dataclass(frozen=True, eq=False)
class Access:
    """Reads or writes of an array in memory.

    Attributes:
        array: its name in this kernel.
        size: bytes of the whole array.
        item: bytes of an element.
        index: of the first element, in elements.
        lanes: consecutive elements.
        writes: whether it is a store.
    """

    array: str
    size: int
    item: int
    index: Index
    lanes: int
    writes: bool


@dataclass(eq=False)
class Stretch:
    """Straight-line code.

    Attributes:
        work: its instructions.
        chain: operations that wait for each other, on the accumulator that has most.
        pressure: vector registers that are in use at once.
        accesses: to memory.
    """

    work: Work = field(default_factory=Work)
    chain: int = 0
    pressure: int = 0
    accesses: list[Access] = field(default_factory=list)


@dataclass(eq=False)
class Loop:
    """A loop, or what a condition guards.

    Attributes:
        counter: of the loop; None for a condition.
        times: iterations; for a condition the share of cases in which it holds.
        parallel: whether threads share the iterations.
        parts: of the body, in order.
    """

    counter: Counter | None
    times: float
    parallel: bool = False
    parts: list[Loop | Stretch] = field(default_factory=list)

    @property
    def innermost(self) -> bool:
        """Whether no loop lies inside."""
        return all(isinstance(part, Stretch) or (part.counter is None and part.innermost) for part in self.parts)

    def stretches(self) -> Iterator[tuple[Stretch, tuple[Loop, ...]]]:
        """Every stretch with the loops around it, this one first."""
        for part in self.parts:
            if isinstance(part, Stretch):
                yield part, (self,)
            else:
                yield from ((stretch, (self, *path)) for stretch, path in part.stretches())
