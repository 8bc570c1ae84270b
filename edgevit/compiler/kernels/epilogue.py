"""What happens to a tile's results between the accumulators and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.pointwise_ops import apply_program, operand_loader
from edgevit.compiler.kernels.tile import load_first
from edgevit.compiler.pointwise import Operand, Pointwise, Term

Loader = Callable[[tuple[Expr, ...], int], Expr]


class Epilogue:
    """An elementwise program over a kernel's results.

    A bias (``accumulator + operand`` of one value per channel, first of all) is not computed at the end: the
    accumulators start from it.

    Args:
        builder: kernel under construction.
        program: operand 0 is the accumulator; None stores it unchanged.
        buffers: the other operands.
        shape: of the kernel's output, to which operands broadcast.
        peel_bias: whether accumulators may start from the bias.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        program: Pointwise | None,
        buffers: Sequence[Any],
        shape: tuple[int, ...],
        *,
        peel_bias: bool = True,
    ) -> None:
        self._builder = builder
        self._shape = shape
        self._bias: Loader | None = None
        program = program or Pointwise((Operand(shape),))
        loaders = [
            operand_loader(builder, operand, buffer, shape)
            for operand, buffer in zip(program.operands[1:], buffers, strict=True)
        ]
        place = bias_operand(program, shape) if peel_bias else None
        if place is not None:
            self._bias = loaders.pop(place - 1)
            program = without_bias(program, place)
        self._program = program
        self._loaders = loaders

    @property
    def starts_from_bias(self) -> bool:
        """Whether accumulators have something else than zero to start from."""
        return self._bias is not None

    def start(self, channel: Expr, lanes: int, valid: int) -> Expr:
        """What the accumulators of ``lanes`` channels from ``channel`` start from."""
        if self._bias is None:
            return self._builder.constant(0.0, self._program.operands[0].dtype, lanes)
        return self._read(self._bias, (*[0] * (len(self._shape) - 1), channel), lanes, valid)

    def finish(self, value: Expr, place: tuple[Expr, ...], lanes: int, valid: int) -> Expr:
        """Result for the accumulators of ``lanes`` channels whose first is at ``place`` in the output."""
        if not self._program.terms:
            return value
        operands = [self._read(loader, place, lanes, valid) for loader in self._loaders]
        return apply_program(self._builder, self._program, [value, *operands], lanes)

    @staticmethod
    def _read(loader: Loader, place: tuple[Expr, ...], lanes: int, valid: int) -> Expr:
        return load_first(lambda first, width: loader((*place[:-1], place[-1] + first), width), lanes, valid)


def bias_operand(program: Pointwise, shape: tuple[int, ...]) -> int | None:
    """Operand that a program adds to the accumulator first of all, if it has one value per channel."""
    if not program.terms or program.terms[0].op != "add":
        return None
    first, rest = program.terms[0], program.terms[1:]
    if 0 not in first.args or first.args == (0, 0):
        return None
    place = max(first.args)
    if place >= len(program.operands) or any(index in (0, place) for term in rest for index in term.args):
        return None
    operand = program.operands[place]
    per_channel = operand.shape[-1:] == shape[-1:] and all(extent == 1 for extent in operand.shape[:-1])
    return place if per_channel and operand.dtype == program.operands[0].dtype else None


def without_bias(program: Pointwise, place: int) -> Pointwise:
    """The program for accumulators that hold the bias already."""
    count = len(program.operands)

    def renumber(index: int) -> int:
        if index == count:  # the sum, which the accumulator now is
            return 0
        return index - (index > place) - (index > count)

    terms = tuple(
        Term(term.op, tuple(renumber(index) for index in term.args), term.params, term.dtype)
        for term in program.terms[1:]
    )
    operands = tuple(operand for index, operand in enumerate(program.operands) if index != place)
    return Pointwise(operands, terms)
