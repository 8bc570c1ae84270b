"""For each task: which outputs are judged, by what metric, against what data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgevit.accuracy.classification import ClassificationMetric
from edgevit.accuracy.dataset import DataSet, open_class_folders
from edgevit.accuracy.dataset_coco import open_coco
from edgevit.accuracy.dataset_masks import open_masks
from edgevit.accuracy.detection import DetectionMetric
from edgevit.accuracy.metric import Metric
from edgevit.accuracy.segmentation import SegmentationMetric
from edgevit.errors import UserError
from edgevit.manifest import TensorInfo
from edgevit.model.metadata import Metadata
from edgevit.model.metadata_labels import Labels, class_count

Classes = Literal["name", "order"]
"""How a data set's categories are the model's classes."""

_BOX = 4


def set_up(
    task: str,
    folder: Path,
    outputs: Sequence[TensorInfo],
    about: Metadata,
    labels: Labels | None,
    *,
    classes: Classes = "name",
    where: str | None = None,
    labels_from: str | None = None,
) -> tuple[DataSet[Any], Callable[[], Metric[Any, Any]]]:
    """The data set, and what makes a metric for one pass over it.

    Args:
        task: classification, detection or segmentation.
        folder: of the data set.
        outputs: of the artifact.
        about: what the model says of itself.
        labels: of the model.
        classes: whether COCO's categories are found by name or by order.
        where: the artifact, for errors.
        labels_from: where the labels are from, for errors.

    Raises:
        UserError: outputs, labels and data set do not belong together.
    """
    names = labels.names if labels else None
    if classes == "order" and task != "detection":
        raise UserError(
            "--classes order is for data sets in COCO's format.", advice="Leave it away: folders and masks say more."
        )
    if task == "detection":
        if about.detection is None:
            raise UserError(
                "nothing says how its boxes and scores become objects.",
                where=where,
                advice="Put a table [detection] into a TOML file beside the model, or give the file with --preprocess.",
            )
        boxes, scores, count = _detector(outputs, where)
        _refuse_other_count(names, scores, count, labels_from)
        background = about.detection.background
        data: DataSet[Any] = open_coco(
            folder, labels=names, classes=count, background=background, by_order=classes == "order"
        )
        return data, partial(DetectionMetric, (boxes, scores), about.detection, names)
    counted = class_count(outputs, task)
    if counted is None:
        shape = "1xC" if task == "classification" else "1xCxHxW"
        raise UserError(
            "it has no output, or several, with one score for each class.",
            where=where,
            advice=f"A model for {task} has one output of shape {shape}.",
        )
    _refuse_other_count(names, *counted, labels_from)
    if task == "segmentation":
        return open_masks(folder, classes=counted[1], labels=names), partial(SegmentationMetric, *counted, names)
    return open_class_folders(folder, classes=counted[1], labels=labels), partial(ClassificationMetric, *counted, names)


def _detector(outputs: Sequence[TensorInfo], where: str | None) -> tuple[str, str, int]:
    """Names of the outputs with boxes and scores, and the number of classes, the background counted."""
    candidates = [info for info in outputs if len(info.shape) == 3 and info.shape[0] == 1]
    boxes = [info for info in candidates if info.shape[2] == _BOX]
    if len(boxes) == 2 and len(candidates) == 2:
        # Four classes look like four edges.
        boxes = [info for info in boxes if "box" in info.name.lower()]
    scores = [info for info in candidates if info not in boxes]
    if len(boxes) == len(scores) == 1 and boxes[0].shape[1] == scores[0].shape[1]:
        return boxes[0].name, scores[0].name, scores[0].shape[2]
    raise UserError(
        "it has no pair of outputs with boxes and their scores.",
        where=where,
        advice="A detector has two: boxes 1xNx4, left, top, right and bottom as shares of the image, and scores 1xNxC.",
    )


def _refuse_other_count(names: Sequence[str] | None, output: str, classes: int, where: str | None) -> None:
    if names is not None and len(names) != classes:
        raise UserError(
            f"there are {len(names)} labels, and output {output!r} has {classes} classes.",
            where=where,
            advice="Give one label for each class, in the model's order, its background class included if it has one.",
        )
