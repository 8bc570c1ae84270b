"""Graph rewrites on the imported model, before operators become loops.

Each rewrite is one idea in one file: a TVM pass over a Relax module that leaves the function it computes
unchanged. ``REWRITES`` is their order; a new one joins by being listed there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.compiler.rewrite.normalise import normalise

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Rewrite:
    """A named pass.

    Attributes:
        name: how reports and ``docs`` refer to it.
        apply: Relax module in, equivalent Relax module out.
    """

    name: str
    apply: Callable[[tvm.IRModule], tvm.IRModule]


REWRITES: tuple[Rewrite, ...] = (Rewrite("normalise", normalise),)


def rewrite(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply every rewrite in order."""
    for step in REWRITES:
        mod = step.apply(mod)
    return mod
