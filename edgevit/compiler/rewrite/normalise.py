"""Bring an imported graph to the form the other rewrites expect."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tvm


def normalise(mod: tvm.IRModule) -> tvm.IRModule:
    """Fold constants, merge equal expressions and drop what no output needs.

    Exporters repeat shape arithmetic, scale constants and casts; later rewrites match patterns and would
    have to allow for each spelling.
    """
    import tvm
    from tvm import relax

    steps = tvm.transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.FoldConstant(),
            relax.transform.EliminateCommonSubexpr(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    result: tvm.IRModule = steps(mod)
    return result
