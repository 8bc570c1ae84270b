"""``edgevit demo``: the whole way on the embedded model, with nothing to bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.demo import Stop, Tour


def demo(
    folder: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the model, scenes, artifacts and results.")
    ] = Path("edgevit-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Compile the embedded MobileViT-XXS, serve it over RPC, check what it recognises, time it beside ONNX Runtime."""
    from edgevit.cli.output import console, print_json, steps
    from edgevit.demo import run_demo, to_json
    from edgevit.report.tables import bench_table

    with steps() as shown:
        tour = run_demo(folder, stage=shown.stage, share=shown.share, build_progress=shown.build)
    if as_json:
        print_json(to_json(tour))
        return
    printer = console()
    if tour.host.latency:
        printer.print(bench_table(tour.host.latency))
    for line in _summary(tour):
        printer.print(line, soft_wrap=True)
    if tour.host.latency:
        for note in tour.host.latency.notes():
            printer.print(f"note: {note}", soft_wrap=True)


def _summary(tour: Tour) -> list[str]:
    lines = [f"[bold]host[/]   {_verdict(tour.host)}", f"       {_recognised(tour.host)}"]
    if tour.board:
        lines.append(f"[bold]board[/]  {_verdict(tour.board)}; emulated, so nothing is said of its speed")
        lines.append(f"       {_recognised(tour.board)}")
    else:
        lines.append(
            "[bold]board[/]  skipped: QEMU is not installed (Debian, Ubuntu: apt-get install qemu-user-static)"
        )
    lines.append(f"model, scenes, artifacts and results.json are in {tour.folder}")
    return lines


def _verdict(stop: Stop) -> str:
    from edgevit.report.units import size

    worst = next(tensor for tensor in stop.accuracy.tensors if tensor.name == stop.accuracy.worst)
    library = stop.artifact.manifest.files[stop.artifact.manifest.library.file].bytes
    return (
        f"[green]correct[/] over RPC on {stop.device.address}: max abs error {worst.max_abs:.2g} of max "
        f"|reference| {worst.max_reference:.3g} ({size(library)} for {stop.artifact.manifest.target.cpu})"
    )


def _recognised(stop: Stop) -> str:
    from edgevit.accuracy.classification import ClassificationScores

    scores = stop.recognition.scores
    shares = f"the artifact {scores.score.artifact:.1%}, ONNX Runtime {scores.score.reference:.1%}"
    if isinstance(scores, ClassificationScores):
        top1 = scores.artifact.top1
        shares += f"; 95 % interval {top1.low:.1%} to {top1.high:.1%}"
    return f"recognises the class of {stop.recognition.run.images} drawn scenes: {shares}"
