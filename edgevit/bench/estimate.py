"""Estimate a model's cycles on a target that is not there: the hottest loop of each kernel, times its iterations.

The loop is simulated by llvm-mca; its iterations are the kernel's work divided by the work of one iteration. What
happens outside of these loops, caches, memory and threads are left out: an estimate compares kernels with each
other, or one target with the next; it does not replace a measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgevit.target_schema import Target
from edgevit.targets import require_cpu

if TYPE_CHECKING:
    from edgevit.compiler.assembly import Loop
    from edgevit.compiler.kernels import KernelFamily
    from edgevit.model import Model
    from edgevit.tuning.records import TuningLog

IGNORED = (
    "waiting for caches and memory",
    "all code outside of each kernel's hottest loop",
    "threads: cycles are those of one core",
    "differences between the processor and llvm-mca's model of it",
)
"""What an estimate leaves out."""


@dataclass(frozen=True)
class KernelEstimate:
    """ESTIMATE of one kernel, not a measurement.

    Attributes:
        family: that wrote it.
        workload: key under which tuning records know it.
        calls: how often one inference runs it.
        cycles: of one core in one call; None where llvm-mca cannot read the loop.
        loop_cycles: of one iteration of its hottest loop.
        iterations: of that loop in one call.
        multiply_add_share: of the loop's instructions.
        flops: two per multiply-accumulate, in one call.
        layers: the model's nodes that it computes.
    """

    family: str
    workload: str
    calls: int
    cycles: float | None
    loop_cycles: float | None
    iterations: float
    multiply_add_share: float
    flops: int
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """ESTIMATE of a model's cycles on one core of a target, not a measurement.

    Attributes:
        model: name of its file.
        target: compiled for.
        cpu: the target's processor.
        simulated: processors whose pipelines llvm-mca simulated.
        kernels: most cycles first.
    """

    model: str
    target: str
    cpu: str
    simulated: tuple[str, ...]
    kernels: tuple[KernelEstimate, ...]

    @property
    def cycles(self) -> float:
        """Of all kernels that could be estimated."""
        return sum((kernel.cycles or 0.0) * kernel.calls for kernel in self.kernels)

    def notes(self) -> list[str]:
        """What a reader must know besides the figures."""
        notes = [f"This is an ESTIMATE; nothing was run. It ignores {'; '.join(IGNORED)}."]
        others = [cpu for cpu in self.simulated if cpu != self.cpu]
        if others:
            notes.append(f"llvm-mca does not know {self.cpu}: the pipeline is that of {', '.join(others)}.")
        unknown = sum(kernel.cycles is None for kernel in self.kernels)
        if unknown:
            notes.append(f"{unknown} kernels hold instructions that llvm-mca cannot read; they count nothing.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Everything; ``estimate`` is true."""
        return {
            "estimate": True,
            "model": self.model,
            "target": self.target,
            "cpu": self.cpu,
            "simulated": list(self.simulated),
            "ignored": list(IGNORED),
            "cycles": self.cycles,
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def estimate(
    model: Model,
    target: Target,
    records: TuningLog | None = None,
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> Estimate:
    """Compile each kernel of a model for a target and estimate its cycles.

    Args:
        model: from :func:`edgevit.load`.
        target: to generate code for; it need not be at hand.
        records: tuning records that choose kernels' shapes.
        progress: told the finished share of the work, 0 to 1.

    Raises:
        EnvironmentFailure: llvm-mca is not installed, or does not answer.
        UserError: the target's kernels run on a GPU.
    """
    from edgevit.bench.mca import find_mca
    from edgevit.compiler.kernels import claim
    from edgevit.compiler.prepare import prepare

    require_cpu(target, "An estimate of cycles")
    find_mca()
    found: dict[Any, list[Any]] = {}
    for node in prepare(model, target).nodes:
        claimed = claim(node)
        if claimed is not None:
            entry = found.setdefault((claimed[0].NAME, claimed[1]), [*claimed, 0, []])
            entry[2] += 1
            entry[3] += node.layers
    kernels: list[KernelEstimate] = []
    simulated: dict[str | None, None] = {}
    for done, (family, workload, calls, layers) in enumerate(found.values()):
        kernel, cpu = estimate_kernel(family, workload, target, records, calls=calls, layers=tuple(layers))
        kernels.append(kernel)
        simulated[cpu] = None
        progress((done + 1) / len(found))
    kernels.sort(key=lambda kernel: -(kernel.cycles or 0.0) * kernel.calls)
    name = model.source.name if model.source else "model.onnx"
    return Estimate(name, target.name, target.cpu, tuple(cpu for cpu in simulated if cpu), tuple(kernels))


def estimate_kernel(
    family: KernelFamily,
    workload: Any,
    target: Target,
    records: TuningLog | None = None,
    *,
    calls: int = 1,
    layers: tuple[str, ...] = (),
) -> tuple[KernelEstimate, str | None]:
    """Estimate of one kernel, and the processor that was simulated.

    Raises:
        EnvironmentFailure: llvm-mca is not installed, or does not answer.
    """
    from edgevit.bench.mca import loop_cycles
    from edgevit.compiler.assembly import hottest_loop, kernel_assembly, parse
    from edgevit.compiler.kernels import in_space, workload_key

    key = workload_key(family, workload)
    pick = records.find(key, lambda choice, _: in_space(choice, family, workload, target)) if records else None
    loop = hottest_loop(parse(kernel_assembly(family, workload, target, pick.choice if pick else None)))
    cycles = loop_cycles(loop.text, target) if loop else None
    iterations = _iterations(loop, family.NAME, workload) if loop else 0.0
    kernel = KernelEstimate(
        family=family.NAME,
        workload=key,
        calls=calls,
        cycles=cycles.each * iterations if cycles else None,
        loop_cycles=cycles.each if cycles else None,
        iterations=iterations,
        multiply_add_share=loop.multiply_add_share if loop else 0.0,
        flops=workload.flops,
        layers=layers,
    )
    return kernel, cycles.cpu if cycles else None


def _iterations(loop: Loop, family: str, workload: Any) -> float:
    """Iterations of a kernel's hottest loop that do all of its work."""
    from edgevit.compiler.roads import MULTIPLYING

    if family in MULTIPLYING and loop.flops:
        return float(workload.flops / loop.flops)
    return float(workload.bytes / loop.bytes) if loop.bytes else 0.0
