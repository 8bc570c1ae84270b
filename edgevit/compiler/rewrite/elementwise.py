"""ONNX's elementwise operators as ``pointwise`` nodes, which :mod:`edgevit.compiler.rewrite.fuse` then merges."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from math import isfinite

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.pattern import uniform
from edgevit.compiler.rewrite.programs import ProgramBuilder

Rule = Callable[[ProgramBuilder, Node], "int | None"]

SIMPLE = {
    "Abs": "abs",
    "Add": "add",
    "And": "and",
    "Ceil": "ceil",
    "Cos": "cos",
    "Equal": "equal",
    "Erf": "erf",
    "Exp": "exp",
    "Floor": "floor",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "HardSwish": "hard_swish",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Log": "log",
    "Mish": "mish",
    "Mul": "mul",
    "Neg": "neg",
    "Not": "not",
    "Or": "or",
    "PRelu": "prelu",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Sub": "sub",
    "Tanh": "tanh",
    "Where": "where",
    "Xor": "xor",
}
"""Operators that are one operation without parameters."""

DEFAULTS = {
    "LeakyRelu": ("leaky_relu", (("alpha", 0.01),)),
    "Elu": ("elu", (("alpha", 1.0),)),
    "Celu": ("celu", (("alpha", 1.0),)),
    "Selu": ("selu", (("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805))),
    "HardSigmoid": ("hard_sigmoid", (("alpha", 0.2), ("beta", 0.5))),
}
"""Operators with attributes: the operation, and its parameters with their defaults."""

FLOATING = {"float32", "float16"}
INTEGERS = {"int32", "int64", "bool"}


def apply(graph: Graph) -> None:
    """Replace elementwise operators on types that kernels know; Identity too."""
    for node in graph.nodes:
        rule = None if node.domain or not _known_types(node) else RULES.get(node.op)
        if rule is None:
            continue
        builder = ProgramBuilder()
        result = rule(builder, node)
        if result is None:
            continue
        program = builder.finish(result)
        node.op, node.inputs, node.attrs = "pointwise", list(builder.inputs), {"program": program}
    graph.changed()


def _known_types(node: Node) -> bool:
    tensors = [tensor for tensor in (*node.inputs, *node.outputs) if tensor is not None]
    return len(node.outputs) == 1 and all(tensor.dtype in FLOATING | INTEGERS for tensor in tensors)


def _operands(builder: ProgramBuilder, node: Node) -> list[int]:
    return [builder.operand(tensor) for tensor in node.inputs if tensor is not None]


def _simple(builder: ProgramBuilder, node: Node) -> int | None:
    return builder.term(SIMPLE[node.op], _operands(builder, node), (), node.output.dtype)


def _with_attributes(builder: ProgramBuilder, node: Node) -> int | None:
    op, parameters = DEFAULTS[node.op]
    params = [node.attrs.get(name, default) for name, default in parameters]
    return builder.term(op, _operands(builder, node), params, node.output.dtype)


def _identity(builder: ProgramBuilder, node: Node) -> int | None:
    return builder.operand(node.input(0))


def _divide(builder: ProgramBuilder, node: Node) -> int | None:
    divisor, dtype = uniform(node.input(1)), node.output.dtype
    if divisor and dtype in FLOATING:
        factor = builder.constant(1 / divisor, dtype)
        return builder.term("mul", [builder.operand(node.input(0)), factor], (), dtype)
    return builder.term("div", _operands(builder, node), (), dtype)


def _power(builder: ProgramBuilder, node: Node) -> int | None:
    dtype, exponent = node.output.dtype, uniform(node.input(1))
    x = builder.operand(node.input(0))
    if dtype not in FLOATING:
        return builder.term("mul", [x, x], (), dtype) if exponent == 2 else None
    roots = {0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal"}
    if exponent in roots:
        return builder.term(roots[exponent], [x], (), dtype)
    if exponent in (1.0, 2.0, 3.0, 4.0):
        return reduce(lambda product, _: builder.term("mul", [product, x], (), dtype), range(int(exponent) - 1), x)
    if node.input(1).dtype != dtype:
        return None
    return builder.term("pow", [x, builder.operand(node.input(1))], (), dtype)


def _clip(builder: ProgramBuilder, node: Node) -> int | None:
    dtype, x = node.output.dtype, builder.operand(node.input(0))
    low, high = _bound(node, 1, "min"), _bound(node, 2, "max")
    if isinstance(low, float) and isinstance(high, float):
        return builder.term("clip", [x], (low, high), dtype)
    for op, bound in (("max", low), ("min", high)):
        if bound is not None:
            other = builder.operand(bound) if isinstance(bound, Tensor) else builder.constant(bound, dtype)
            x = builder.term(op, [x, other], (), dtype)
    return x


def _bound(node: Node, index: int, name: str) -> Tensor | float | None:
    """A clip's bound; None if there is none or it is infinite."""
    if not node.has(index):
        number = node.attrs.get(name)
    else:
        number = uniform(node.input(index))
        if number is None:
            return node.input(index)
    # Exporters write the largest float32 where they mean no bound.
    return None if number is None or not isfinite(number) or abs(number) > 3.4e38 else float(number)


def _fold(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: Node) -> int | None:
        return reduce(lambda a, b: builder.term(op, [a, b], (), node.output.dtype), _operands(builder, node))

    return rule


def _mean(builder: ProgramBuilder, node: Node) -> int | None:
    total, dtype = _fold("add")(builder, node), node.output.dtype
    assert total is not None
    return builder.term("mul", [total, builder.constant(1 / len(node.inputs), dtype)], (), dtype)


def _gelu(builder: ProgramBuilder, node: Node) -> int | None:
    op = "gelu_tanh" if node.attrs.get("approximate") == "tanh" else "gelu"
    return builder.term(op, _operands(builder, node), (), node.output.dtype)


def _swish(builder: ProgramBuilder, node: Node) -> int | None:
    alpha, dtype, x = node.attrs.get("alpha", 1.0), node.output.dtype, builder.operand(node.input(0))
    if alpha == 1:
        return builder.term("silu", [x], (), dtype)
    gate = builder.term("sigmoid", [builder.term("mul", [x, builder.constant(alpha, dtype)], (), dtype)], (), dtype)
    return builder.term("mul", [x, gate], (), dtype)


def _cast(builder: ProgramBuilder, node: Node) -> int | None:
    x, dtype = node.input(0), node.output.dtype
    value = builder.operand(x)
    return value if x.dtype == dtype else builder.term("cast", [value], (), dtype)


RULES: dict[str, Rule] = {
    **dict.fromkeys(SIMPLE, _simple),
    **dict.fromkeys(DEFAULTS, _with_attributes),
    "Cast": _cast,
    "CastLike": _cast,
    "Clip": _clip,
    "Div": _divide,
    "Expand": _identity,
    "Gelu": _gelu,
    "Identity": _identity,
    "Max": _fold("max"),
    "Mean": _mean,
    "Min": _fold("min"),
    "Pow": _power,
    "Sum": _fold("add"),
    "Swish": _swish,
}
