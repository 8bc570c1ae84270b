"""``edgevit compile``: a model and a target become an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgevit.cli.preprocess import Preprocess

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.compiler.prepare import Precision
    from edgevit.manifest import NumericCheck
    from edgevit.tuning.records import TuningLog

_SHOWN_LINES = 3
_PLACES = {
    "this machine": "on this machine",
    "qemu": "under QEMU",
    "emulated kernels": "by executing the text of its kernels",
}


def compile_command(
    model: Annotated[Path, typer.Argument(help="The ONNX file.")],
    target: Annotated[str, typer.Option("--target", "-t", help="A name from 'edgevit targets', or a TOML file.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="FILE.edgevit, or a folder. Default: MODEL-TARGET.edgevit in this folder."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            help="1x3x256x256 or INPUT=1x3x256x256, for dynamic inputs. Given again: one artifact serves all.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="fp32 or fp16. Default: the model's own; on a GPU, the target's."),
    ] = None,
    preprocess: Preprocess = None,
    linker: Annotated[str | None, typer.Option("--linker", help="zig, system or ndk.")] = None,
    tuning_log: Annotated[
        Path | None, typer.Option("--tuning-log", help="Folder of tuning records that come before all others.")
    ] = None,
    no_tuning: Annotated[bool, typer.Option("--no-tuning", help="Use no tuning records, for comparison.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Execute the code and compare with ONNX Runtime.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Compile MODEL for a target, check the result and write the artifact."""
    import time

    from edgevit.cli.output import console, print_json, steps
    from edgevit.compiler.compile import compile_model
    from edgevit.compiler.roads import Roads
    from edgevit.errors import UserError
    from edgevit.model import load, parse_resolutions
    from edgevit.report.units import size
    from edgevit.sources import remember
    from edgevit.targets import get_target
    from edgevit.tuning.records import TuningLog, load_tuning_log

    begun = time.monotonic()
    if no_tuning and tuning_log is not None:
        raise UserError("--tuning-log and --no-tuning exclude each other.", advice="Give one of them.")
    chosen = get_target(target)
    path = output or Path(f"{model.stem}-{chosen.name}.edgevit")
    with steps() as shown:
        shown.stage("load")
        records = TuningLog() if no_tuning else load_tuning_log(chosen, tuning_log)
        loaded = [load(model, shapes=shapes, preprocess=preprocess) for shapes in parse_resolutions(shape or [])]
        artifact = compile_model(
            loaded,
            chosen,
            precision=_precision(precision),
            linker=linker,
            tuning_log=records,
            verify=verify,
            stage=shown.stage,
            build_progress=shown.build,
        )
        artifact = artifact.save(path)
        remember(loaded[0])
    _warn_of_rejected(records)
    if as_json:
        print_json({"path": str(path), "sha256": artifact.sha256, **artifact.manifest.model_dump(mode="json")})
        return
    printer = console()
    bytes_written = sum(info.bytes for info in artifact.manifest.files.values())
    printer.print(
        f"[bold]{path}[/]  {size(bytes_written)} for {chosen.name} in {time.monotonic() - begun:.1f} s",
        soft_wrap=True,
    )
    printer.print(_kernels_line(artifact), soft_wrap=True)
    for resolution in artifact.manifest.resolutions:
        if len(artifact.manifest.resolutions) > 1:
            printer.print(f"[bold]{resolution.text}[/]", soft_wrap=True)
        printer.print(f"MACs: {Roads(resolution.macs, resolution.rest).sentence()}", soft_wrap=True)
        printer.print(_check_line(resolution.check), soft_wrap=True)


def _precision(text: str | None) -> Precision | None:
    from edgevit.errors import UserError

    if text not in (None, "fp32", "fp16"):
        raise UserError(f"there is no precision {text!r}.", where="--precision", advice="Use fp32 or fp16.")
    return cast("Precision | None", text)


def _kernels_line(artifact: Artifact) -> str:
    manifest = artifact.manifest
    families = ", ".join(f"{count} {family}" for family, count in manifest.kernels.items())
    tuning = manifest.tuning
    counts = {"measured": tuning.measured, "borrowed": tuning.borrowed, "estimated": tuning.estimated}
    shaped = "".join(f"{count} {evidence}, " for evidence, count in counts.items() if count)
    return f"kernels: {families}; choices: {shaped}{tuning.default} default"


def _warn_of_rejected(records: TuningLog) -> None:
    from edgevit.cli.output import shown, status

    # A line without an end may be on its way just now: another process is tuning.
    wrong = [line for line in records.rejected if not line.torn]
    for line in wrong[:_SHOWN_LINES]:
        status().print(f"[yellow]ignored[/] {shown(str(line))}", soft_wrap=True)
    if len(wrong) > _SHOWN_LINES:
        more = len(wrong) - _SHOWN_LINES
        status().print(f"[yellow]ignored[/] {more} more lines; 'edgevit records status' lists them", soft_wrap=True)


def _check_line(check: NumericCheck) -> str:
    if check.status != "passed":
        return f"[yellow]not checked[/]: {check.reason}"
    place = _PLACES.get(check.where or "", "in emulation") + (
        "" if check.hardware else "; no hardware has confirmed it yet"
    )
    return (
        f"[green]checked[/] against {check.reference} {place}: max abs error {check.max_abs_error:.3g} "
        f"of max |reference| {check.max_abs_reference:.3g}, {check.seeds} inputs × {check.calls} calls"
    )
