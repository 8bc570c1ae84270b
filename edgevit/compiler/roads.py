"""Which share of a model's work runs in edgevit's kernels, and which in TVM's own loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.compiler.graph import Graph, Node
    from edgevit.model import Model

MULTIPLYING = ("conv", "winograd", "depthwise", "attention", "matmul")
"""Families whose work counts as multiply-accumulates; other kernels only move and combine values."""


@dataclass(frozen=True)
class Roads:
    """What computes a model.

    Attributes:
        macs: multiply-accumulates by kernel family; ``tvm`` for what no family covers.
        rest: number of nodes that no family covers, by operator.
    """

    macs: dict[str, int]
    rest: dict[str, int]

    def sentence(self) -> str:
        """One line for people."""
        total = sum(self.macs.values())
        shares = ", ".join(f"{family} {count / total:.1%}" for family, count in self.macs.items()) if total else "none"
        rest = ", ".join(f"{count} {operator}" for operator, count in self.rest.items())
        return f"{shares}; left to TVM: {rest or 'nothing'}"


def roads(model: Model) -> Roads:
    """What would compute a model, found without generating code.

    Raises:
        ModelError: a shape is not known before the model runs.
    """
    from edgevit.compiler.kernels import claim
    from edgevit.compiler.prepare import prepare

    graph = prepare(model)
    macs: Counter[str] = Counter()
    rest: list[Node] = []
    for node in graph.nodes:
        found = claim(node)
        if found is not None and found[0].NAME in MULTIPLYING:
            macs[found[0].NAME] += found[1].flops // 2
        elif found is None and node.op != "reshape":
            rest.append(node)
    return Roads(with_rest(macs, rest, graph), operators(rest))


def with_rest(macs: Counter[str], rest: Sequence[Node], graph: Graph) -> dict[str, int]:
    """The families' MACs, largest first, and those of the remaining nodes."""
    from edgevit.compiler.rest import to_onnx
    from edgevit.model.macs import count_macs

    counts = dict(macs.most_common())
    if rest:
        counts["tvm"] = sum(count_macs(to_onnx([node], graph)[0].graph)[0] for node in rest)
    return counts


def operators(nodes: Sequence[Node]) -> dict[str, int]:
    """Number of nodes by operator, most first."""
    return dict(Counter(node.op for node in nodes).most_common())
