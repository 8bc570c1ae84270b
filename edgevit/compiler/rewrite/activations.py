"""Activation functions in exporters' spellings, as one elementwise operation each."""

from __future__ import annotations

from math import pi, sqrt

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.compiler.rewrite.pattern import Either, Match, Number, Op, Pattern, Value, match, scaled, substitute

X = Value("x")
SIGMOID = Either(
    Op("Sigmoid", X),
    Op("Div", Number(1.0), Op("Add", Op("Exp", Op("Neg", X)), 1.0)),
    Op("Reciprocal", Op("Add", Op("Exp", Op("Neg", X)), 1.0)),
)
SILU = Either(
    Op("Mul", X, SIGMOID),
    Op("Div", X, Op("Add", Op("Exp", Op("Neg", X)), 1.0)),
)


def _clipped(x: Pattern, low: float, high: float) -> Pattern:
    """``x`` between two numbers."""
    spellings = [
        Op("Clip", x, low, high),
        Op("Min", Op("Max", x, low), high),
        Op("Max", Op("Min", x, high), low),
    ]
    if low == 0:
        spellings.append(Op("Min", Op("Relu", x), high))
    return Either(*spellings)


SHIFTED = _clipped(Op("Add", X, 3.0), 0.0, 6.0)
HARD_SIGMOID = Either(scaled(SHIFTED, 1 / 6), _clipped(Op("Add", scaled(X, 1 / 6), 0.5), 0.0, 1.0))
HARD_SWISH = Either(
    Op("Mul", X, SHIFTED, 1 / 6),
    Op("Div", Op("Mul", X, SHIFTED), 6.0),
    Op("Mul", X, Op("HardSigmoid", X, name="hard_sigmoid")),
    Op("Mul", X, HARD_SIGMOID),
)
ERF = Op("Add", Op("Erf", scaled(X, 1 / sqrt(2))), 1.0)
CUBE = Either(Op("Mul", X, X, X), Op("Pow", X, 3.0), Op("Mul", X, Op("Pow", X, 2.0)))
INNER = Either(
    Op("Mul", Op("Add", X, Op("Mul", CUBE, 0.044715)), sqrt(2 / pi)),
    Op("Mul", X, Op("Add", Op("Mul", X, X, 0.044715), 1.0), sqrt(2 / pi)),
    Op("Mul", X, Op("Add", Op("Mul", Op("Pow", X, 2.0), 0.044715), 1.0), sqrt(2 / pi)),
    Op("Mul", X, Op("Add", Op("Mul", X, X, 0.044715 * sqrt(2 / pi)), sqrt(2 / pi))),
)
TANH = Op("Add", Op("Tanh", INNER), 1.0)


def _half_product(x: Pattern, y: Pattern) -> Pattern:
    """``x * y / 2``."""
    return Either(
        Op("Mul", x, y, 0.5),
        Op("Div", Op("Mul", x, y), 2.0),
        Op("Mul", Op("Div", x, 2.0), y),
        Op("Mul", x, Op("Div", y, 2.0)),
    )


PATTERNS: tuple[tuple[str, Pattern], ...] = (
    ("hard_swish", HARD_SWISH),
    ("gelu", _half_product(X, ERF)),
    ("gelu_tanh", _half_product(X, TANH)),
    ("mish", Op("Mul", X, Op("Tanh", Op("Softplus", X)))),
    ("silu", SILU),
    ("hard_sigmoid", HARD_SIGMOID),
    ("sigmoid", SIGMOID),
    ("softplus", Op("Log", Op("Add", Op("Exp", X), 1.0))),
    ("softsign", Op("Div", X, Op("Add", Op("Abs", X), 1.0))),
)
"""Operation and spelling, the larger patterns before their parts."""

PARAMS: dict[str, tuple[float, ...]] = {"hard_sigmoid": (1 / 6, 0.5)}
LAST = {"Mul", "Div", "Sigmoid", "Reciprocal", "Clip", "Min", "Max", "Log"}
"""Operators that can be the last of a pattern."""


def apply(graph: Graph) -> None:
    """Replace spelled-out activation functions of floating-point values."""
    for node in reversed(graph.nodes):
        if node.op in LAST and not node.domain and node.output.dtype.startswith("float"):
            _recognise(graph, node)
    graph.prune()


def _recognise(graph: Graph, node: Node) -> None:
    for op, spelling in PATTERNS:
        found = match(graph, spelling, node)
        if found is None or not _same_function(node.output, found):
            continue
        x = found.values["x"]
        program = Pointwise((Operand(x.shape, x.dtype),), (Term(op, (0,), PARAMS.get(op, ()), x.dtype),))
        substitute(graph, node, "pointwise", [x], {"program": program}, found.nodes)
        return


def _same_function(output: Tensor, found: Match) -> bool:
    """Whether constants did not widen the result and attributes are those of the formula."""
    inner = found.named.get("hard_sigmoid")
    if inner is not None:
        alpha, beta = inner.attrs.get("alpha", 0.2), inner.attrs.get("beta", 0.5)
        if abs(alpha * 6 - 1) > 1e-4 or beta != 0.5:
            return False
    return found.values["x"].shape == output.shape
