"""Kernel families: how loops are ordered, tiled, vectorised and spread over threads.

A family recognises the kernels it knows and schedules them for a target's vector width, registers, caches
and cores. ``FAMILIES`` is the order in which they are asked; the last one, ``default``, takes what no other
family claims. What even that cannot improve keeps TVM's own loops and is counted as ``plain``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol, cast

from edgevit.compiler.kernels import default
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice, TuningLog

if TYPE_CHECKING:
    import tvm
    from tvm import tirx


class KernelFamily(Protocol):
    """What every family module offers."""

    NAME: str
    VERSION: int
    """Part of a workload's key: raised when old tuning records no longer apply."""

    def schedule(self, func: tirx.PrimFunc, target: Target, choice: Choice | None) -> tirx.PrimFunc | None:
        """Scheduled copy of ``func``, or None when the family does not know it.

        ``choice`` is a tuned point of the family's space; None asks for the analytic default.
        """
        ...


FAMILIES: tuple[KernelFamily, ...] = (cast("KernelFamily", default),)


def schedule_kernels(mod: tvm.IRModule, target: Target, records: TuningLog) -> tuple[tvm.IRModule, dict[str, int]]:
    """Schedule every kernel of a lowered module.

    Returns:
        The module with scheduled kernels, and how many kernels each family took.
    """
    from tvm import tirx

    taken: Counter[str] = Counter()
    for name, func in list(mod.functions_items()):
        if isinstance(func, tirx.PrimFunc):
            family, scheduled = _schedule_one(func, target, records)
            taken[family] += 1
            if scheduled is not None:
                mod[name] = scheduled
    return mod, dict(sorted(taken.items()))


def workload_key(family: KernelFamily, func: tirx.PrimFunc) -> str:
    """Name of what ``func`` computes, the same in every model that holds the same kernel."""
    import tvm_ffi

    digest = tvm_ffi.structural_hash(func) & (2**64 - 1)
    return f"{family.NAME}/{family.VERSION}/{digest:016x}"


def _schedule_one(func: tirx.PrimFunc, target: Target, records: TuningLog) -> tuple[str, tirx.PrimFunc | None]:
    for family in FAMILIES:
        choice = records.best(workload_key(family, func)) if records else None
        scheduled = family.schedule(func, target, choice)
        if scheduled is not None:
            return family.NAME, scheduled
    return "plain", None
