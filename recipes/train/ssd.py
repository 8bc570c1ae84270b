"""Which objects an SSD's anchors stand for, and boxes coded relative to them.

Source: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016 (arXiv 1512.02325), section 2.2.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.model.metadata import Detection

Array = np.ndarray[Any, Any]

OVERLAP = 0.5
"""Least intersection over union of an anchor that stands for an object."""


def corners(boxes: Array) -> Array:
    """Centre x, centre y, width and height to left, top, right and bottom: (..., 4)."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def overlaps(a: Array, b: Array) -> Array:
    """Intersection over union of boxes (n, 4) and (m, 4), left, top, right and bottom: (n, m)."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    common = (high - low).clip(0).prod(-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - common
    return np.asarray(common / np.maximum(union, 1e-12))


def match(boxes: Array, classes: Array, priors: Array, coding: Detection) -> tuple[Array, Array]:
    """The targets of every anchor for one image.

    An anchor stands for the object it overlaps most, if that is half of the two or more; and each object has the
    anchor that overlaps it most in any case.

    Args:
        boxes: (n, 4), left, top, right and bottom as shares of the image.
        classes: (n,), 0 the first that is no background.
        priors: (anchors, 4), centre x, centre y, width and height as shares.
        coding: variances.

    Returns:
        Coded boxes, float32 (anchors, 4), zero for the background; classes, int64 (anchors,), 0 the background.
    """
    targets, labels = np.zeros((len(priors), 4), np.float32), np.zeros(len(priors), np.int64)
    if not len(boxes):
        return targets, labels
    shared = overlaps(corners(priors), boxes.astype(np.float64))
    owner, most = shared.argmax(1), shared.max(1)
    best = shared.argmax(0)
    owner[best], most[best] = np.arange(len(boxes)), 1.0
    chosen = most >= OVERLAP
    own, prior = boxes[owner[chosen]], priors[chosen]
    center, size = (own[:, :2] + own[:, 2:]) / 2, np.maximum(own[:, 2:] - own[:, :2], 1e-6)
    targets[chosen, :2] = (center - prior[:, :2]) / prior[:, 2:] / coding.center_variance
    targets[chosen, 2:] = np.log(size / prior[:, 2:]) / coding.size_variance
    labels[chosen] = classes[owner[chosen]] + 1
    return targets, labels


def decode(raw: Array, priors: Array, coding: Detection) -> Array:
    """Left, top, right and bottom as shares, of coded boxes (anchors, 4)."""
    center = priors[:, :2] + coding.center_variance * raw[:, :2] * priors[:, 2:]
    return corners(np.concatenate([center, priors[:, 2:] * np.exp(coding.size_variance * raw[:, 2:])], -1))
