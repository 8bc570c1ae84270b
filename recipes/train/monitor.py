"""Figures to follow a training by; accuracy that is stated is measured with the established libraries.

See :mod:`edgevit.accuracy` for those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipes.train.ssd import overlaps

Array = np.ndarray[Any, Any]

_LEAST_SCORE = 0.02
_SUPPRESSED = 0.5
"""Intersection over union from which the lower score of a class goes."""


@dataclass(frozen=True)
class Found:
    """Objects of one image: boxes (n, 4) as shares, classes (n,), scores (n,)."""

    boxes: Array
    classes: Array
    scores: Array


def objects(boxes: Array, scores: Array) -> Found:
    """Objects of one image, from all anchors' boxes (anchors, 4) and probabilities (anchors, 1 + classes)."""
    kept: list[tuple[int, int]] = []
    for index in range(1, scores.shape[1]):
        order = np.flatnonzero(scores[:, index] > _LEAST_SCORE)
        order = order[np.argsort(-scores[order, index], kind="stable")]
        shared = overlaps(boxes[order], boxes[order])
        alive = np.ones(len(order), bool)
        for rank in range(len(order)):
            if alive[rank]:
                alive[rank + 1 :] &= shared[rank, rank + 1 :] <= _SUPPRESSED
        kept += [(anchor, index) for anchor in order[alive].tolist()]
    anchors, classes = np.array(kept, np.int64).reshape(-1, 2).T
    return Found(boxes[anchors], classes - 1, scores[anchors, classes])


def average_precision(found: Sequence[Found], truth: Sequence[tuple[Array, Array]], *, overlap: float = 0.5) -> float:
    """Mean over the classes of the area below precision over recall, in percent.

    Args:
        found: of each image.
        truth: boxes (n, 4) as shares and classes (n,) of each image.
        overlap: least intersection over union of a hit.
    """
    present = sorted({int(kind) for _, classes in truth for kind in classes})
    return 100 * float(np.mean([_class_precision(found, truth, kind, overlap) for kind in present]))


def _class_precision(found: Sequence[Found], truth: Sequence[tuple[Array, Array]], kind: int, overlap: float) -> float:
    claims: list[tuple[float, bool]] = []
    wanted = 0
    for image, (boxes, classes) in zip(found, truth, strict=True):
        own, mine = boxes[classes == kind], image.classes == kind
        wanted += len(own)
        taken = np.zeros(len(own), bool)
        order = np.argsort(-image.scores[mine], kind="stable")
        shared = overlaps(image.boxes[mine][order], own)
        for score, row in zip(image.scores[mine][order], shared, strict=True):
            free = np.where(taken, 0, row)
            hit = bool(len(own)) and bool(free.max() >= overlap)
            if hit:
                taken[free.argmax()] = True
            claims.append((float(score), hit))
    claims.sort(key=lambda claim: -claim[0])
    hits = np.cumsum([hit for _, hit in claims])
    if not len(hits):
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    # Precision at a recall is the best at that recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.diff(hits, prepend=0) @ envelope / wanted)


def mean_iou(confusion: Array) -> float:
    """Mean intersection over union of the classes that occur, in percent, from counts (truth, prediction)."""
    common = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - common
    return 100 * float(np.mean(common[union > 0] / union[union > 0]))
