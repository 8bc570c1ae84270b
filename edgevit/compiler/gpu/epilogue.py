"""What happens to a kernel's results between a thread's registers and memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from edgevit.compiler.gpu.builder import ThreadBuilder
from edgevit.compiler.gpu.functions import apply_program
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.pointwise_ops import operand_loader
from edgevit.compiler.pointwise import Operand, Pointwise


class Epilogue:
    """An elementwise program over a kernel's results.

    Its operands become the kernel's next arguments.

    Args:
        builder: kernel under construction.
        program: operand 0 is the result; None stores it unchanged.
        shape: of the kernel's output, to which operands broadcast.
    """

    def __init__(self, builder: ThreadBuilder, program: Pointwise | None, shape: Sequence[int]) -> None:
        self._builder = builder
        self._program = program or Pointwise((Operand(tuple(shape)),))
        self._loaders = [
            operand_loader(builder, o, builder.argument(f"operand{i}", prod(o.shape), o.dtype), tuple(shape))
            for i, o in enumerate(self._program.operands[1:], start=1)
        ]

    def apply(self, value: Expr, place: tuple[Expr, ...], lanes: int = 1) -> Expr:
        """Result for ``lanes`` values whose first is at ``place`` in the output."""
        operands = [load(place, lanes) for load in self._loaders]
        return apply_program(self._builder, self._program, [value, *operands], lanes)
