"""``edgevit check``: does the artifact compute what its model says, and if not, since which operator?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.dataset_options import (
    ClassesBy,
    ContactSheet,
    Dataset,
    DatasetOptions,
    Floor,
    JournalFile,
    LabelFile,
    Limit,
    MinMap,
    MinMiou,
    MinTop1,
    Resume,
    Shape,
    TaskName,
)
from edgevit.cli.preprocess import Preprocess
from edgevit.cli.where import Adb, Emulate, Key, Local, Rpc, Ssh, Timeout, Tracker, Where

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.accuracy.bisect import BisectResult
    from edgevit.accuracy.compare import AccuracyResult
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.emulate.prove import Proof


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
    dataset: Dataset = None,
    preprocess: Preprocess = None,
    task: TaskName = None,
    labels: LabelFile = None,
    classes: ClassesBy = None,
    limit: Limit = None,
    shape: Shape = None,
    floor: Floor = None,
    min_top1: MinTop1 = None,
    min_map: MinMap = None,
    min_miou: MinMiou = None,
    contact_sheet: ContactSheet = None,
    journal: JournalFile = None,
    resume: Resume = None,
    rpc: Rpc = None,
    tracker: Tracker = None,
    key: Key = None,
    ssh: Ssh = None,
    adb: Adb = None,
    emulate: Emulate = False,
    local: Local = False,
    timeout: Timeout = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare ARTIFACT with ONNX Runtime on fresh inputs, or on a data set; exit 1 if it is wrong."""
    from edgevit.accuracy.bisect import bisect as find_first
    from edgevit.artifact import load_artifact
    from edgevit.cli.check_dataset import check_on_dataset
    from edgevit.cli.output import console, print_json, steps
    from edgevit.emulate.prove import check_with_proof
    from edgevit.errors import CheckFailed, UserError
    from edgevit.sources import load_source

    where = Where(rpc, tracker, key, ssh, emulate, local, timeout, adb)
    options = DatasetOptions(
        dataset=dataset,
        preprocess=preprocess,
        task=task,
        labels=labels,
        classes=classes,
        limit=limit,
        shape=shape,
        floor=floor,
        min_top1=min_top1,
        min_map=min_map,
        min_miou=min_miou,
        contact_sheet=contact_sheet,
        journal=journal,
        resume=resume,
    )
    if dataset is not None:
        if bisect:
            raise UserError("--bisect does not go with --dataset.", advice="Run 'edgevit check ARTIFACT --bisect'.")
        check_on_dataset(artifact, reference, where, options, as_json=as_json)
        return
    options.refuse_stray()
    results: list[AccuracyResult] = []
    proofs: list[Proof | None] = []
    found: BisectResult | None = None
    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact)
        models = [load_source(part, reference, near=artifact.parent) for part in loaded.resolutions()]
        with where.connect(loaded, shown) as session:
            for part, model in zip(loaded.resolutions(), models, strict=True):
                shown.stage("check" if len(models) == 1 else f"check {part.resolution.text}")
                result, proof = check_with_proof(
                    part, session, model, seeds=range(seeds), calls=calls, second=True, progress=shown.share
                )
                results.append(result)
                proofs.append(proof)
                if bisect and found is None and not results[-1].passed:
                    shown.stage("bisect")
                    found = find_first(part, session, model, progress=shown.share)
            recorded = _record(artifact, loaded, session, results, proofs)
    shapes = [resolution.text for resolution in loaded.manifest.resolutions]
    if as_json:
        print_json(_as_json(shapes, results, proofs, found))
    else:
        printer = console()
        for shape, result, proof in zip(shapes, results, proofs, strict=True):
            printer.print(_table(result, shape if len(results) > 1 else None))
            if result.passed:
                printer.print(_verdict(result), soft_wrap=True)
            for line in _proof_lines(proof):
                printer.print(line, soft_wrap=True)
        if recorded:
            printer.print(recorded, soft_wrap=True)
        if found:
            printer.print(found.sentence(), soft_wrap=True)
    failures = [failure for result in results for failure in result.failures]
    if failures:
        raise CheckFailed(
            f"{failures[0]}.",
            where=str(artifact),
            advice="Run again with --bisect to find the operator." if not bisect else None,
        )


def _record(
    path: Path,
    artifact: Artifact,
    session: Session,
    results: list[AccuracyResult],
    proofs: list[Proof | None],
) -> str | None:
    """Write what emulation proved into the artifact's manifest; a sentence about it, None if nothing was proved."""
    from edgevit.compiler.compile import numeric_check, with_checks
    from edgevit.errors import UserError

    if not all(proofs) or not all(result.passed for result in results):
        return None
    checks = [numeric_check(result, session, proof) for result, proof in zip(results, proofs, strict=True)]
    proved = with_checks(artifact, checks)
    if proved.manifest == artifact.manifest:
        return "The artifact's manifest says so already."
    try:
        proved.save(path)
    except UserError as error:
        return f"The artifact's manifest does not say so: {error.message}"
    return "The artifact's manifest now says so."


def _proof_lines(proof: Proof | None) -> list[str]:
    if proof is None:
        return []
    from edgevit.emulate.prove import UNCONFIRMED

    missing = [f"not run: PoCL ({proof.second_missing})"] if proof.second_missing else []
    return [f"  {line}" for line in (*proof.sentences(), *missing, f"not confirmed: {UNCONFIRMED}")]


def _as_json(
    shapes: list[str], results: list[AccuracyResult], proofs: list[Proof | None], found: BisectResult | None
) -> dict[str, object]:
    """The result; of several resolutions, each with its shapes."""
    plain: list[dict[str, object]] = [
        {**result.model_dump(mode="json"), **({"proof": proof.model_dump(mode="json")} if proof else {})}
        for result, proof in zip(results, proofs, strict=True)
    ]
    bisected = {"bisect": found.model_dump(mode="json") if found else None}
    if len(plain) == 1:
        return {**plain[0], **bisected}
    each = [{"shape": shape, **result} for shape, result in zip(shapes, plain, strict=True)]
    return {"passed": all(result.passed for result in results), "resolutions": each, **bisected}


def _table(result: AccuracyResult, shape: str | None) -> Table:
    from rich.table import Table

    table = Table(title=f"{f'{shape}, ' if shape else ''}{result.ran_on} against {result.reference}")
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
