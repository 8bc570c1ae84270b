"""Nodes that only scale and add: which of their inputs, and how much of each."""

from __future__ import annotations

from math import isfinite
from typing import Any

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Pointwise, Term

Combination = dict[int, float]
"""Factor by input index; -1 stands for the number 1."""

ONE = -1


def combination(node: Node) -> list[tuple[Tensor, float]] | None:
    """Inputs and factors of a node that computes a weighted sum of them; None for any other node.

    A number that is added to all elements comes as a constant tensor among the inputs would: it is left out, so
    use this only where :func:`shift` is 0 or does not matter.
    """
    found = _evaluate(node)
    if found is None:
        return None
    return [(node.input(index), factor) for index, factor in found.items() if index != ONE]


def shift(node: Node) -> float:
    """What a node that computes a weighted sum adds to all elements."""
    return (_evaluate(node) or {}).get(ONE, 0.0)


def weighted(node: Node) -> tuple[Tensor, Tensor] | None:
    """A value and the constant that a node multiplies it by, element by element."""
    ops = [term.op for term in node.attrs["program"].terms] if node.op == "pointwise" else [node.op]
    if ops not in (["Mul"], ["mul"]) or len(node.inputs) != 2 or node.domain:
        return None
    left, right = node.input(0), node.input(1)
    if left.is_constant == right.is_constant:
        return None
    return (right, left) if left.is_constant else (left, right)


def _evaluate(node: Node) -> Combination | None:
    if any(tensor is None for tensor in node.inputs) or node.domain:
        return None
    operands = [_operand(node.input(index), index) for index in range(len(node.inputs))]
    if node.op in ("Add", "Sub", "Mul", "Div"):
        return _apply(node.op.lower(), operands)
    if node.op != "pointwise":
        return None
    program: Pointwise = node.attrs["program"]

    def apply(term: Term, args: list[Any]) -> Combination | None:
        if term.op == "constant":
            return {ONE: float(term.params[0])}
        return None if term.params or None in args else _apply(term.op, args)

    result: Combination | None = program.evaluate(operands, apply)
    return result


def _operand(tensor: Tensor, index: int) -> Combination:
    """The input itself, or the number a constant is filled with."""
    if tensor.data is not None and tensor.data.size and tensor.dtype.startswith("float"):
        low, high = float(tensor.data.min()), float(tensor.data.max())
        if low == high and isfinite(low):
            return {ONE: low}
    return {index: 1.0}


def _apply(op: str, args: list[Combination]) -> Combination | None:
    if op == "neg" and len(args) == 1:
        return _scaled(args[0], -1.0)
    if len(args) != 2:
        return None
    left, right = args
    if op in ("add", "sub"):
        other = right if op == "add" else _scaled(right, -1.0)
        return {key: left.get(key, 0.0) + other.get(key, 0.0) for key in (*left, *other)}
    if op == "mul" and set(left) == {ONE}:
        return _scaled(right, left[ONE])
    if op == "mul" and set(right) == {ONE}:
        return _scaled(left, right[ONE])
    if op == "div" and set(right) == {ONE} and right[ONE]:
        return _scaled(left, 1 / right[ONE])
    return None


def _scaled(value: Combination, factor: float) -> Combination:
    return {key: number * factor for key, number in value.items()}
