"""Fold what scales and shifts whole channels into the weights of a convolution beside it.

Besides BatchNormalization these are the products, quotients, sums and differences with one constant per channel
into which exporters decompose it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})


def apply(graph: Graph) -> None:
    """Fold scales and shifts behind convolutions and, where no padding intervenes, before them.

    A BatchNormalization that meets no convolution becomes a Mul and an Add.
    """
    for node in list(graph.nodes):
        if node.domain or not node.inputs or not node.input(0).dtype.startswith("float"):
            continue
        if node.op in CONVOLUTIONS and node.input(1).is_constant:
            _fold_before(graph, node)
            while _fold_behind(graph, node):
                pass
    for node in list(graph.nodes):
        if node.op == "BatchNormalization" and not node.domain:
            _decompose(graph, node)
    graph.prune()


def _channelwise(node: Node, x: Tensor) -> tuple[Array, Array] | None:
    """Factor and summand, one per channel, that ``node`` applies to ``x``; None if it does something else."""
    if node.domain or node.output.shape != x.shape or len(x.shape) < 2:
        return None
    if node.op == "BatchNormalization":
        return _normalisation(node) if node.input(0) is x else None
    if node.op not in ("Mul", "Div", "Add", "Sub") or node.inputs.count(x) != 1:
        return None
    left = node.inputs[0] is x
    other = _per_channel(node.input(1 if left else 0), x.shape)
    if other is None or (node.op == "Div" and not left):
        return None
    one, zero = np.ones(x.shape[1]), np.zeros(x.shape[1])
    if node.op == "Mul":
        return other, zero
    if node.op == "Div":
        return 1 / other, zero
    if node.op == "Add":
        return one, other
    return (one, -other) if left else (-one, other)


def _normalisation(node: Node) -> tuple[Array, Array] | None:
    arrays = [node.input(index).data for index in range(1, 5)]
    if any(data is None for data in arrays) or node.attrs.get("training_mode"):
        return None
    scale, shift, mean, variance = (np.asarray(data, np.float64) for data in arrays)
    factor = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    return factor, shift - mean * factor


def _per_channel(tensor: Tensor, shape: tuple[int, ...]) -> Array | None:
    """A constant's value for each channel (axis 1 of ``shape``); None if it varies along other axes."""
    if tensor.data is None or tensor.data.ndim > len(shape):
        return None
    data = tensor.data.reshape((1,) * (len(shape) - tensor.data.ndim) + tensor.data.shape)
    if any(extent != 1 for axis, extent in enumerate(data.shape) if axis != 1):
        return None
    return np.broadcast_to(data.reshape(-1).astype(np.float64), (shape[1],))


def _fold_behind(graph: Graph, conv: Node) -> bool:
    user = graph.only_user(conv.output)
    found = None if user is None else _channelwise(user, conv.output)
    if user is None or found is None:
        return False
    factor, summand = found
    weight, bias = _parameters(conv)
    if conv.op == "Conv":
        weight = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
    else:
        # (C in, C out / groups, ...): each group of rows makes its own output channels.
        groups = conv.attrs.get("group", 1)
        grouped = weight.reshape(groups, -1, *weight.shape[1:])
        weight = (grouped * factor.reshape(groups, 1, -1, *(1,) * (weight.ndim - 2))).reshape(weight.shape)
    _assign(graph, conv, weight, bias * factor + summand)
    conv.layers = tuple(dict.fromkeys((*conv.layers, *user.layers)))
    conv.outputs = user.outputs[:1]
    graph.remove([user])
    return True


def _fold_before(graph: Graph, conv: Node) -> None:
    producer = graph.producer(conv.input(0))
    if conv.op != "Conv" or producer is None or graph.only_user(conv.input(0)) is not conv or not producer.inputs:
        return
    before = graph.producer(producer.input(0))
    if before is not None and before.op in CONVOLUTIONS and graph.only_user(before.output) is producer:
        return  # folds into that one, whose padding does not matter
    padded = any(conv.attrs.get("pads", ())) or conv.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    x = next((t for t in producer.inputs if t is not None and not t.is_constant), None)
    found = None if x is None else _channelwise(producer, x)
    if x is None or found is None or (padded and found[1].any()):
        return
    factor, summand = found
    weight, bias = _parameters(conv)
    groups = conv.attrs.get("group", 1)
    # Rows of a group read its own input channels.
    shape = (groups, 1, -1, *(1,) * (weight.ndim - 2))
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    added = (grouped * summand.reshape(shape)).reshape(weight.shape).reshape(len(weight), -1).sum(axis=1)
    _assign(graph, conv, (grouped * factor.reshape(shape)).reshape(weight.shape), bias + added)
    conv.inputs[0] = x
    conv.layers = tuple(dict.fromkeys((*producer.layers, *conv.layers)))
    graph.remove([producer])


def _parameters(conv: Node) -> tuple[Array, Array]:
    """Weight and bias in float64."""
    weight = np.asarray(conv.input(1).data, np.float64)
    if conv.has(2):
        return weight, np.asarray(conv.input(2).data, np.float64)
    return weight, np.zeros(conv.output.shape[1])


def _assign(graph: Graph, conv: Node, weight: Array, bias: Array) -> None:
    dtype, name = conv.output.dtype, conv.output.name
    constants = [graph.constant(f"{name}.weight", weight.astype(dtype))]
    if conv.has(2) or bias.any():
        constants.append(graph.constant(f"{name}.bias", bias.astype(dtype)))
    conv.inputs = [conv.input(0), *constants]
    graph.changed()


def _decompose(graph: Graph, node: Node) -> None:
    x = node.input(0)
    found = _channelwise(node, x)
    if found is None or any(graph.users(t) or graph.is_output(t) for t in node.outputs[1:]):
        return
    shape = (-1, *(1,) * (len(x.shape) - 2))
    factor, summand = (
        graph.constant(f"{node.output.name}.{name}", data.reshape(shape).astype(x.dtype))
        for name, data in zip(("scale", "shift"), found, strict=True)
    )
    product = graph.tensor(node.output, x.shape)
    graph.insert_before(node, Node("Mul", [x, factor], [product], layers=node.layers))
    node.op, node.inputs, node.outputs, node.attrs = "Add", [product, summand], node.outputs[:1], {}
    graph.changed()
