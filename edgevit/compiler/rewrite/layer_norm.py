"""Layer and root-mean-square normalization, whole or spelled out, as ``layer_norm`` and ``rms_norm``."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.movement import arrange, integers
from edgevit.compiler.rewrite.pattern import Either, Match, Number, Op, Pattern, Value, absorbed_layers, match, square
from edgevit.compiler.views import View

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]

X = Value("x")
EPSILON = Number(name="epsilon")
MEAN = Op("ReduceMean", X, name="mean")
CENTRED = Op("Sub", X, MEAN)
VARIANCE = Op("ReduceMean", square(CENTRED), name="variance")
POWER = Op("ReduceMean", square(X), name="variance")


def _inverse_root(x: Pattern) -> Pattern:
    """``1 / sqrt(x)``."""
    return Either(
        Op("Reciprocal", Op("Sqrt", x)),
        Op("Div", Number(1.0), Op("Sqrt", x)),
        Op("Pow", x, -0.5),
        Op("Sqrt", Op("Reciprocal", x)),
    )


def _normalised(x: Pattern, variance: Pattern) -> Pattern:
    inside = Op("Add", variance, EPSILON)
    return Either(Op("Div", x, Op("Sqrt", inside)), Op("Mul", x, _inverse_root(inside)))


LAYER_NORM = _normalised(CENTRED, VARIANCE)
RMS_NORM = _normalised(X, POWER)
# Keras multiplies the scale into the factor: x * f + (bias - mean * f) with f = scale / sqrt(variance + epsilon).
FACTOR = Op("Mul", _inverse_root(Op("Add", VARIANCE, EPSILON)), Value("scale"))
FOLDED = Op("Add", Op("Mul", X, FACTOR), Op("Sub", Value("bias"), Op("Mul", MEAN, FACTOR)))
LAST = {"Div", "Mul", "Add"}


def apply(graph: Graph) -> None:
    """Replace normalisations along constant axes; nodes that reorder axes surround those not on the last ones."""
    for node in list(graph.nodes):
        if node.domain not in ("", "com.microsoft") or not node.output.dtype.startswith("float"):
            continue
        if node.op in WHOLE:
            _whole(graph, node)
        elif node.op in LAST and not node.domain:
            _spelled_out(graph, node)
    graph.prune()


WHOLE = {
    "LayerNormalization": "layer_norm",
    "RMSNormalization": "rms_norm",
    "SimplifiedLayerNormalization": "rms_norm",
}


def _whole(graph: Graph, node: Node) -> None:
    x, operands = node.input(0), node.inputs[1:]
    if any(tensor is not None and not tensor.is_constant for tensor in operands):
        return
    if len(node.outputs) > 1 and any(graph.users(t) or graph.is_output(t) for t in node.outputs[1:]):
        return
    rank = len(x.shape)
    axes = tuple(range(node.attrs.get("axis", -1) % rank, rank))
    scale, bias = (_vector(operands[i], x.shape, axes) if i < len(operands) else None for i in range(2))
    if any(t is not None and v is None for t, v in zip(operands, (scale, bias), strict=False)):
        return
    del node.outputs[1:]
    _emit(graph, node, WHOLE[node.op], x, axes, node.attrs.get("epsilon", 1e-5), scale, bias, ())


def _spelled_out(graph: Graph, node: Node) -> None:
    found = match(graph, FOLDED, node)
    if found is not None:
        _keras(graph, node, found)
        return
    kind, found = "layer_norm", match(graph, LAYER_NORM, node)
    if found is None:
        kind, found = "rms_norm", match(graph, RMS_NORM, node)
    axes = _axes(found) if found is not None else None
    if found is None or axes is None:
        return
    x, interior = found.values["x"], list(found.nodes)
    last, scale, bias = node, None, None
    scaling = _affine_step(graph, last, "Mul", x.shape, axes)
    if scaling is not None:
        interior.append(last)
        last, scale = scaling
    shift = _affine_step(graph, last, "Add", x.shape, axes)
    if shift is not None:
        interior.append(last)
        last, bias = shift
    _emit(graph, last, kind, x, axes, found.numbers["epsilon"], scale, bias, interior)


def _keras(graph: Graph, node: Node, found: Match) -> None:
    axes, x = _axes(found), found.values["x"]
    if axes is None:
        return
    scale, bias = (_vector(found.values[name], x.shape, axes) for name in ("scale", "bias"))
    if scale is not None and bias is not None:
        _emit(graph, node, "layer_norm", x, axes, found.numbers["epsilon"], scale, bias, found.nodes)


def _axes(found: Match) -> tuple[int, ...] | None:
    """Axes that all of the pattern's means are taken over; None if they differ or drop out of the shape."""
    x, result = found.values["x"], None
    for name in ("mean", "variance"):
        node = found.named.get(name)
        if node is None:
            continue
        axes = integers(node, 1, "axes")
        rank = len(x.shape)
        if not axes or not node.attrs.get("keepdims", 1):
            return None
        ordered = tuple(sorted(axis % rank for axis in axes))
        if result not in (None, ordered):
            return None
        result = ordered
    return result if result and found.nodes[0].output.shape == x.shape else None


