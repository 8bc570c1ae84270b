"""Does an artifact compute what its model says? Fresh inputs, repeated calls, any session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgevit.accuracy.compare import AccuracyResult, TensorComparison, compare_tensors, seeded_inputs
from edgevit.accuracy.reference import OnnxRuntimeReference
from edgevit.errors import ArtifactError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model

DEFAULT_SEEDS = (0, 1, 2)
DEFAULT_CALLS = 2
RUN_TIMEOUT = 600.0


def check(
    artifact: Artifact,
    session: Session,
    model: Model,
    *,
    seeds: Sequence[int] = DEFAULT_SEEDS,
    calls: int = DEFAULT_CALLS,
    progress: Callable[[float], None] | None = None,
) -> AccuracyResult:
    """Compare an artifact with ONNX Runtime.

    Calls are repeated on the same inputs because a kernel that leaves state behind (a buffer not cleared, a
    plan that reuses live memory) is right once and wrong the second time.

    Args:
        artifact: what to check.
        session: where it runs.
        model: its source; must be the very model the artifact was compiled from.
        seeds: one set of inputs each.
        calls: runs on each set.
        progress: told the finished share, 0 to 1.

    Raises:
        ArtifactError: ``model`` is not the artifact's source.
        DeviceError: the device failed.
    """
    refuse_other_model(artifact, model)
    reference = OnnxRuntimeReference(model)
    comparisons: list[TensorComparison] = []
    with session.load(artifact) as loaded:
        for done, seed in enumerate(seeds):
            inputs = seeded_inputs(loaded.inputs, seed)
            expected = reference.run(inputs)
            loaded.set_inputs(inputs, timeout=RUN_TIMEOUT)
            for call in range(calls):
                actual = loaded.invoke(timeout=RUN_TIMEOUT)
                comparisons += [compare_tensors(name, expected[name], actual[name]) for name in expected]
                if progress:
                    progress((done * calls + call + 1) / (len(seeds) * calls))
    info = session.describe()
    return AccuracyResult.judge(
        comparisons,
        precision=artifact.manifest.precision,
        seeds=seeds,
        repeats=calls,
        reference=reference.name,
        ran_on=f"{info.kind}: {info.address or info.cpu or 'this machine'}",
        emulated=session.emulated,
        phone=info.phone,
    )


def refuse_other_model(artifact: Artifact, model: Model) -> None:
    """Refuse a model that the artifact was not compiled from.

    Raises:
        ArtifactError: the hashes differ.
    """
    compiled_from = artifact.manifest.model
    if model.sha256 != compiled_from.sha256:
        raise ArtifactError(
            f"the artifact was compiled from another model: {compiled_from.name} with SHA-256 "
            f"{compiled_from.sha256[:12]}…, not {model.sha256[:12]}….",
            where=str(model.source) if model.source else None,
            advice="Pass the file it was compiled from with --reference.",
        )
