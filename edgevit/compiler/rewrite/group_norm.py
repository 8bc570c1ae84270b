"""Instance and group normalization as reductions and elementwise operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor


def apply(graph: Graph) -> None:
    """Decompose normalizations over groups of channels whose scale and bias are constant."""
    for node in list(graph.nodes):
        rule = None if node.domain else RULES.get(node.op)
        if rule is not None and node.output.dtype.startswith("float"):
            rule(graph, node)
    graph.prune()


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
    # Subtracted again below: that costs less than keeping the differences between two walks over the values.
    again = compute("Sub", x.shape, x, mean)
    variance = compute("reduce", reduced, square, kind="mean", axes=axes, keepdims=True)
    stable = compute("Add", reduced, variance, np.asarray(epsilon, x.dtype))
    factor = compute("Pow", reduced, stable, np.asarray(-0.5, x.dtype))
    scaled = compute("Mul", x.shape, compute("Mul", x.shape, again, factor), parameters[0])
    compute("Add", x.shape, scaled, parameters[1])
    nodes[-1].outputs = [output]
    graph.insert_before(node, *nodes)
    graph.remove([node])


RULES: dict[str, Callable[[Graph, Node], None]] = {
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
}
