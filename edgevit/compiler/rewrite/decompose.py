"""Operators with no kernel of their own, as several that have one: Einsum, instance and group normalization."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import View


def apply(graph: Graph) -> None:
    """Decompose what can be expressed by other ONNX operators."""
    for node in list(graph.nodes):
        rule = None if node.domain else RULES.get(node.op)
        if rule is not None and node.output.dtype.startswith("float"):
            rule(graph, node)
    graph.prune()


def _einsum(graph: Graph, node: Node) -> None:
    """A product of two tensors that is a (batched) product of matrices after reordering axes."""
    equation = node.attrs["equation"].replace(" ", "")
    if len(node.inputs) != 2 or "." in equation or "->" not in equation:
        return
    terms, result = equation.split("->")
    left, right = terms.split(",")
    if any(len(set(term)) != len(term) for term in (left, right, result)) or set(result) - set(left + right):
        return
    a, b = node.input(0), node.input(1)
    extent = dict(zip(left + right, a.shape + b.shape, strict=True))
    if any(dict(zip(term, t.shape, strict=True))[x] != extent[x] for term, t in ((left, a), (right, b)) for x in term):
        return  # an extent of 1 is repeated
    summed = [x for x in left if x in right and x not in result]
    batch = [x for x in result if x in left and x in right]
    rows = [x for x in result if x in left and x not in right]
    columns = [x for x in result if x in right and x not in left]
    if not summed or set(left + right) != {*summed, *batch, *rows, *columns}:
        return

    def matrix(tensor: Tensor, term: str, first: list[str], second: list[str]) -> Tensor:
        shape = (*(extent[x] for x in batch), prod(extent[x] for x in first), prod(extent[x] for x in second))
        view = View.of(tensor.shape).transpose([term.index(x) for x in (*batch, *first, *second)]).reshape(shape)
        assert view is not None
        if tensor.data is not None:
            return graph.constant(tensor.name, np.ascontiguousarray(view.apply(tensor.data)).reshape(shape))
        moved = graph.tensor(tensor, shape)
        graph.insert_before(node, arrange(tensor, view, moved, node.layers))
        return moved

    inputs: list[Tensor | None] = [matrix(a, left, rows, summed), matrix(b, right, summed, columns)]
    made = [*batch, *rows, *columns]
    output = node.output
    sizes = (*(extent[x] for x in batch), prod(extent[x] for x in rows), prod(extent[x] for x in columns))
    product = graph.tensor(output, sizes)
    back = View.of(tuple(extent[x] for x in made)).transpose([made.index(x) for x in result])
    node.op, node.attrs, node.inputs, node.outputs = "MatMul", {}, inputs, [product]
    graph.insert_after(node, arrange(product, back, output, node.layers))


def _instance_norm(graph: Graph, node: Node) -> None:
    """(N, C, ...) normalised along its spatial axes; PyTorch spells group normalization by reshapes around it."""
    x, output = node.input(0), node.output
    scale, bias = node.input(1).data, node.input(2).data
    if scale is None or bias is None:
        return
    epsilon, rank = node.attrs.get("epsilon", 1e-5), len(x.shape)
    axes = tuple(range(2, rank))
    inside, producer, behind = x, graph.producer(x), graph.only_user(output)
    whole = x.shape[1] == 1 and producer is not None and behind is not None and producer.op == behind.op == "Reshape"
    if whole and producer is not None and behind is not None and producer.input(0).shape == behind.output.shape:
        # One group: the axes it was flattened from can be reduced as they are, in any order.
        inside, output, node = producer.input(0), behind.output, behind
        axes = tuple(range(1, len(inside.shape)))
    shape = (-1, *(1,) * (rank - 2)) if inside is x else ()
    layers = tuple(dict.fromkeys((*node.layers, *(behind.layers if behind is node else ()))))
    parameters = [np.asarray(data, x.dtype).reshape(shape) for data in (scale, bias)]
    _normalise(graph, node, inside, output, axes, epsilon, (parameters[0], parameters[1]), layers)


def _group_norm(graph: Graph, node: Node) -> None:
    x, output, groups = node.input(0), node.output, node.attrs["num_groups"]
    scale, bias = node.input(1).data, node.input(2).data
    if scale is None or bias is None or x.shape[1] % groups:
        return
    split = (x.shape[0], groups, x.shape[1] // groups, *x.shape[2:])
    if len(scale) == x.shape[1]:
        shape: tuple[int, ...] = (groups, -1, *(1,) * (len(x.shape) - 2))
    else:  # before opset 21 there was one value per group
        shape = (groups, 1, *(1,) * (len(x.shape) - 2))
    parameters = [np.asarray(data, x.dtype).reshape(shape) for data in (scale, bias)]
    grouped, normal = graph.tensor(x, split), graph.tensor(output, split)
    graph.insert_before(node, Node("reshape", [x], [grouped], layers=node.layers))
    node.outputs = [normal]
    graph.insert_after(node, Node("reshape", [normal], [output], layers=node.layers))
    epsilon = node.attrs.get("epsilon", 1e-5)
    axes = tuple(range(2, len(split)))
    _normalise(graph, node, grouped, normal, axes, epsilon, (parameters[0], parameters[1]), node.layers)


def _normalise(
    graph: Graph,
    node: Node,
    x: Tensor,
    output: Tensor,
    axes: tuple[int, ...],
    epsilon: float,
    parameters: tuple[np.ndarray, np.ndarray],
    layers: tuple[str, ...],
) -> None:
    """Let ``node`` define ``output``: ``x`` with zero mean and unit variance over ``axes``, scaled and shifted."""
    reduced = tuple(1 if axis in axes else extent for axis, extent in enumerate(x.shape))
    nodes: list[Node] = []

    def compute(op: str, shape: tuple[int, ...], *inputs: Tensor | np.ndarray, **attrs: object) -> Tensor:
        result = graph.tensor(output, shape)
        tensors: list[Tensor | None] = [
            graph.constant(output.name, value) if isinstance(value, np.ndarray) else value for value in inputs
        ]
        nodes.append(Node(op, tensors, [result], attrs, layers))
        return result

    mean = compute("reduce", reduced, x, kind="mean", axes=axes, keepdims=True)
    centred = compute("Sub", x.shape, x, mean)
    square = compute("Mul", x.shape, centred, centred)
    variance = compute("reduce", reduced, square, kind="mean", axes=axes, keepdims=True)
    stable = compute("Add", reduced, variance, np.asarray(epsilon, x.dtype))
    factor = compute("Pow", reduced, stable, np.asarray(-0.5, x.dtype))
    scaled = compute("Mul", x.shape, compute("Mul", x.shape, centred, factor), parameters[0])
    compute("Add", x.shape, scaled, parameters[1])
    nodes[-1].outputs = [output]
    graph.insert_before(node, *nodes)
    graph.remove([node])


RULES: dict[str, Callable[[Graph, Node], None]] = {
    "Einsum": _einsum,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
}
