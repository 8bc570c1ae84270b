"""Elementwise programs: what an epilogue or an elementwise kernel computes for each element.

A program is a list of operations in single-assignment form. Its first values are operands, read from memory
with numpy's broadcasting against the result's shape; each term adds one value; the last value is the result.
In an epilogue operand 0 is the accumulator of the kernel it ends, already in registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Operand:
    """A tensor that the program reads.

    Attributes:
        shape: right-aligned against the result's shape; extents of 1 are repeated.
        dtype: numpy's name.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Term:
    """One operation.

    Attributes:
        op: key of ``OPERATIONS`` in :mod:`edgevit.compiler.kernels.pointwise_ops`; ``constant`` has no arguments.
        args: earlier values by index, operands first.
        params: numbers that the operation needs besides, such as clip's bounds.
        dtype: of the result, numpy's name.
    """

    op: str
    args: tuple[int, ...] = ()
    params: tuple[float, ...] = ()
    dtype: str = "float32"


@dataclass(frozen=True)
class Pointwise:
    """A program; hashable, so that it can be part of a workload's key.

    Attributes:
        operands: values 0 to n-1.
        terms: values n and up; without any the result is operand 0.
    """

    operands: tuple[Operand, ...]
    terms: tuple[Term, ...] = ()

    @property
    def dtype(self) -> str:
        """Type of the result."""
        return self.terms[-1].dtype if self.terms else self.operands[0].dtype

    def evaluate(self, operands: Sequence[Any], apply: Callable[[Term, list[Any]], Any]) -> Any:
        """Run the program on values that ``apply`` understands; the result is the last value."""
        values = list(operands)
        for term in self.terms:
            values.append(apply(term, [values[index] for index in term.args]))
        return values[-1] if self.terms else values[0]

    def then(self, following: Pointwise, place: int = 0) -> Pointwise:
        """This program with ``following`` behind it, whose operand ``place`` is this program's result.

        The operands are this program's, then those of ``following`` without ``place``.
        """
        count = len(self.operands)
        added = [operand for index, operand in enumerate(following.operands) if index != place]
        shift = len(added)
        own = [_renumber(term, lambda i: i if i < count else i + shift) for term in self.terms]
        result = count + shift + len(own) - 1 if own else 0
        base = count + shift + len(own)

        def follow(index: int) -> int:
            if index == place:
                return result
            if index < len(following.operands):
                return count + index - (index > place)
            return base + index - len(following.operands)

        terms = own + [_renumber(term, follow) for term in following.terms]
        return Pointwise(self.operands + tuple(added), tuple(terms))


def _renumber(term: Term, number: Callable[[int], int]) -> Term:
    return Term(term.op, tuple(number(index) for index in term.args), term.params, term.dtype)
