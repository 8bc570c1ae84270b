"""Code for GPUs: kernels as one thread's work, and the host code that launches them.

``FAMILIES`` lists the kernel families, in the order in which they are asked for a node. They recognise the same nodes
as their namesakes for CPUs in :mod:`edgevit.compiler.kernels`, and share their workloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from edgevit.compiler.graph import Node
    from edgevit.target_schema import Target


class GpuFamily(Protocol):
    """What every family module offers.

    Optional is ``pack(workload, target, constants)``, which reorders the node's constants.
    """

    NAME: str

    def claim(self, node: Node) -> Any | None:
        """Workload of a node, or None when the family does not know it."""
        ...

    def emit(self, workload: Any, target: Target, name: str, storage: Sequence[str]) -> Any:
        """TIR function that launches the kernel; its arguments are the node's inputs in order, then its outputs.

        ``storage`` says how each of them is stored: ``float16`` or ``float32``; what is not float keeps its type.
        """
        ...


FAMILIES = (
    "product",
    "separable",
    "depthwise",
    "attention",
    "normalise",
    "matmul",
    "softmax",
    "reduce",
    "pool",
    "resize",
    "elementwise",
    "movement",
    "gather",
)
"""Modules of this package, in the order in which they are asked."""


@cache
def families() -> tuple[GpuFamily, ...]:
    """The families' modules, imported when first needed."""
    return tuple(cast("GpuFamily", import_module(f"{__name__}.{name}")) for name in FAMILIES)


def claim(node: Node) -> tuple[GpuFamily, Any] | None:
    """The first family that knows a node, and the node's workload."""
    for family in families():
        workload = family.claim(node)
        if workload is not None:
            return family, workload
    return None
