"""Accuracy on a data set, for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.accuracy.classification import ClassificationScores
from edgevit.accuracy.detection import DetectionScores, Precision
from edgevit.accuracy.segmentation import SegmentationScores

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.accuracy.check_dataset import DatasetResult
    from edgevit.accuracy.classification import Proportion
    from edgevit.accuracy.evaluate import Rate
    from edgevit.accuracy.metric import ClassScore

_SHOWN = 10
"""Unreadable images named in the terminal; JSON has all."""

_CLASSES = 5
"""Classes named in the terminal, those that differ most; JSON has all."""

_VISIBLE = 0.0005
"""Half a tenth of a per cent, which is what is shown."""

Columns = list[tuple[str, str, str]]
"""Title, the reference's cell, the artifact's."""


def dataset_lines(result: DatasetResult) -> list[str]:
    """How much the two executors differ, how fast it went, and what was left out: a line each."""
    lines = [*_difference(result.scores), *_classes(result.scores.classes), *_images(result), *_left_out(result)]
    if not result.verdict.failures:
        lines.append(_verdict(result))
    if result.run.emulated:
        lines.append("emulated: no hardware has confirmed it")
    return lines


def dataset_table(result: DatasetResult) -> Table:
    """Both executors side by side."""
    from rich.table import Table
    from rich.text import Text

    columns = _columns(result.scores)
    table = Table(title="accuracy, with 95 % intervals")
    table.add_column("")
    for title, _, _ in columns:
        table.add_column(title, justify="right")
    table.add_row(Text(result.run.reference), *(reference for _, reference, _ in columns))
    table.add_row(Text(f"artifact on {result.run.ran_on}"), *(artifact for _, _, artifact in columns))
    return table


def _columns(scores: ClassificationScores | DetectionScores | SegmentationScores) -> Columns:
    if isinstance(scores, ClassificationScores):
        sides = (scores.reference, scores.artifact)
        return [
            _column("top-1", *(_cell(side.top1) for side in sides)),
            _column("top-5", *(_cell(side.top5) for side in sides)),
        ]
    if isinstance(scores, DetectionScores):
        found = (scores.reference, scores.artifact)
        return [
            _column("mAP", *(str(side.map) for side in found)),
            _column("mAP@50", *(str(side.map50) for side in found)),
            _column("small, medium, large", *(_sizes(side) for side in found)),
        ]
    maps = (scores.reference, scores.artifact)
    return [
        _column("mIoU", *(str(side.miou) for side in maps)),
        _column("right pixels", *(f"{side.pixel_accuracy:.1%}" for side in maps)),
    ]


def _column(title: str, reference: str, artifact: str) -> tuple[str, str, str]:
    return title, reference, artifact


def _cell(proportion: Proportion | None) -> str:
    return "–" if proportion is None else str(proportion)


def _sizes(side: Precision) -> str:
    return ", ".join("–" if value is None else f"{value:.1%}" for value in (side.small, side.medium, side.large))


def _difference(scores: ClassificationScores | DetectionScores | SegmentationScores) -> list[str]:
    if isinstance(scores, ClassificationScores):
        agreement, test = scores.agreement, scores.difference
        return [
            f"same top-1: {agreement}, {agreement.count} of {agreement.of}",
            f"right only by the reference: {test.reference_only}, only by the artifact: {test.artifact_only}; "
            f"McNemar's exact test: p = {test.p_value:.3g}",
        ]
    name, difference = scores.score.name, scores.difference
    interval = (
        "" if difference.low is None else f" ({100 * difference.low:+.2f} to {100 * (difference.high or 0):+.2f})"
    )
    line = f"{name} of the artifact less the reference's: {100 * difference.value:+.2f} points{interval}"
    if isinstance(scores, SegmentationScores):
        return [line, f"same class: {scores.agreement:.2%} of {scores.pixels:,} pixels"]
    return [line, f"objects: {scores.objects:,}"]


def _classes(classes: tuple[ClassScore, ...]) -> list[str]:
    """Those that changed most, the most first."""
    changed = [each for each in classes if abs(each.difference) >= _VISIBLE]
    changed.sort(key=lambda each: -abs(each.difference))
    lines = [
        f"  {each.name}: {each.reference:.1%} to {each.artifact:.1%}, {each.count:,} in the data set"
        for each in changed[:_CLASSES]
    ]
    if len(changed) > _CLASSES:
        lines.append(f"  and {len(changed) - _CLASSES} more; --json names all")
    return [f"classes that differ: {len(changed)} of {len(classes)}", *lines]


def _images(result: DatasetResult) -> list[str]:
    run = result.run
    speed = "" if run.images_per_second is None else f"; {run.images_per_second:.1f} images per second"
    resumed = f", {run.resumed} of them by an earlier run" if run.resumed else ""
    batches = f" (batches of up to {run.batch})" if run.batch > 1 else ""
    rates = ", ".join(
        (
            f"decoding {_rate(run.decoding)}",
            f"reference {_rate(run.reference_rate)}",
            # How long emulation takes is of use to who waits for it, and says nothing about a device.
            f"{'emulation' if run.emulated else 'device'} {_rate(run.device_rate)}{batches}",
            f"judging {_rate(run.judging)}",
        )
    )
    return [
        f"images: {run.images} of {result.available} in {result.classes} classes, at {result.shape}{resumed}{speed}",
        f"images per second of each stage: {rates}",
        f"preprocessing: {result.preprocessing.sentence()}; from {result.preprocessing_from}",
    ]


def _rate(rate: Rate) -> str:
    if rate.images_per_second is None:
        return "–"
    return f"{rate.images_per_second:.1f}" + (f" ({rate.threads} threads)" if rate.threads > 1 else "")


def _left_out(result: DatasetResult) -> list[str]:
    lines = []
    if unreadable := result.run.unreadable:
        lines.append(f"left out, unreadable: {len(unreadable)}")
        lines += [f"  {image.name}: {image.reason}" for image in unreadable[:_SHOWN]]
        if len(unreadable) > _SHOWN:
            lines.append(f"  and {len(unreadable) - _SHOWN} more; --json names all")
    if result.task == "classification" and result.ignored:
        lines.append(f"files that are no images: {result.ignored}")
    return [*lines, *result.notes]


def _verdict(result: DatasetResult) -> str:
    verdict = result.verdict
    if not verdict.score.reference:
        return f"the reference's {verdict.score.name} is 0: the floor says nothing"
    kept = verdict.score.artifact / verdict.score.reference
    return f"passed: {kept:.1%} of the reference's {verdict.score.name}, floor {verdict.floor:.1%}"
