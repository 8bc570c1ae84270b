"""Kernel families: code for one kind of operation on any target.

A family recognises the nodes it knows, names their workload, and writes a kernel for it from the target's vector
width, registers, caches and cores. ``FAMILIES`` lists them; a node that none claims goes to TVM, whose loops
:mod:`edgevit.compiler.kernels.default` schedules.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    from edgevit.compiler.graph import Node
    from edgevit.target_schema import Target
    from edgevit.tuning.records import Choice


class KernelFamily(Protocol):
    """What every family module offers.

    Optional are ``pack``, which reorders the node's constants, and ``tasks``, which counts the parts that a choice cuts
    the work into for the threads.
    """

    NAME: str
    VERSION: int
    """Part of a workload's key: raised when old tuning records no longer apply."""

    def claim(self, node: Node) -> Any | None:
        """Workload of a node, or None when the family does not know it."""
        ...

    def space(self, workload: Any, target: Target) -> dict[str, tuple[int, ...]]:
        """Choices a tuner may make, each valid with every other."""
        ...

    def analytic_default(self, workload: Any, target: Target) -> Choice:
        """The choice for an untuned kernel."""
        ...

    def emit(self, workload: Any, target: Target, choice: Choice, name: str) -> Any:
        """TIR function; its arguments are the node's inputs in order, then its outputs."""
        ...


FAMILIES = (
    "winograd",
    "conv",
    "depthwise",
    "attention",
    "matmul",
    "normalise",
    "softmax",
    "reduce",
    "pool",
    "resize",
    "pointwise",
    "permute",
    "copy",
    "gather",
)
"""Modules of this package, in the order in which they are asked."""


@cache
def families() -> tuple[KernelFamily, ...]:
    """The families' modules, imported when first needed."""
    return tuple(cast("KernelFamily", import_module(f"{__name__}.{name}")) for name in FAMILIES)


def claim(node: Node) -> tuple[KernelFamily, Any] | None:
    """The first family that knows a node, and the node's workload."""
    for family in families():
        workload = family.claim(node)
        if workload is not None:
            return family, workload
    return None


def in_space(choice: Choice, family: KernelFamily, workload: Any, target: Target) -> bool:
    """Whether a choice is one that the family offers for a workload, or its default."""
    space = family.space(workload, target)
    if choice.keys() == space.keys() and all(choice[name] in values for name, values in space.items()):
        return True
    return choice == family.analytic_default(workload, target)


def enough_tasks(choice: Choice, family: KernelFamily, workload: Any, target: Target, threads: int) -> bool:
    """Whether a choice that is good for so many threads leaves work for all cores of the target.

    A measurement with fewer threads than cores cannot tell how work should be cut, and fewer tasks look better to it.
    """
    count = getattr(family, "tasks", None)
    if count is None or threads >= target.cores:
        return True
    return bool(count(workload, target, choice) >= least_tasks(family, workload, target))


def least_tasks(family: Any, workload: Any, target: Target) -> int:
    """Two tasks for each core, or as many as the default makes if those are fewer."""
    own: int = family.tasks(workload, target, family.analytic_default(workload, target))
    return min(2 * target.cores, own)


def workload_key(family: KernelFamily, workload: Any) -> str:
    """Name of what a kernel computes, the same in every model that holds the same kernel."""
    digest = hashlib.sha256(repr(workload).encode()).hexdigest()[:16]
    return f"{family.NAME}/{family.VERSION}/{digest}"
