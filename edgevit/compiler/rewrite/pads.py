"""Padding with zeros in front of a convolution, which pads by itself.

Exporters that pad unevenly, as TensorFlow does, write a ``Pad`` of its own. Works on ONNX's operators.
"""

from __future__ import annotations

from edgevit.compiler.graph import Graph, Node
from edgevit.compiler.rewrite.movement import integers


def apply(graph: Graph) -> None:
    """Let convolutions read what their paddings read."""
    for node in graph.nodes:
        if node.op == "Conv" and not node.domain and node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
            _absorb(graph, node)
    graph.prune()


def _absorb(graph: Graph, node: Node) -> None:
    pad = graph.producer(node.input(0))
    widths = _zeros(pad) if pad is not None else None
    if pad is None or widths is None or graph.only_user(pad.output) is not node:
        return
    rank = len(widths) // 2
    before, after = widths[:rank], widths[rank:]
    if min(widths) < 0 or any((*before[:2], *after[:2])):
        return
    explicit = node.attrs.get("auto_pad") != "VALID"
    own = (explicit and node.attrs.get("pads")) or (0,) * 2 * (rank - 2)
    node.attrs["pads"] = tuple(a + b for a, b in zip(own, (*before[2:], *after[2:]), strict=True))
    node.attrs["auto_pad"] = "NOTSET"
    node.inputs[0] = pad.input(0)
    node.layers = tuple(dict.fromkeys((*pad.layers, *node.layers)))
    graph.changed()


def _zeros(node: Node) -> tuple[int, ...] | None:
    """How many zeros a node adds before every axis, then behind; None for other nodes."""
    if node.op != "Pad" or node.domain or node.attrs.get("mode", "constant") != "constant":
        return None
    value = node.input(2).scalar() if node.has(2) else node.attrs.get("value", 0.0)
    widths, axes = integers(node, 1, "pads"), integers(node, 3, "axes")
    if widths is None or value != 0 or (node.has(3) and axes is None):
        return None
    rank = len(node.input(0).shape)
    full = [0] * 2 * rank
    chosen = range(rank) if axes is None else [axis % rank for axis in axes]
    for index, axis in enumerate(chosen):
        full[axis], full[axis + rank] = widths[index], widths[index + len(chosen)]
    return tuple(full)