def _affine_step(
    graph: Graph, node: Node, op: str, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[Node, Array] | None:
    """The only user of ``node`` if it multiplies or adds a constant along the normalised axes, and that constant."""
    user = graph.only_user(node.output)
    if user is None or user.op != op or user.domain or user.output.shape != shape:
        return None
    other = next((tensor for tensor in user.inputs if tensor is not node.output), None)
    vector = _vector(other, shape, axes)
    return None if vector is None else (user, vector)


def _vector(tensor: Tensor | None, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array | None:
    """A constant's values along ``axes``, flat; None if it varies along others or is not constant."""
    if tensor is None or tensor.data is None or tensor.data.ndim > len(shape):
        return None
    data = tensor.data.reshape((1,) * (len(shape) - tensor.data.ndim) + tensor.data.shape)
    if any(extent != 1 and axis not in axes for axis, extent in enumerate(data.shape)):
        return None
    kept = tuple(shape[axis] if axis in axes else 1 for axis in range(len(shape)))
    return np.ascontiguousarray(np.broadcast_to(data, kept)).reshape(-1)


def _emit(
    graph: Graph,
    last: Node,
    op: str,
    x: Tensor,
    axes: tuple[int, ...],
    epsilon: float,
    scale: Array | None,
    bias: Array | None,
    interior: Any,
) -> None:
    """Let ``last`` become the normalisation, between reorderings if ``axes`` are not the last one."""
    output, rank = last.output, len(x.shape)
    layers = absorbed_layers(graph, last, interior)
    constants = [
        None if data is None else graph.constant(f"{output.name}.{name}", data.astype(x.dtype))
        for name, data in (("scale", scale), ("bias", bias))
    ]
    last.op, last.domain, last.layers, last.attrs = op, "", layers, {"epsilon": float(epsilon)}
    if axes == (rank - 1,):
        last.inputs = [x, *constants]
        graph.changed()
        return
    others = tuple(axis for axis in range(rank) if axis not in axes)
    rows, width = tuple(x.shape[axis] for axis in others), prod(x.shape[axis] for axis in axes)
    before = View.of(x.shape).transpose((*others, *axes)).reshape((*rows, width))
    restored = View.of((*rows, *(x.shape[axis] for axis in axes)))
    after = restored.transpose([(*others, *axes).index(axis) for axis in range(rank)])
    assert before is not None
    moved, normal = graph.tensor(x, (*rows, width)), graph.tensor(output, (*rows, width))
    last.inputs, last.outputs = [moved, *constants], [normal]
    graph.insert_before(last, arrange(x, before, moved, layers))
    graph.insert_after(last, arrange(normal, after, output, layers))
