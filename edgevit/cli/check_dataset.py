"""``edgevit check --dataset``: accuracy on labelled images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.accuracy.check_dataset import DatasetResult
    from edgevit.accuracy.classification import Proportion
    from edgevit.cli.where import Where

_SHOWN = 10
"""Unreadable images named in the terminal; JSON has all."""


@dataclass(frozen=True)
class DatasetOptions:
    """The options as given."""

    dataset: Path | None
    preprocess: str | None
    task: str | None
    labels: Path | None
    limit: int | None
    shape: str | None
    min_top1: float | None

    def refuse_stray(self) -> None:
        """Refuse options that mean nothing without a data set.

        Raises:
            UserError: one was given.
        """
        from edgevit.errors import UserError

        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise UserError(
                    f"--{field.name.replace('_', '-')} needs --dataset.", advice="Name the data set's folder."
                )


def check_on_dataset(
    artifact: Path, reference: Path | None, where: Where, options: DatasetOptions, *, as_json: bool
) -> None:
    """Judge, print, and hold the result against the floor.

    Raises:
        CheckFailed: the artifact's top-1 is under the floor.
        UserError: the data set, an option, or something that nobody states.
    """
    from edgevit.accuracy.check_dataset import plan_check
    from edgevit.artifact import load_artifact
    from edgevit.cli.output import print_json, steps
    from edgevit.errors import CheckFailed
    from edgevit.model import parse_resolutions
    from edgevit.sources import load_source

    assert options.dataset is not None
    with steps() as shown:
        shown.stage("load")
        loaded = load_artifact(artifact).at(parse_resolutions([options.shape] if options.shape else [])[0])
        plan = plan_check(
            loaded,
            options.dataset,
            task=options.task,
            preprocess=options.preprocess,
            labels=options.labels,
            limit=options.limit,
        )
        model = load_source(loaded, reference, near=artifact.parent)
        with where.connect(loaded, shown) as session:
            shown.stage("check")
            result = plan.run(session, model, progress=shown.share)
    if as_json:
        print_json({**result.model_dump(mode="json"), "images_per_second": result.run.images_per_second})
    else:
        print_result(result)
    top1 = result.scores.artifact.top1
    if options.min_top1 is not None and top1.value < options.min_top1:
        raise CheckFailed(
            f"top-1 is {top1.value:.4f}, under the floor of {options.min_top1:g}.",
            where=str(artifact),
            advice="Compare the reference's top-1: if it is low too, look at preprocessing and labels.",
        )


def print_result(result: DatasetResult) -> None:
    """Both executors side by side, how often they agree, and what was left out."""
    from rich.text import Text

    from edgevit.cli.output import console

    printer = console()
    printer.print(_table(result))
    agreement, run = result.scores.agreement, result.run
    lines = [
        f"same top-1: {agreement}, {agreement.count} of {agreement.of}",
        f"images: {run.images} of {result.available} in {result.classes} classes, at {result.shape}; "
        f"{run.images_per_second:.1f} images per second, reading and both runs",
        f"preprocessing: {result.preprocessing.sentence()}; from {result.preprocessing_from}",
        *_left_out(result),
    ]
    if run.emulated:
        lines.append("emulated: no hardware has confirmed it")
    for line in lines:
        # Text, not markup: names of files may hold square brackets.
        printer.print(Text(line), soft_wrap=True)


def _table(result: DatasetResult) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="accuracy, with 95 % intervals")
    for title in ("", "top-1", "top-5"):
        table.add_column(title, justify="left" if not title else "right")
    scores, run = result.scores, result.run
    for name, accuracy in ((run.reference, scores.reference), (f"artifact on {run.ran_on}", scores.artifact)):
        table.add_row(Text(name), _cell(accuracy.top1), _cell(accuracy.top5))
    return table


def _cell(proportion: Proportion | None) -> str:
    return "–" if proportion is None else str(proportion)


def _left_out(result: DatasetResult) -> list[str]:
    lines = []
    if unreadable := result.run.unreadable:
        lines.append(f"left out, unreadable: {len(unreadable)}")
        lines += [f"  {image.name}: {image.reason}" for image in unreadable[:_SHOWN]]
        if len(unreadable) > _SHOWN:
            lines.append(f"  and {len(unreadable) - _SHOWN} more; --json names all")
    if result.ignored:
        lines.append(f"files that are no images: {result.ignored}")
    return lines
