"""Padding with zeros in front of a convolution, which pads by itself.

Exporters that pad unevenly write a ``Pad`` of its own. Expects images channels last, reorderings settled.
"""

from __future__ import annotations

from edgevit.compiler.graph import Graph, Node


def apply(graph: Graph) -> None:
    """Let convolutions read what their paddings read."""
    for node in graph.nodes:
        if node.op in ("conv", "depthwise") and node.attrs.get("sources", 1) == 1:
            _absorb(graph, node)
    graph.prune()


def _absorb(graph: Graph, node: Node) -> None:
    pad = graph.producer(node.input(0))
    if pad is None or pad.op != "pad" or len(pad.input(0).shape) != 4 or graph.only_user(pad.output) is not node:
        return
    before, old, new = pad.attrs["before"], pad.input(0).shape, pad.output.shape
    if (pad.attrs["mode"], pad.attrs["value"]) != ("constant", 0) or old[0] != new[0] or old[3] != new[3]:
        return
    top, left, bottom, right = node.attrs["pads"]
    after = [new[axis] - old[axis] - before[axis] for axis in (1, 2)]
    node.attrs["pads"] = (top + before[1], left + before[2], bottom + after[0], right + after[1])
    node.inputs[0] = pad.input(0)
    node.layers = tuple(dict.fromkeys((*pad.layers, *node.layers)))
    graph.changed()
