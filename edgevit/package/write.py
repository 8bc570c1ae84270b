"""``edgevit package``: from an artifact for Metal to a project that runs it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.emulate import available
from edgevit.errors import UserError
from edgevit.files import staged_folder
from edgevit.package.plan import Plan, TensorPlan
from edgevit.package.project import MODEL_FOLDER, SYSTEMS, System, project_files
from edgevit.package.resources import PLAN, model_files, plan_bytes
from edgevit.package.run import verify as execute

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.emulate.build import Progress
    from edgevit.model import Model

SEEDS = (0, 1)
CALLS = 2


@dataclass(frozen=True)
class Packaged:
    """What was written.

    Attributes:
        folder: where.
        system: what for.
        plan: buffers and launches.
        bytes: of all files.
        error: largest error of an output as a share of its largest expected magnitude; None if nothing was executed.
        reason: why nothing was executed.
    """

    folder: Path
    system: System
    plan: Plan
    bytes: int
    error: float | None
    reason: str | None


def parse_system(text: str) -> System:
    """What ``--for`` names.

    Raises:
        UserError: there are no packages for it.
    """
    for system in SYSTEMS:
        if text == system:
            return system
    raise UserError(
        f"there are no packages for {text!r}: only {' and '.join(SYSTEMS)} exist so far.",
        where="--for",
        advice=f"Use --for {' or --for '.join(SYSTEMS)}.",
    )


def refuse_unfit(artifact: Artifact) -> None:
    """Refuse what no package can be made of.

    Raises:
        UserError: the artifact is not for Metal.
    """
    target = artifact.manifest.target
    if target.gpu is not None and target.gpu.api == "metal":
        return
    what = "the CPU" if target.gpu is None else "OpenCL, on the GPU"
    raise UserError(
        f"the artifact was compiled for {what} of {target.name}; packages are made of artifacts for Metal.",
        where=str(artifact.path) if artifact.path else None,
        advice="Compile the model with --target metal-ios or --target metal-macos.",
    )


def refuse_occupied(folder: Path, *, force: bool) -> None:
    """Refuse a place that holds something.

    Raises:
        UserError: a file is there, or a folder that is not empty and ``force`` is not given.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError("a file is there.", where=str(folder), advice="Name a folder with --output.")
    if folder.is_dir() and any(folder.iterdir()) and not force:
        raise UserError(
            "the folder is not empty.",
            where=str(folder),
            advice="Name a new one with --output, or replace everything in it with --force.",
        )


def package_artifact(
    artifact: Artifact,
    model: Model,
    system: System,
    folder: Path,
    *,
    verify: bool = True,
    force: bool = False,
    stage: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Packaged:
    """Write a project that runs an artifact's selected resolution with Metal alone.

    Args:
        artifact: for a Metal target.
        model: its source, which ONNX Runtime computes the expected outputs from.
        system: ``ios`` for an Xcode project, ``macos`` for a Swift package.
        folder: to write; it appears complete or not at all.
        verify: execute the written plan, weights and texts in emulation and compare with ONNX Runtime, where this
            machine can.
        force: replace a folder that is not empty.
        stage: told what begins.
        progress: told kernels compiled for emulation and kernels in all.

    Raises:
        ArtifactError: the artifact is damaged, or is not the model's.
        CheckFailed: what was written computes something else than ONNX Runtime.
        ToolchainError: a kernel cannot be emulated.
        UserError: the artifact is not for Metal, or the folder is occupied or cannot be written.
    """
    from edgevit.accuracy.check import refuse_other_model

    folder = folder.resolve()
    refuse_unfit(artifact)
    refuse_occupied(folder, force=force)
    refuse_other_model(artifact, model)
    tell = stage or (lambda _name: None)
    tell("package")
    files = model_files(artifact, model)
    plan = Plan.model_validate_json(files[PLAN])
    reason = available(artifact.manifest.target) if verify else "the user asked for no check"
    error = None
    if reason is None:
        tell("execute the package in emulation")
        error = _execute(files, model, progress)
        plan = plan.model_copy(update={"emulated": True})
        files[PLAN] = plan_bytes(plan)
    content = {f"{MODEL_FOLDER[system]}/{name}": data for name, data in files.items()}
    content |= project_files(system, plan.model, _facts(plan, error, reason))
    with staged_folder(folder) as aside:
        _write(aside, content)
    return Packaged(folder, system, plan, sum(map(len, content.values())), error, reason)


def _execute(files: dict[str, bytes], model: Model, progress: Progress | None) -> float:
    """Run the files as an app would."""
    with tempfile.TemporaryDirectory() as name:
        _write(Path(name), files)
        return max(execute(Path(name), model, seeds=SEEDS, calls=CALLS, progress=progress), default=0.0)


def _write(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _facts(plan: Plan, error: float | None, reason: str | None) -> dict[str, str]:
    """For the README."""
    executed = (
        f"edgevit has executed exactly these files (plan, weights, kernel texts) on a CPU, with every access to memory "
        f"checked: {len(SEEDS)} inputs, {CALLS} calls each, largest error {error:.2g} of the largest expected value, "
        f"{plan.check.tolerance:g} allowed."
        if error is not None
        else f"These files have not been executed: {reason}."
    )
    return {
        "MODEL": plan.model,
        "ARTIFACT": plan.artifact,
        "TARGET": plan.target,
        "PRECISION": plan.precision,
        "LAUNCHES": str(len(plan.launches)),
        "INPUTS": ", ".join(map(_described, plan.inputs)),
        "OUTPUTS": ", ".join(map(_described, plan.outputs)),
        "EXAMPLE": ", ".join(map(_swift, plan.inputs)),
        "REFERENCE": plan.check.reference,
        "TOLERANCE": f"{plan.check.tolerance:g}",
        "EXECUTED": executed,
    }


def _described(tensor: TensorPlan) -> str:
    return f"`{tensor.name}` {'x'.join(map(str, tensor.shape)) or 'scalar'} {tensor.dtype}"


def _swift(tensor: TensorPlan) -> str:
    """An input as Swift passes it."""
    name = json.dumps(tensor.name, ensure_ascii=False)
    if tensor.dtype == "float32":
        return f"{name}: Tensor(shape: {list(tensor.shape)}, floats: values)"
    return f'{name}: Tensor(shape: {list(tensor.shape)}, dtype: "{tensor.dtype}", data: data)'
