"""The loops that LLVM makes of a kernel, found again in its nest by their multiply-adds.

A loop of the nest and a loop of the assembly with as many floating-point operations an iteration are the same loop:
LLVM leaves the tiles that a family wrote as they are. Spills, and loads that became operands, are only seen there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from edgevit.compiler.assembly import Instruction, Loop, kernel_assembly, parse
from edgevit.compiler.kernels import KernelFamily
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

_VECTOR = re.compile(r"%[xyz]mm|\b[vqds]\d+")
_MOVE = re.compile(r"^v?mov")


@dataclass(frozen=True)
class CompiledLoop:
    """Instructions of one iteration of a loop of the assembly.

    Attributes:
        instructions: all.
        vectors: that occupy a vector pipe: multiply-adds, arithmetic, shuffles.
        loads, stores: of vector registers, the stack's included; an operand in memory is a load.
        spills: instructions that read or write the stack.
    """

    instructions: int
    vectors: int
    loads: int
    stores: int
    spills: int

    @classmethod
    def of(cls, loop: Loop, target: Target) -> CompiledLoop:
        """Counted."""
        loads = stores = 0
        for instruction in loop.instructions:
            moved = ceil(instruction.bytes / target.vector.bytes)
            if instruction.kind == "store":
                stores += max(1, moved)
            else:
                loads += max(1, moved) if instruction.kind == "load" else moved
        vectors = sum(map(_occupies_pipe, loop.instructions))
        return cls(len(loop.instructions), vectors, loads, stores, len(loop.spills))


def compiled_loops(family: KernelFamily, workload: Any, target: Target, choice: Choice) -> Mapping[int, CompiledLoop]:
    """Innermost loops with multiply-adds, by floating-point operations an iteration; of several alike the longest.

    Raises:
        Exception: whatever the family or TVM says of a choice that does not compile.
    """
    found: dict[int, CompiledLoop] = {}
    for function in parse(kernel_assembly(family, workload, target, choice)):
        for loop in function.innermost_loops():
            counted = CompiledLoop.of(loop, target)
            known = found.get(loop.flops)
            if known is None or counted.instructions > known.instructions:
                found[loop.flops] = counted
    found.pop(0, None)
    return found


def _occupies_pipe(instruction: Instruction) -> bool:
    if instruction.kind in ("multiply-add", "multiply-add by lane"):
        return True
    on_vectors = instruction.kind == "other" and _VECTOR.search(instruction.operands)
    return bool(on_vectors) and not _MOVE.match(instruction.mnemonic)
