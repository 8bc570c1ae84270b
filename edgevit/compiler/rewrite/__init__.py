"""Graph rewrites: from ONNX operators to edgevit's.

Each rewrite is one idea in one file: a function that changes a :class:`~edgevit.compiler.graph.Graph` in place and
leaves what it computes unchanged. ``REWRITES`` is their order; a new one joins by being listed there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgevit.compiler.graph import Graph
from edgevit.compiler.rewrite import (
    activations,
    attention,
    batch_norm,
    channels_last,
    constants,
    einsum,
    elementwise,
    fuse,
    group_norm,
    layer_norm,
    linear,
    merge_linear,
    movement,
    pads,
    reductions,
    sink,
)


@dataclass(frozen=True)
class Rewrite:
    """A named pass.

    Attributes:
        name: how reports and ``docs`` refer to it.
        apply: changes a graph in place.
    """

    name: str
    apply: Callable[[Graph], None]


REWRITES: tuple[Rewrite, ...] = (
    Rewrite("constants", constants.apply),
    Rewrite("batch_norm", batch_norm.apply),
    Rewrite("pads", pads.apply),
    Rewrite("einsum", einsum.apply),
    Rewrite("group_norm", group_norm.apply),
    Rewrite("activations", activations.apply),
    Rewrite("layer_norm", layer_norm.apply),
    Rewrite("linear", linear.apply),
    Rewrite("reductions", reductions.apply),
    Rewrite("movement", movement.apply),
    Rewrite("attention", attention.apply),
    Rewrite("elementwise", elementwise.apply),
    Rewrite("channels_last", channels_last.apply),
    # Where convolutions compute queries, keys and values, products can be told from images only now.
    Rewrite("attention_of_images", attention.apply),
    Rewrite("sink", sink.apply),
    Rewrite("fuse", fuse.apply),
    Rewrite("merge_linear", merge_linear.apply),
)


def rewrite(graph: Graph) -> None:
    """Apply every rewrite in order."""
    for step in REWRITES:
        step.apply(graph)
        graph.prune()
