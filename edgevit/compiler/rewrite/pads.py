"""Fold a separate Pad into the padding of the convolution behind it: TensorFlow's "same" as exporters spell it."""

from __future__ import annotations

from edgevit.compiler.graph import Graph, Node
from edgevit.compiler.rewrite.movement import integers
from edgevit.compiler.rewrite.pattern import uniform


def apply(graph: Graph) -> None:
    """Drop zero padding of spatial axes whose every reader is a convolution."""
    for node in list(graph.nodes):
        if node.op != "Pad" or node.domain or graph.is_output(node.output):
            continue
        pads, users = _spatial_pads(node), graph.users(node.output)
        if pads is None or not users or not all(_takes_pads(user, node) for user in users):
            continue
        for user in users:
            own = user.attrs.get("pads") or (0,) * len(pads)
            user.attrs = {**user.attrs, "pads": tuple(a + b for a, b in zip(own, pads, strict=True))}
            user.attrs.pop("auto_pad", None)
            user.inputs[0] = node.input(0)
            user.layers = tuple(dict.fromkeys((*node.layers, *user.layers)))
        graph.remove([node])


def _spatial_pads(node: Node) -> tuple[int, ...] | None:
    """Zeros before and behind each spatial axis; None if something else is padded."""
    rank, axes, widths = len(node.input(0).shape), integers(node, 3, "axes"), integers(node, 1, "pads")
    value = uniform(node.input(2)) if node.has(2) else node.attrs.get("value", 0.0)
    if widths is None or value != 0 or node.attrs.get("mode", "constant") != "constant" or rank < 3:
        return None
    if node.has(3) and axes is None:
        return None
    chosen = range(rank) if axes is None else [axis % rank for axis in axes]
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(chosen):
        before[axis], after[axis] = widths[index], widths[index + len(chosen)]
    if min(*before, *after) < 0 or any((*before[:2], *after[:2])):
        return None
    return (*before[2:], *after[2:])


def _takes_pads(user: Node, pad: Node) -> bool:
    valid = user.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return user.op == "Conv" and not user.domain and user.inputs[0] is pad.output and valid
