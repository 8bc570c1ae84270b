"""Lower a Relax module to machine code in object files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.compiler.kernels import schedule_kernels
from edgevit.compiler.rewrite import rewrite
from edgevit.errors import ToolchainError
from edgevit.target_schema import Target
from edgevit.tuning.records import TuningLog

if TYPE_CHECKING:
    import tvm


@dataclass(frozen=True)
class Lowered:
    """Compiled code, not yet linked.

    Attributes:
        executable: TVM's executable; its ``export_library`` hands object files to a linker.
        kernels: number of kernels each family scheduled.
    """

    executable: tvm.runtime.Executable
    kernels: dict[str, int]


def to_kernels(mod: tvm.IRModule, target: Target, records: TuningLog) -> tuple[tvm.IRModule, dict[str, int]]:
    """Rewrite the graph, turn operators into fused loops and schedule them."""
    import tvm
    from tvm import relax

    fuse = tvm.transform.Sequential(
        [
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
        ]
    )
    with tvm.target.Target(target.tvm_target()):
        return schedule_kernels(fuse(rewrite(mod)), target, records)


def lower(mod: tvm.IRModule, target: Target, records: TuningLog) -> Lowered:
    """Generate code for every kernel and the program that calls them.

    Raises:
        ToolchainError: TVM or LLVM refused.
    """
    import tvm

    try:
        scheduled, kernels = to_kernels(mod, target, records)
        executable = tvm.compile(scheduled, target=tvm.target.Target(target.tvm_target()))
    except (RuntimeError, ValueError, TypeError) as error:  # TVM's own errors are RuntimeErrors
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ToolchainError(
            f"code generation failed: {last}",
            where=f"target {target.name}",
            advice="Rerun with --debug and report the traceback together with 'edgevit devices doctor --json'.",
        ) from error
    return Lowered(executable, kernels)
