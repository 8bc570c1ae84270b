"""Check a GPU artifact in emulation and say what that proved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from edgevit.accuracy.check import DEFAULT_CALLS, DEFAULT_SEEDS, check
from edgevit.emulate.frontend import check_front_end
from edgevit.emulate.library import Shipped, read_shipped
from edgevit.emulate.session import GpuSession, connect_gpu
from edgevit.errors import CheckFailed

if TYPE_CHECKING:
    from edgevit.accuracy.compare import AccuracyResult
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model

UNCONFIRMED = "no GPU and no driver's compiler has seen these kernels; nothing is known of their speed"
_MIB = float(1 << 20)


class Proof(BaseModel):
    """What emulation executed, and what it found.

    Attributes:
        tool: compiled and executed the kernels.
        checked: whether every access to memory was checked; then none was wrong.
        launches: of one inference.
        kernels: distinct ones among them.
        peak_bytes: device memory for weights, values between kernels and private workspaces.
        issued_bytes: read from and written to buffers by all threads of one inference.
        distinct_bytes: different bytes touched, launch by launch, in one inference.
        local_bytes: largest shared memory of a group.
        front_end: the OpenCL compiler's front end that read the text for the device.
        second: the other implementation that computed the same.
        second_missing: why there is none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str
    checked: bool
    launches: int
    kernels: int
    peak_bytes: int
    issued_bytes: int
    distinct_bytes: int
    local_bytes: int
    front_end: str | None = None
    second: str | None = None
    second_missing: str | None = None

    def sentences(self) -> tuple[str, ...]:
        """For people and the manifest; without what was not run."""
        lines = [
            f"{self.tool} executed the shipped text: {self.launches} launches of {self.kernels} kernels an inference"
        ]
        if self.checked:
            lines += [
                "no access out of bounds, no uninitialised read, no race, no divergent barrier",
                f"device memory {self.peak_bytes / _MIB:.1f} MiB; a group shares at most {self.local_bytes} bytes",
                f"an inference issues {self.issued_bytes / _MIB:.0f} MiB of reads and writes"
                f" to {self.distinct_bytes / _MIB:.0f} MiB",
            ]
        lines += [f"{one} {verb}" for one, verb in ((self.front_end, "accepts it"), (self.second, "agrees")) if one]
        return tuple(lines)


def check_with_proof(
    artifact: Artifact,
    session: Session,
    model: Model,
    *,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    calls: int = DEFAULT_CALLS,
    second: bool = False,
    progress: Callable[[float], None] | None = None,
) -> tuple[AccuracyResult, Proof | None]:
    """:func:`edgevit.accuracy.check.check`; in an emulated GPU's session also what was proved.

    Args:
        artifact, session, model, seeds, calls, progress: as for ``check``.
        second: also have PoCL execute an fp32 OpenCL artifact, where it is installed.

    Raises:
        CheckFailed: a kernel did what no kernel may do, a device's compiler would refuse it, or PoCL disagrees.
        ArtifactError, DeviceError, ToolchainError: as for ``check``, and what loading raises.
    """
    if not isinstance(session, GpuSession):
        return check(artifact, session, model, seeds=seeds, calls=calls, progress=progress), None
    shipped = read_shipped(artifact)
    gpu = artifact.manifest.target.gpu
    front_end = check_front_end(shipped, gpu) if gpu is not None and shipped.api == "opencl" else None
    result = check(artifact, session, model, seeds=seeds, calls=calls, progress=progress)
    proof = _proof(artifact, session, session.report(), len(seeds) * calls)
    other, missing = _second_opinion(artifact, shipped, model, seeds) if second and result.passed else (None, None)
    return result, proof.model_copy(update={"front_end": front_end, "second": other, "second_missing": missing})


def _proof(artifact: Artifact, session: GpuSession, report: dict[str, Any], runs: int) -> Proof:
    traffic = list(report["traffic"].values())

    def each_run(*names: str) -> int:
        return int(sum(one[name] for one in traffic for name in names)) // runs

    return Proof(
        tool=session.tool,
        checked=session.checked,
        launches=each_run("launches"),
        kernels=len(traffic),
        peak_bytes=artifact.manifest.constant_bytes + report["storage_bytes"] // runs + report["workspace_bytes"],
        issued_bytes=each_run("bytes_read", "bytes_written"),
        distinct_bytes=each_run("distinct_read", "distinct_written"),
        local_bytes=max((one["local_bytes"] for one in traffic), default=0),
    )


def _second_opinion(
    artifact: Artifact, shipped: Shipped, model: Model, seeds: Sequence[int]
) -> tuple[str | None, str | None]:
    """What PoCL is called if it agrees, else why it was not asked."""
    from edgevit.emulate.pocl import pocl_missing

    if shipped.api != "opencl":
        return None, None
    if artifact.manifest.precision != "fp32":
        return None, "PoCL computes no fp16"
    if (reason := pocl_missing()) is not None:
        return None, reason
    with connect_gpu(artifact.manifest.target, executor="pocl") as session:
        result = check(artifact, session, model, seeds=seeds[:1], calls=1)
        if not result.passed:
            raise CheckFailed(
                f"{session.tool} computes something else than edgevit's own executor: {result.failures[0]}.",
                where=f"output {result.worst}",
                advice="The kernels rely on something that not every OpenCL implementation grants; report it.",
            )
        return session.tool, None
