"""Building elementwise programs: one operation at a time, then composed and brought to a normal form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.compiler.rewrite.pattern import uniform

if TYPE_CHECKING:
    from edgevit.compiler.graph import Tensor

_EXACT = 1 << 24
"""Integers up to here are the same number in every type."""


class ProgramBuilder:
    """Collects the terms of one program over tensors.

    Tensors that are constants filled with one number become ``constant`` terms.

    Args:
        accumulator: of an epilogue, which is operand 0 without being a tensor.
    """

    def __init__(self, accumulator: Operand | None = None) -> None:
        self.inputs: list[Tensor] = []
        self._accumulator = accumulator
        self._terms: list[Term] = []
        # Values are negative for operands until all operands are known: -1 is the first.
        self._known: dict[Term, int] = {}

    @property
    def accumulator(self) -> int:
        """The value of an epilogue's accumulator."""
        assert self._accumulator is not None
        return -1

    def operand(self, tensor: Tensor) -> int:
        """The value of a tensor."""
        number = uniform(tensor)
        if number is not None and (tensor.dtype.startswith("float") or abs(number) <= _EXACT):
            return self.constant(number, tensor.dtype)
        if tensor not in self.inputs:
            self.inputs.append(tensor)
        return -1 - self.inputs.index(tensor) - (self._accumulator is not None)

    def constant(self, number: float, dtype: str) -> int:
        """The value of a number."""
        return self.term("constant", [], (number,), dtype)

    def term(self, op: str, args: Sequence[int], params: Sequence[float] = (), dtype: str = "float32") -> int:
        """The value of an operation; equal operations are computed once."""
        term = Term(op, tuple(args), tuple(map(float, params)), dtype)
        if term not in self._known:
            self._known[term] = len(self._terms)
            self._terms.append(term)
        return self._known[term]

    def inline(self, program: Pointwise, values: Sequence[int]) -> int:
        """The result of another program applied to values of this one."""
        known = list(values)
        for term in program.terms:
            known.append(self.term(term.op, [known[index] for index in term.args], term.params, term.dtype))
        return known[-1] if program.terms else known[0]

    def finish(self, result: int) -> Pointwise:
        """The program whose last value is ``result``, without what it does not need.

        Operands that turn out unused leave :attr:`inputs` too.
        """
        needed = {result}
        for index in reversed(range(len(self._terms))):
            if index in needed:
                needed.update(self._terms[index].args)
        first = 1 if self._accumulator is not None else 0
        keep = [i for i in range(len(self.inputs)) if -1 - i - first in needed]
        self.inputs = [self.inputs[i] for i in keep]
        operands = [Operand(tensor.shape, tensor.dtype) for tensor in self.inputs]
        number = {-1 - i - first: place + first for place, i in enumerate(keep)}
        if self._accumulator is not None:
            operands.insert(0, self._accumulator)
            number[-1] = 0
        order = [index for index in range(len(self._terms)) if index in needed]
        number |= {index: len(operands) + place for place, index in enumerate(order)}
        terms = tuple(
            replace(term, args=tuple(number[arg] for arg in term.args)) for term in (self._terms[i] for i in order)
        )
        assert number[result] == len(operands) + len(terms) - 1 or not terms
        return Pointwise(tuple(operands), terms)


def bias_program(shape: tuple[int, ...], bias: Tensor) -> Pointwise:
    """Epilogue that adds ``bias``, with one value per channel, to an accumulator of ``shape``."""
    operands = (Operand(shape, bias.dtype), Operand(bias.shape, bias.dtype))
    return Pointwise(operands, (Term("add", (0, 1), (), bias.dtype),))
