"""``edgevit check``: does the artifact compute what its model says, and if not, since which operator?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.where import Emulate, Key, Local, Rpc, Ssh, Timeout, Tracker, Where

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.accuracy.bisect import BisectResult
    from edgevit.accuracy.compare import AccuracyResult


def check(
    artifact: Annotated[Path, typer.Argument(help="What 'edgevit compile' wrote.")],
    reference: Annotated[
        Path | None, typer.Option("--reference", help="The ONNX file it was compiled from, if it has moved.")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many random inputs.")] = 3,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Calls on each input.")] = 2,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Find the first operator whose output leaves the tolerance.")
    ] = False,
    rpc: Rpc = None,
    tracker: Tracker = None,
    key: Key = None,
    ssh: Ssh = None,
    emulate: Emulate = False,
    local: Local = False,
    timeout: Timeout = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare ARTIFACT with ONNX Runtime on fresh inputs; exit 1 if it is wrong."""
    from edgevit.accuracy.bisect import bisect as find_first
    from edgevit.accuracy.check import check as compare
    from edgevit.artifact import load_artifact
    from edgevit.cli.output import console, print_json, steps
    from edgevit.errors import CheckFailed
    from edgevit.sources import load_source

    where = Where(rpc, tracker, key, ssh, emulate, local, timeout)
    found: BisectResult | None = None
    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact)
        model = load_source(loaded.manifest, reference, near=artifact.parent)
        with where.connect(loaded, shown) as session:
            shown.stage("check")
            result = compare(loaded, session, model, seeds=range(seeds), calls=calls, progress=shown.share)
            if bisect and not result.passed:
                shown.stage("bisect")
                found = find_first(loaded, session, model, progress=shown.share)
    if as_json:
        print_json({**result.model_dump(mode="json"), "bisect": found.model_dump(mode="json") if found else None})
    else:
        printer = console()
        printer.print(_table(result))
        if found:
            printer.print(found.sentence(), soft_wrap=True)
        if result.passed:
            printer.print(_verdict(result), soft_wrap=True)
    if not result.passed:
        raise CheckFailed(
            f"{result.failures[0]}.",
            where=str(artifact),
            advice="Run again with --bisect to find the operator." if not bisect else None,
        )


def _table(result: AccuracyResult) -> Table:
    from rich.table import Table

    table = Table(title=f"{result.ran_on} against {result.reference}")
    for title in ("output", "max abs error", "relative", "of max |ref|", "cosine", "PSNR", "top-1"):
        table.add_column(title, justify="left" if title == "output" else "right")
    for tensor in result.tensors:
        table.add_row(
            tensor.name,
            _number(tensor.max_abs),
            _number(tensor.max_rel),
            _number(tensor.normalised_error),
            "–" if tensor.cosine is None else f"{tensor.cosine:.7f}",
            "–" if tensor.psnr_db is None else f"{tensor.psnr_db:.1f} dB",
            {True: "same", False: "differs", None: "–"}[tensor.top1_agrees],
        )
    return table


def _verdict(result: AccuracyResult) -> str:
    note = "; emulated: no hardware has confirmed it" if result.emulated else ""
    return (
        f"[green]passed[/]: {len(result.seeds)} inputs × {result.repeats} calls within "
        f"{result.tolerance.normalised_error:g} ({result.precision}){note}"
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
