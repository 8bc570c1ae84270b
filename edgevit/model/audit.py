"""Which nodes of a model the compiler cannot take, and a refusal that names them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import ModelError
from edgevit.model.graph import all_nodes, node_label
from edgevit.model.operators import ONNX_DOMAINS, is_supported

if TYPE_CHECKING:
    import onnx

_LISTED = 5


@dataclass(frozen=True)
class UnsupportedNode:
    """A node the compiler cannot take.

    Attributes:
        node: its name, or the name of its output where it has none.
        op_type: the operator.
        domain: the operator's domain, empty for ONNX's own.
    """

    node: str
    op_type: str
    domain: str

    def __str__(self) -> str:
        kind = f"{self.domain}::{self.op_type}" if self.domain else self.op_type
        return f"{kind} {self.node!r}"


def unsupported_nodes(proto: onnx.ModelProto) -> list[UnsupportedNode]:
    """Every node whose operator the compiler does not take, in graph order, subgraphs included."""
    found = []
    for node in all_nodes(proto.graph):
        if not is_supported(node.domain, node.op_type):
            domain = "" if node.domain in ONNX_DOMAINS else node.domain
            name = node.name or (node.output[0] if node.output else node_label(node))
            found.append(UnsupportedNode(name, node.op_type, domain))
    return found


def unknown_nodes(proto: onnx.ModelProto) -> list[UnsupportedNode]:
    """Nodes that name no operator at all: not in ONNX at this opset or later, and not the compiler's."""
    from onnx import defs

    known = {schema.name for schema in defs.get_all_schemas() if schema.domain == ""}
    return [found for found in unsupported_nodes(proto) if found.domain or found.op_type not in known]


def refuse_unsupported(nodes: list[UnsupportedNode], where: str | None) -> None:
    """Raise for the given nodes, the first few by name.

    Raises:
        ModelError: there is at least one.
    """
    if not nodes:
        return
    listed = ", ".join(map(str, nodes[:_LISTED]))
    rest = f" and {len(nodes) - _LISTED} more" if len(nodes) > _LISTED else ""
    what = "1 node has an operator" if len(nodes) == 1 else f"{len(nodes)} nodes have operators"
    raise ModelError(
        f"{what} the compiler cannot take: {listed}{rest}.",
        where=where,
        advice="'edgevit info' lists them all; simpler operators or another opset often help.",
    )
