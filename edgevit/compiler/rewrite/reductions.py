"""ONNX's reductions, global pools and softmaxes as ``reduce`` and ``softmax``."""

from __future__ import annotations

from math import prod

from edgevit.compiler.graph import Graph, Node
from edgevit.compiler.rewrite.movement import arrange, integers
from edgevit.compiler.views import View

KINDS = {
    "ReduceMean": "mean",
    "ReduceSum": "sum",
    "ReduceMax": "max",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceL2": "l2",
}
GLOBAL_POOLS = {"GlobalAveragePool": "mean", "GlobalMaxPool": "max"}


def apply(graph: Graph) -> None:
    """Replace every reduction, global pool and softmax of floating-point values."""
    for node in list(graph.nodes):
        if node.domain or not node.inputs or not node.input(0).dtype.startswith("float"):
            continue
        if node.op in GLOBAL_POOLS:
            axes = tuple(range(2, len(node.input(0).shape)))
            node.op, node.attrs = "reduce", {"kind": GLOBAL_POOLS[node.op], "axes": axes, "keepdims": True}
        elif node.op in KINDS:
            _reduce(node)
        elif node.op in ("Softmax", "LogSoftmax"):
            _softmax(graph, node)
    graph.changed()


def _reduce(node: Node) -> None:
    rank = len(node.input(0).shape)
    axes = integers(node, 1, "axes")
    if node.has(1) and axes is None:
        return
    if not axes:
        axes = () if node.attrs.get("noop_with_empty_axes") else tuple(range(rank))
    if not axes:
        return
    attrs = {
        "kind": KINDS[node.op],
        "axes": tuple(sorted(axis % rank for axis in axes)),
        "keepdims": bool(node.attrs.get("keepdims", 1)),
    }
    node.op, node.inputs, node.attrs = "reduce", node.inputs[:1], attrs


def _softmax(graph: Graph, node: Node) -> None:
    x, result = node.input(0), node.output
    rank = len(x.shape)
    axis = node.attrs.get("axis", -1 if graph.opset >= 13 else 1) % max(rank, 1)
    node.attrs = {"log": True} if node.op == "LogSoftmax" else {}
    node.op = "softmax"
    if rank == 0 or axis == rank - 1:
        return
    if graph.opset < 13:
        # Before opset 13 the axes from ``axis`` on were one.
        shape = (prod(x.shape[:axis]), prod(x.shape[axis:]))
        before, after = View.of(x.shape).reshape(shape), View.of(shape)
    else:
        perm = (*(other for other in range(rank) if other != axis), axis)
        before = View.of(x.shape).transpose(perm)
        after = View.of(before.shape).transpose([perm.index(other) for other in range(rank)])
    assert before is not None
    moved, normal = graph.tensor(x, before.shape), graph.tensor(result, before.shape)
    node.inputs, node.outputs = [moved], [normal]
    graph.insert_before(node, arrange(x, before, moved, node.layers))
    graph.insert_after(node, arrange(normal, after, result, node.layers))
