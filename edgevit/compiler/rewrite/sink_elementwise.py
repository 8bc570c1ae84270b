"""Elementwise operators on values whose reordering is pending."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.compiler.rewrite.layout import (
    Factor,
    Groups,
    Lazy,
    bare,
    cost,
    extents,
    factors,
    fit,
    physical,
    uniform,
    view_of,
)
from edgevit.compiler.views import View

if TYPE_CHECKING:
    from edgevit.compiler.rewrite.sink import Walk

_ELEMENTWISE = """
Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu
Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu
Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign
Sin Sinh Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""
ELEMENTWISE = frozenset(_ELEMENTWISE.split())
"""ONNX operators that treat all elements alike, for those that are still there."""


def pointwise(walk: Walk, node: Node) -> bool:
    """Compute in the order of the operand that moves the fewest elements."""
    rank, shape = len(node.output.shape), node.output.shape
    present = [tensor for tensor in node.inputs if tensor is not None]
    operands = [_widened(walk.lazy(tensor), rank) for tensor in present]
    full = [lazy for lazy in operands if lazy.size == node.output.size and not lazy.root.is_constant]
    layouts = {lazy.view.atoms: lazy for lazy in full}

    def price(driver: Lazy) -> tuple[int, bool]:
        groups = _operand_groups(driver, operands)
        return sum(map(cost, operands, (_fitted(lazy, groups) for lazy in operands))), driver.view.is_identity

    ranked = sorted(layouts.values(), key=price)
    groups = _operand_groups(ranked[walk.choose(len(ranked))], operands) if ranked else _outer_groups(operands, shape)
    if groups is None:
        return False
    tensors = [_placed(walk, lazy, old, groups, shape) for lazy, old in zip(operands, present, strict=True)]
    attrs = dict(node.attrs)
    if "program" in attrs:
        program: Pointwise = attrs["program"]
        attrs["program"] = replace(program, operands=tuple(Operand(t.shape, t.dtype) for t in tensors))
    rest = iter(tensors)
    inputs = [None if tensor is None else next(rest) for tensor in node.inputs]
    walk.emit(node, inputs, attrs, extents(groups), view_of(groups, rank))
    return True


def _widened(lazy: Lazy, rank: int) -> Lazy:
    missing = rank - len(lazy.view.dims)
    return Lazy(lazy.root, View(((),) * missing + lazy.view.dims)) if missing else lazy


def _present(lazy: Lazy) -> frozenset[int]:
    return frozenset(axis for axis, dim in enumerate(lazy.view.dims) if dim)


def _operand_groups(driver: Lazy, operands: Sequence[Lazy]) -> Groups:
    """Physical axes of ``driver`` along each of which an operand extends or is repeated, never in part."""
    patterns = [_present(lazy) for lazy in operands]
    return physical(driver, lambda factor: tuple(factor.axis in pattern for pattern in patterns))


def _outer_groups(operands: Sequence[Lazy], shape: Sequence[int]) -> Groups | None:
    """Physical axes of a result that no operand fills alone, such as a gate for channels times one for pixels.

    None unless the operands lie on the same physical axes, each on some of them.
    """
    dynamic = [lazy for lazy in operands if lazy.size > 1 and not lazy.root.is_constant]
    if len({len(lazy.root.shape) for lazy in dynamic}) != 1:
        return None
    axes: list[tuple[Factor, ...]] = [()] * len(dynamic[0].root.shape)
    for lazy in dynamic:
        for index, group in enumerate(factors(lazy.view, lazy.root.shape) or ()):
            if group and axes[index] not in ((), group):
                return None
            axes[index] = group or axes[index]
    groups = tuple(axes)
    patterns = [_present(lazy) for lazy in operands]
    parts = [factor[:2] for group in groups for factor in group]
    if prod(extents(groups)) != prod(shape) or len(set(parts)) < len(parts):
        return None
    return groups if uniform(groups, lambda factor: tuple(factor.axis in pattern for pattern in patterns)) else None


def _fitted(lazy: Lazy, groups: Groups) -> View | None:
    return fit(lazy.view, groups, _present(lazy))


def _placed(walk: Walk, lazy: Lazy, old: Tensor, groups: Groups, shape: Sequence[int]) -> Tensor:
    """An operand in the physical order ``groups`` of a value of logical ``shape``."""
    fitted = _fitted(lazy, groups)
    if fitted is None:
        lazy = _widened(Lazy(walk.settle(old), View.of(old.shape)), len(shape))
        fitted = _fitted(lazy, groups)
        assert fitted is not None
    if lazy.size == 1 and len(lazy.root.shape) <= len(groups):
        return lazy.root
    target = fitted.shape
    if lazy.size < prod(extents(groups)):
        if fitted.is_identity and len(lazy.root.shape) <= len(groups) and bare(lazy.root.shape) == bare(target):
            return lazy.root
        target = bare(target)
    return walk.place(lazy.root, fitted, target)
