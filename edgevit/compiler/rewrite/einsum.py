"""``Einsum`` of two tensors as a matrix product between transposes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from edgevit.compiler.graph import Graph, Node, Tensor


def apply(graph: Graph) -> None:
    """Replace products of two tensors; sums within one tensor and diagonals stay ``Einsum``."""
    for node in list(graph.nodes):
        if node.op == "Einsum" and not node.domain and len(node.inputs) == 2:
            _replace(graph, node)


def _replace(graph: Graph, node: Node) -> None:
    a, b = node.input(0), node.input(1)
    parsed = _parse(node.attrs["equation"], len(a.shape), len(b.shape))
    if parsed is None:
        return
    left, right, result = parsed
    extent = dict(zip(left + right, a.shape + b.shape, strict=True))
    if tuple(extent[letter] for letter in left + right) != a.shape + b.shape:
        return
    batch = [letter for letter in result if letter in left and letter in right]
    summed = [letter for letter in left if letter in right and letter not in result]
    rows = [letter for letter in result if letter not in right]
    columns = [letter for letter in result if letter not in left]
    if set(left) != {*batch, *summed, *rows} or set(right) != {*batch, *summed, *columns}:
        return

    def sizes(*groups: Sequence[str]) -> list[int]:
        return [prod(extent[letter] for letter in group) for group in groups]

    fresh: list[Node] = []
    outer = [extent[letter] for letter in batch]
    first = _ordered(graph, node, a, left, [*batch, *rows, *summed], [*outer, *sizes(rows, summed)], fresh)
    second = _ordered(graph, node, b, right, [*batch, *summed, *columns], [*outer, *sizes(summed, columns)], fresh)
    mixed = graph.tensor(node.output, [*outer, *sizes(rows, columns)])
    fresh.append(Node("MatMul", [first, second], [mixed], layers=node.layers))
    order = [*batch, *rows, *columns]
    split = graph.tensor(node.output, [extent[letter] for letter in order])
    perm = tuple(order.index(letter) for letter in result)
    fresh.append(_reshape(mixed, split, node))
    fresh.append(Node("Transpose", [split], [node.output], {"perm": perm}, node.layers))
    graph.insert_before(node, *fresh)
    graph.remove([node])


def _parse(equation: str, first: int, second: int) -> tuple[str, str, str] | None:
    """Letters of the two inputs and of the result; None for forms that are not a product of two tensors."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        result = "".join(sorted(letter for letter in set(inputs) - {","} if inputs.count(letter) == 1))
    if "." in equation or len(terms) != 2 or (len(terms[0]), len(terms[1])) != (first, second):
        return None
    if any(len(set(term)) != len(term) for term in (*terms, result)) or not set(result) <= set(inputs):
        return None
    return terms[0], terms[1], result


def _ordered(
    graph: Graph, node: Node, x: Tensor, letters: str, order: Sequence[str], shape: Sequence[int], fresh: list[Node]
) -> Tensor:
    """``x`` with its axes in another order, then in another shape."""
    perm = tuple(letters.index(letter) for letter in order)
    if x.data is not None:
        return graph.constant(x.name, x.data.transpose(perm).reshape(shape))
    moved = graph.tensor(x, [x.shape[axis] for axis in perm])
    result = graph.tensor(x, shape)
    fresh += [Node("Transpose", [x], [moved], {"perm": perm}, node.layers), _reshape(moved, result, node)]
    return result


def _reshape(x: Tensor, result: Tensor, node: Node) -> Node:
    return Node("reshape", [x], [result], layers=node.layers)
