"""The graph that is compiled: rewritten, if every operator that rewriting introduces has a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgevit.compiler.frontend import to_graph
from edgevit.compiler.half import narrow, widen
from edgevit.compiler.kernels import claim
from edgevit.compiler.rewrite import rewrite

if TYPE_CHECKING:
    from edgevit.compiler.graph import Graph, Node
    from edgevit.model import Model
    from edgevit.target_schema import Target

Precision = Literal["fp32", "fp16"]


def prepare(model: Model, target: Target | None = None, precision: Precision | None = None) -> Graph:
    """Rewritten graph of a model; float16 models in float32, except where the target multiplies float16 vectors.

    ``precision`` overrides the model's own: ``fp32`` computes a float16 model in float32 everywhere, ``fp16`` a
    float32 model in float16 where the target multiplies its vectors.

    Operators of edgevit's own cannot go back to TVM's importer: should one find no kernel (an unusual type, say),
    the whole graph stays as the model has it, and runs in TVM's loops.

    Raises:
        ModelError: a shape is not known before the model runs.
    """
    graph = to_graph(model)
    half = widen(graph)
    rewrite(graph)
    if (half if precision is None else precision == "fp16") and target is not None and target.has("fullfp16"):
        narrow(graph)
    return graph if all(map(_has_a_road, graph.nodes)) else to_graph(model)


def _has_a_road(node: Node) -> bool:
    return not node.op.islower() or node.op == "reshape" or claim(node) is not None
