"""COCO's average precision: matching and curves by pycocotools, one class at a time so that memory stays small."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.dataset_coco import Boxes

Array = npt.NDArray[Any]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""Overlaps at which a box counts as found."""

MOST = 100
"""Boxes of a class that count in one image."""

_RECALLS = np.linspace(0, 1, 101)
_AREAS = ("all", "small", "medium", "large")


@dataclass(frozen=True)
class Found:
    """What a detector found in one image.

    Attributes:
        corners: float64 (objects, 4), left, top, width and height in the picture's pixels.
        scores: float64 (objects,).
        classes: int64 (objects,), indices of the model's classes.
    """

    corners: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """One class over all images.

    Attributes:
        precision: (10 thresholds, 4 areas), mean over 101 recalls; -1 where the class does not occur.
        recall: (10 thresholds, 4 areas), the largest; -1 where the class does not occur.
        images: (detections,), position of the image of each, the surest first.
        right: (10 thresholds, detections), whether it is an object.
        counted: (10 thresholds, detections), whether it is held against the detector if it is none.
        objects: (images,), how many there are.
    """

    precision: Array
    recall: Array
    images: Array
    right: Array
    counted: Array
    objects: Array


def curve(truths: Sequence[Boxes], found: Sequence[Found], index: int) -> Curve:
    """Match the boxes of one class and draw its curves.

    Args:
        truths: what there is, image by image.
        found: what was found there.
        index: of the model's class.
    """
    from pycocotools.cocoeval import COCOeval

    images = [
        place
        for place, (there, seen) in enumerate(zip(truths, found, strict=True))
        if (there.classes == index).any() or (seen.classes == index).any()
    ]
    real = [entry for place in images for entry in _real(truths[place], index, place)]
    said = [entry for place in images for entry in _said(found[place], index, place)]
    # It prints how long it takes.
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(_annotations(images, real), _annotations(images, said), "bbox")
        judge.params.maxDets = [1, 10, MOST]
        judge.evaluate()
        judge.accumulate()
    return _summed_up(judge, images, len(truths))


def weighted_precision(one: Curve, weights: Array) -> npt.NDArray[np.float64]:
    """Average precision of a class when images count several times, or not at all: (draws, 10 thresholds).

    It is pycocotools' own when every image counts once. The envelope of a precision-recall curve has its corners at
    right detections, so only those are looked at.

    Args:
        one: the class.
        weights: (draws, images), how often each image counts.

    Returns:
        NaN in draws without an object of the class.
    """
    objects = weights @ one.objects
    result = np.zeros((len(weights), len(THRESHOLDS)))
    seen = weights[:, one.images]
    for place in range(len(THRESHOLDS)):
        corners = np.flatnonzero(one.right[place])
        if not len(corners):
            continue
        right = np.cumsum(seen[:, corners], axis=1, dtype=np.float64)
        everything = np.cumsum(seen * one.counted[place], axis=1, dtype=np.float64)[:, corners]
        precision = right / (everything + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        recall = right / np.maximum(objects, 1)[:, None]
        for draw in range(len(weights)):
            reached = np.searchsorted(recall[draw], _RECALLS, side="left")
            inside = reached[reached < len(corners)]
            result[draw, place] = envelope[draw, inside].sum() / len(_RECALLS)
    result[objects == 0] = np.nan
    return result


def _annotations(images: Sequence[int], entries: Sequence[dict[str, Any]]) -> Any:
    """pycocotools' own form, of one category."""
    from pycocotools.coco import COCO

    held = COCO()
    held.dataset = {"images": [{"id": place} for place in images], "categories": [{"id": 1}], "annotations": entries}
    # An annotation's number 0 would mean "no match" in pycocotools.
    for number, entry in enumerate(entries, 1):
        entry.update(id=number, category_id=1)
    held.createIndex()
    return held


def _real(there: Boxes, index: int, place: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": place,
            "bbox": there.corners[row].tolist(),
            "area": float(there.areas[row]),
            "iscrowd": int(there.crowds[row]),
        }
        for row in np.flatnonzero(there.classes == index)
    ]


def _said(seen: Found, index: int, place: int) -> list[dict[str, Any]]:
    return [
        {
            "image_id": place,
            "bbox": seen.corners[row].tolist(),
            "area": float(seen.corners[row, 2] * seen.corners[row, 3]),
            "iscrowd": 0,
            "score": float(seen.scores[row]),
        }
        for row in np.flatnonzero(seen.classes == index)
    ]


def _summed_up(judge: Any, images: Sequence[int], total: int) -> Curve:
    most = len(judge.params.maxDets) - 1
    precision = judge.eval["precision"][:, :, 0, :, most]
    judged = [entry for entry in judge.evalImgs[: len(images)] if entry is not None]
    objects = np.zeros(total, np.int64)
    for entry in judged:
        objects[entry["image_id"]] = np.count_nonzero(entry["gtIgnore"] == 0)
    scores = np.concatenate([entry["dtScores"] for entry in judged] or [np.empty(0)])
    order = np.argsort(-scores, kind="mergesort")
    owners = np.concatenate([np.full(len(entry["dtScores"]), entry["image_id"]) for entry in judged] or [np.empty(0)])
    blank = np.empty((len(THRESHOLDS), 0))
    matched = np.concatenate([entry["dtMatches"] for entry in judged] or [blank], axis=1)[:, order] != 0
    ignored = np.concatenate([entry["dtIgnore"] for entry in judged] or [blank], axis=1)[:, order] != 0
    return Curve(
        precision=precision.mean(axis=1),
        recall=judge.eval["recall"][:, 0, :, most],
        images=owners[order].astype(np.int64),
        right=matched & ~ignored,
        counted=~ignored,
        objects=objects,
    )


def summary(curves: Mapping[int, Curve]) -> dict[str, float | None]:
    """COCO's figures over classes; None where no class has an object of that size.

    ``map`` is the mean over overlaps 0.5 to 0.95, ``map50`` and ``map75`` at one overlap, ``small``, ``medium`` and
    ``large`` of objects under 32², from 32² to 96², and over 96² pixels; ``recall`` the largest at 100 boxes an image.
    """
    precision = np.array([one.precision for one in curves.values()]).reshape(-1, len(THRESHOLDS), len(_AREAS))
    recall = np.array([one.recall for one in curves.values()]).reshape(precision.shape)
    figures = {
        "map": precision[:, :, 0],
        "map50": precision[:, 0, 0],
        "map75": precision[:, 5, 0],
        **{name: precision[:, :, place] for place, name in enumerate(_AREAS) if place},
        "recall": recall[:, :, 0],
    }
    known = {name: values[values > -1] for name, values in figures.items()}
    return {name: float(values.mean()) if values.size else None for name, values in known.items()}
