"""Small patterns over the graph, written as expressions.

``Op("Mul", x, Op("Sigmoid", x))`` matches ``x * sigmoid(x)`` and ``sigmoid(x) * x``. Additions and
multiplications are matched in any order and any association, divisions by a number as multiplications. Matching
never looks at how often an intermediate value is used: a rewrite replaces the pattern's last node only, and
:meth:`Graph.prune` drops the others if nothing else needs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import combinations
from math import isclose
from typing import Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor

_COMMUTATIVE = ("Add", "Mul", "Max", "Min")
_TOLERANCE = 2e-6
"""Relative; a constant rounded to float32 is within 6e-8 of the number its formula names."""


@dataclass(frozen=True)
class Value:
    """Any tensor; the same name stands for the same tensor."""

    name: str


@dataclass(frozen=True)
class Number:
    """A constant filled with one number, whatever its shape; without ``value`` any number, bound to ``name``."""

    value: float | None = None
    name: str = ""


@dataclass(frozen=True)
class Op:
    """A node's first output, by operator.

    ``Add`` and ``Mul`` may have more than two arguments: they then match any tree of the operator.
    """

    op: str
    args: tuple[Pattern, ...]
    name: str = ""

    def __init__(self, op: str, *args: Pattern | float, name: str = "") -> None:
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "args", tuple(_pattern(arg) for arg in args))
        object.__setattr__(self, "name", name)


@dataclass(frozen=True)
class Either:
    """Whichever of several spellings is there."""

    choices: tuple[Pattern, ...]

    def __init__(self, *choices: Pattern) -> None:
        object.__setattr__(self, "choices", choices)


Pattern = Value | Number | Op | Either


@dataclass(frozen=True)
class Match:
    """What a pattern's names stand for.

    Attributes:
        values: tensors by name.
        numbers: constants by name.
        named: nodes by name.
        nodes: all nodes of the pattern, the last one first.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    named: dict[str, Node] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()


def square(x: Pattern) -> Pattern:
    """``x`` squared."""
    return Either(Op("Mul", x, x), Op("Pow", x, 2.0))


def scaled(x: Pattern, factor: float) -> Pattern:
    """``x * factor``, spelled as a product or as a quotient."""
    return Either(Op("Mul", x, factor), Op("Div", x, 1 / factor))


def uniform(tensor: Tensor | None) -> float | None:
    """The number a constant is filled with; None if it is not constant or holds several."""
    if tensor is None or tensor.data is None or not tensor.data.size:
        return None
    first = tensor.data.reshape(-1)[0]
    if tensor.data.size > 1 and not bool(np.all(tensor.data == first)):
        return None
    return float(first)


def match(graph: Graph, pattern: Pattern, node: Node) -> Match | None:
    """How ``pattern`` matches the value that ``node`` computes; None if it does not."""
    return next(_match(graph, pattern, node.output, Match()), None) if node.outputs else None


def absorbed_layers(graph: Graph, root: Node, interior: Iterable[Node]) -> tuple[str, ...]:
    """Names of the model's nodes that vanish with ``root``: its own and those of nodes that only serve it."""
    inside = {id(node): node for node in (root, *interior)}
    changed = True
    while changed:
        changed = False
        for key, node in list(inside.items()):
            if node is not root and any(
                graph.is_output(output) or any(id(user) not in inside for user in graph.users(output))
                for output in node.outputs
            ):
                del inside[key]
                changed = True
    ordered = [node for node in graph.nodes if id(node) in inside]
    return tuple(dict.fromkeys(layer for node in ordered for layer in node.layers))


def substitute(
    graph: Graph,
    root: Node,
    op: str,
    inputs: list[Tensor | None],
    attrs: dict[str, Any] | None = None,
    interior: Iterable[Node] = (),
) -> None:
    """Let ``root`` compute its output with another operation; ``interior`` are the nodes that this makes idle."""
    root.layers = absorbed_layers(graph, root, interior)
    root.op, root.inputs, root.attrs, root.domain = op, inputs, attrs or {}, ""
    graph.changed()


def _pattern(arg: Pattern | float) -> Pattern:
    return Number(float(arg)) if isinstance(arg, (int, float)) else arg


def _match(graph: Graph, pattern: Pattern, tensor: Tensor, found: Match) -> Iterator[Match]:
    if isinstance(pattern, Value):
        bound = found.values.get(pattern.name)
        if bound is None:
            yield Match({**found.values, pattern.name: tensor}, found.numbers, found.named, found.nodes)
        elif bound is tensor:
            yield found
    elif isinstance(pattern, Number):
        yield from _match_number(pattern, tensor, found)
    elif isinstance(pattern, Either):
        for choice in pattern.choices:
            yield from _match(graph, choice, tensor, found)
    else:
        node = graph.producer(tensor)
        if node is None or node.op != pattern.op or node.domain or node.outputs[0] is not tensor:
            return
        inside = Match(
            found.values,
            found.numbers,
            {**found.named, pattern.name: node} if pattern.name else found.named,
            (*found.nodes, node),
        )
        for args in _arrangements(pattern):
            yield from _match_all(graph, args, node.inputs, inside)


def _match_number(pattern: Number, tensor: Tensor, found: Match) -> Iterator[Match]:
    number = uniform(tensor)
    if number is None:
        return
    if pattern.value is None:
        yield Match(found.values, {**found.numbers, pattern.name: number}, found.named, found.nodes)
    elif isclose(number, pattern.value, rel_tol=_TOLERANCE):
        yield found


def _match_all(
    graph: Graph, patterns: tuple[Pattern, ...], tensors: list[Tensor | None], found: Match
) -> Iterator[Match]:
    if not patterns:
        yield found
        return
    if not tensors or tensors[0] is None:
        return
    for first in _match(graph, patterns[0], tensors[0], found):
        yield from _match_all(graph, patterns[1:], tensors[1:], first)


def _arrangements(pattern: Op) -> Iterator[tuple[Pattern, ...]]:
    """Ways to give a node's inputs to the pattern's arguments."""
    if pattern.op not in _COMMUTATIVE:
        yield pattern.args
        return
    indices = range(len(pattern.args))
    for count in range(1, len(pattern.args)):
        for left in combinations(indices, count):
            right = [index for index in indices if index not in left]
            yield _joined(pattern, left), _joined(pattern, right)


def _joined(pattern: Op, indices: Iterable[int]) -> Pattern:
    args = [pattern.args[index] for index in indices]
    return args[0] if len(args) == 1 else Op(pattern.op, *args)
