"""``edgevit package``: a project that runs an artifact, for those who write apps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.package import Packaged


def package(
    artifact: Annotated[Path, typer.Argument(help="What 'edgevit compile' wrote, for a Metal target.")],
    system: Annotated[str, typer.Option("--for", help="ios (an Xcode project) or macos (a Swift package).")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write. Default: MODEL-ios or MODEL-macos here.")
    ] = None,
    shape: Annotated[
        str | None, typer.Option("--shape", help="Which of the artifact's input shapes; default: the first.")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The ONNX file it was compiled from, if it has moved.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Execute the package in emulation and compare with ONNX Runtime."),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that is not empty.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a project that runs ARTIFACT on a GPU of Apple's with Metal alone, and checks itself there."""
    from edgevit.artifact import load_artifact
    from edgevit.cli.output import console, print_json, steps
    from edgevit.model import parse_resolutions
    from edgevit.package import package_artifact, parse_system, refuse_occupied, refuse_unfit
    from edgevit.sources import load_source

    wanted = parse_system(system)
    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact).at(parse_resolutions([shape] if shape else [])[0])
        folder = output or Path(f"{Path(loaded.manifest.model.name).stem}-{wanted}")
        # What the user can mend is said before anything takes time.
        refuse_unfit(loaded)
        refuse_occupied(folder, force=force)
        model = load_source(loaded, reference, near=artifact.parent)
        packaged = package_artifact(
            loaded,
            model,
            wanted,
            folder,
            verify=verify,
            force=force,
            stage=shown.stage,
            progress=shown.count,
        )
    if as_json:
        print_json(_as_json(packaged, folder))
        return
    for line in _lines(packaged, folder):
        console().print(line, soft_wrap=True)


def _as_json(packaged: Packaged, folder: Path) -> dict[str, object]:
    plan = packaged.plan
    return {
        "path": str(folder),
        "for": packaged.system,
        "artifact": plan.artifact,
        "bytes": packaged.bytes,
        "launches": len(plan.launches),
        "kernels": len({launch.kernel for launch in plan.launches}),
        "weights_bytes": plan.weights_bytes,
        "storage_bytes": sum(plan.storages),
        "emulated": plan.emulated,
        "normalised_error": packaged.error,
        "tolerance": plan.check.tolerance,
        "reason": packaged.reason,
    }


def _lines(packaged: Packaged, folder: Path) -> list[str]:
    from edgevit.cli.output import shown
    from edgevit.report.units import size

    plan = packaged.plan
    what = {"ios": "an Xcode project", "macos": "a Swift package"}[packaged.system]
    kernels = len({launch.kernel for launch in plan.launches})
    memory = size(plan.weights_bytes + sum(plan.storages))
    checked = (
        f"[green]executed[/] in emulation: largest error {packaged.error:.2g} of the largest expected value, "
        f"{plan.check.tolerance:g} allowed ({plan.precision})"
        if packaged.error is not None
        else f"[yellow]not executed[/]: {packaged.reason}"
    )
    return [
        f"[bold]{shown(str(folder))}[/]  {what}, {size(packaged.bytes)}",
        f"{len(plan.launches)} launches of {kernels} kernels; {memory} on the GPU",
        checked,
        "no Mac has compiled it and no GPU has run it: its README says how to do both",
    ]
