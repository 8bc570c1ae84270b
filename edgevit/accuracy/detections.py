"""From a detector's boxes and scores to objects: the step after the model, on the host.

It is not part of the compiled graph: the number of objects varies from image to image, its thresholds are the
app's to choose, and it is a few hundred comparisons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.errors import UserError
from edgevit.model.metadata import Detection

Array = np.ndarray[Any, np.dtype[Any]]

_BLOCK = 128
"""Boxes that are compared with all others at once."""


@dataclass(frozen=True)
class Objects:
    """What was found in one image, the surest first.

    Attributes:
        boxes: (objects, 4), left, top, right and bottom as shares of the image, clipped to it; dtype of the input.
        scores: (objects,), dtype of the input.
        classes: (objects,), int64 indices into the scores' last axis.
    """

    boxes: Array
    scores: Array
    classes: Array


def detect(boxes: Array, scores: Array, coding: Detection) -> list[Objects]:
    """Objects of every image of a batch.

    For each class but the background: the ``top_k`` boxes that score over the threshold, less those that overlap a
    surer one of the class. Of all classes together, the ``max_objects`` surest are kept. Of equal scores, the earlier
    box goes first, then the lower class.

    Args:
        boxes: (images, candidates, 4), left, top, right and bottom; they may reach beyond the image.
        scores: (images, candidates, classes).
        coding: the thresholds.

    Raises:
        UserError: the shapes do not belong together.
    """
    fits = boxes.ndim == scores.ndim == 3 and boxes.shape[:2] == scores.shape[:2] and boxes.shape[2] == 4
    if not fits:
        raise UserError(
            f"boxes of shape {boxes.shape} and scores of shape {scores.shape} are no detector's outputs.",
            advice="Give boxes as (images, candidates, 4) and scores as (images, candidates, classes).",
        )
    return [_objects(*image, coding) for image in zip(boxes, scores, strict=True)]


def suppress(boxes: Array, scores: Array, iou_threshold: float) -> Array:
    """Greedy non-maximum suppression of one class.

    Args:
        boxes: (candidates, 4), left, top, right and bottom.
        scores: (candidates,).
        iou_threshold: a box whose intersection over union with a surer kept one exceeds it goes.

    Returns:
        Indices of the kept boxes, the surest first.
    """
    order = np.argsort(-scores, kind="stable")
    corners = boxes[order]
    alive = np.ones(len(order), bool)
    for first in range(0, len(order), _BLOCK):
        goes = _overlapping(corners[first : first + _BLOCK], corners[first:], iou_threshold)
        for place, row in enumerate(goes, first):
            if alive[place]:
                alive[place + 1 :] &= ~row[place + 1 - first :]
    kept: Array = order[alive]
    return kept


def _overlapping(some: Array, others: Array, iou_threshold: float) -> Array:
    """For each of some boxes, and each of the others, whether they overlap too much: bool (some, others)."""
    areas = [_sides(corners[:, 0], corners[:, 2]) * _sides(corners[:, 1], corners[:, 3]) for corners in (some, others)]
    # One axis at a time: numpy is slow along an axis of two.
    across, down = (
        _sides(
            np.maximum.outer(some[:, axis], others[:, axis]), np.minimum.outer(some[:, axis + 2], others[:, axis + 2])
        )
        for axis in range(2)
    )
    shared = across * down
    # Multiplied out: two boxes without area have no quotient, and do not overlap.
    goes: Array = ~(shared <= iou_threshold * (areas[0][:, None] + areas[1][None] - shared))
    return goes


def _sides(low: Array, high: Array) -> Array:
    return (high - low).clip(min=0)


def _objects(boxes: Array, scores: Array, coding: Detection) -> Objects:
    chosen, classes = [], []
    for index in range(scores.shape[1]):
        if index == coding.background:
            continue
        column = scores[:, index]
        candidates = np.flatnonzero(column > coding.score_threshold)
        if not len(candidates):
            continue
        best = np.argsort(-column[candidates], kind="stable")[: coding.top_k]
        candidates = candidates[best]
        kept = candidates[suppress(boxes[candidates], column[candidates], coding.iou_threshold)]
        chosen.append(kept)
        classes.append(np.full(len(kept), index, np.int64))
    if not chosen:
        return Objects(np.empty((0, 4), boxes.dtype), np.empty(0, scores.dtype), np.empty(0, np.int64))
    places, labels = np.concatenate(chosen), np.concatenate(classes)
    found = scores[places, labels]
    order = np.lexsort((labels, places, -found))[: coding.max_objects]
    return Objects(boxes[places[order]].clip(0, 1), found[order], labels[order])
