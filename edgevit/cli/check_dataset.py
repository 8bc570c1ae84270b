"""``edgevit check --dataset``: accuracy on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.accuracy.check_dataset import DatasetCheck, DatasetResult
    from edgevit.cli.dataset_options import DatasetOptions
    from edgevit.cli.output import Steps
    from edgevit.cli.where import Where
    from edgevit.device.session import Session
    from edgevit.model import Model


def check_on_dataset(
    artifact: Path, reference: Path | None, where: Where, options: DatasetOptions, *, as_json: bool
) -> None:
    """Judge, print, and hold the result against the floors.

    Raises:
        CheckFailed: the artifact's score is under a floor.
        UserError: the data set, an option, or something that nobody states.
    """
    from edgevit.accuracy.check_dataset import plan_check
    from edgevit.artifact import load_artifact
    from edgevit.cli.output import print_json, steps
    from edgevit.errors import CheckFailed
    from edgevit.model import parse_resolutions
    from edgevit.sources import load_source

    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact).at(parse_resolutions([options.shape] if options.shape else [])[0])
        plan = plan_check(loaded, options.request())
        plan = replace(plan, request=replace(plan.request, least=options.least(plan.task)))
        model = load_source(loaded, reference, near=artifact.parent)
        with where.connect(loaded, shown, checked=False) as session:
            shown.stage("check")
            result = _run(plan, session, model, options, shown)
    if as_json:
        print_json({**result.model_dump(mode="json"), "images_per_second": result.run.images_per_second})
    else:
        _print(result)
    if failures := result.verdict.failures:
        raise CheckFailed(
            f"{failures[0]}.",
            where=str(artifact),
            advice="Compare the reference's score: if it is low too, look at preprocessing and labels.",
        )


def _run(plan: DatasetCheck, session: Session, model: Model, options: DatasetOptions, shown: Steps) -> DatasetResult:
    """Run with a journal, which stays if the run does not reach its end."""
    from edgevit.accuracy.journal import default_path, has_lines
    from edgevit.cli.output import status
    from edgevit.errors import DeviceError

    journal = options.journal or default_path(plan.key(session))
    try:
        result = plan.run(
            session,
            model,
            journal=journal,
            resume=bool(options.resume),
            sheet=options.contact_sheet,
            progress=shown.count,
        )
    except (DeviceError, KeyboardInterrupt):
        if has_lines(journal):
            status().print("What is done is noted: the same command with --resume goes on from there.", soft_wrap=True)
        raise
    if options.journal is None:
        journal.unlink(missing_ok=True)
    return result


def _print(result: DatasetResult) -> None:
    from rich.text import Text

    from edgevit.cli.output import console
    from edgevit.report.dataset_table import dataset_lines, dataset_table
    from edgevit.report.text import printable

    printer = console()
    printer.print(dataset_table(result))
    for line in dataset_lines(result):
        # Text, not markup: names of files may hold square brackets.
        printer.print(Text(printable(line)), soft_wrap=True)
