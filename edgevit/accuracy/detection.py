"""How well two detectors find the objects there are: COCO's mean average precision."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.average_precision import Curve, Found, curve, summary, weighted_precision
from edgevit.accuracy.bootstrap import DRAWS, Estimate, bootstrap
from edgevit.accuracy.contact_sheet import ARTIFACT_COLOUR, REFERENCE_COLOUR, TRUTH_COLOUR, Tile, beside, framed
from edgevit.accuracy.dataset_coco import Boxes
from edgevit.accuracy.detections import detect
from edgevit.accuracy.metric import SIDES, ClassScore, Outputs, Record, Result, Score, class_name
from edgevit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgevit.accuracy.view import View
    from edgevit.model.metadata import Detection

Array = npt.NDArray[Any]

_SURE = 0.3
"""Score of objects that are shown, and compared between the two executors."""

_SAME = 0.5
"""Overlap of boxes that are one object to both executors."""

_WORK = 20_000_000
"""Detections looked at in all draws of a bootstrap."""


class Precision(Result):
    """Of one executor: COCO's figures, 0 to 1.

    Attributes:
        map: mean average precision over overlaps 0.5 to 0.95.
        map50: at overlap 0.5.
        map75: at overlap 0.75.
        small: mAP of objects under 32² pixels; None where there are none.
        medium: of those up to 96².
        large: of those above.
        recall: share of objects that are among 100 boxes of an image, over the same overlaps.
    """

    map: Estimate
    map50: Estimate
    map75: float
    small: float | None
    medium: float | None
    large: float | None
    recall: float


class DetectionScores(Result):
    """Both executors on the same images.

    Attributes:
        reference: of ONNX Runtime.
        artifact: of the artifact.
        difference: what the artifact's mAP has more.
        objects: that were to be found.
        classes: average precision of each class that the images show.
    """

    reference: Precision
    artifact: Precision
    difference: Estimate
    objects: int
    classes: tuple[ClassScore, ...]

    @property
    def score(self) -> Score:
        """mAP over overlaps 0.5 to 0.95."""
        return Score(name="mAP", reference=self.reference.map.value, artifact=self.artifact.map.value)


class DetectionMetric:
    """Keeps what was found in every image, 24 bytes an object and executor, and judges it at the end."""

    def __init__(self, outputs: tuple[str, str], coding: Detection, labels: Sequence[str] | None = None) -> None:
        """Judge by two outputs.

        Args:
            outputs: names of the outputs with boxes (1, candidates, 4) and scores (1, candidates, classes).
            coding: how they become objects.
            labels: what the classes are called.
        """
        self._outputs = outputs
        self._coding = coding
        self._labels = labels
        self._truths: list[Boxes] = []
        self._found: dict[str, list[Array]] = {side: [] for side in SIDES}

    def fingerprint(self, truth: Boxes) -> bytes:
        """What tells it from another truth."""
        return b"".join(array.tobytes() for array in (truth.corners, truth.classes, truth.areas, truth.crowds))

    def load(self, truth: Boxes, size: tuple[int, int]) -> Boxes:
        """The objects.

        Raises:
            UserError: they were drawn in an image of another size.
        """
        if truth.size is not None and truth.size != size:
            raise UserError(
                f"the image has {size[1]}x{size[0]} pixels, its annotations say {truth.size[1]}x{truth.size[0]}.",
                advice="Boxes are in pixels of the image as it is shown, turned as its EXIF data says.",
            )
        return truth

    def judge(self, loaded: Boxes, view: View, expected: Outputs, actual: Outputs) -> Record:  # noqa: ARG002
        """The objects of both, in the picture's pixels."""
        sides = zip(SIDES, (expected, actual), strict=True)
        return {side: _packed(self._objects(outputs, view)) for side, outputs in sides}

    def add(self, truth: Boxes, record: Record) -> None:
        """Count one image.

        Args:
            truth: its objects.
            record: from :meth:`judge`.
        """
        self._truths.append(truth)
        for side in SIDES:
            self._found[side].append(_unpacked(record[side]))

    def disagreement(self, record: Record) -> float:
        """Share of the sure objects of either executor that the other does not have."""
        both = [_unpacked(record[side]) for side in SIDES]
        sure = [rows[rows[:, 4] >= _SURE] for rows in both]
        total = sum(map(len, sure))
        return (_alone(sure[0], both[1]) + _alone(sure[1], both[0])) / total if total else 0.0

    def tile(self, picture: Image, loaded: Boxes, view: View, expected: Outputs, actual: Outputs) -> Tile:
        """The picture three times: true objects, the reference's and the artifact's."""
        sets = [loaded.corners]
        for outputs in (expected, actual):
            rows = self._objects(outputs, view)
            sets.append(rows[rows[:, 4] >= _SURE, :4])
        colours = (TRUTH_COLOUR, REFERENCE_COLOUR, ARTIFACT_COLOUR)
        shown = [framed(picture, _edges(boxes), colour) for boxes, colour in zip(sets, colours, strict=True)]
        names = ("true", *SIDES)
        return Tile(beside(*shown), tuple(f"{name}: {len(boxes)}" for name, boxes in zip(names, sets, strict=True)))

    def result(self) -> DetectionScores:
        """Match, and sum up.

        Raises:
            UserError: there is nothing to be found.
        """
        counted = [truth.classes[~truth.crowds] for truth in self._truths]
        indices, totals = np.unique(np.concatenate([*counted, np.empty(0, np.int64)]), return_counts=True)
        if not len(indices):
            raise UserError("the images show no object of the model's classes.", advice="Check data set and labels.")
        curves = {
            side: {int(index): curve(self._truths, [_found(rows) for rows in found], int(index)) for index in indices}
            for side, found in self._found.items()
        }
        (reference, artifact, difference), (reference50, artifact50, _) = self._estimates(curves)
        return DetectionScores(
            reference=_precision(curves["reference"], reference, reference50),
            artifact=_precision(curves["artifact"], artifact, artifact50),
            difference=difference,
            objects=int(totals.sum()),
            classes=tuple(
                ClassScore(
                    index=index,
                    name=class_name(self._labels, index),
                    count=count,
                    **{side: float(curves[side][index].precision[:, 0].mean()) for side in SIDES},
                )
                for index, count in zip(indices.tolist(), totals.tolist(), strict=True)
            ),
        )

    def _estimates(self, curves: dict[str, dict[int, Curve]]) -> list[tuple[Estimate, Estimate, Estimate]]:
        """Of mAP and mAP at overlap 0.5."""

        def figures(weights: Array) -> Array:
            sides = []
            for side in SIDES:
                each = np.stack([weighted_precision(one, weights) for one in curves[side].values()])
                known = ~np.isnan(each)
                mean = np.where(known, each, 0).sum(0) / known.sum(0)
                sides.append(np.stack([mean.mean(1), mean[:, 0]], axis=1))
            return np.stack(sides, axis=1)

        detections = sum(len(one.images) for side in curves.values() for one in side.values())
        draws = max(DRAWS // 10, min(DRAWS, _WORK // max(1, detections)))
        return bootstrap(len(self._truths), figures, draws=draws)

    def _objects(self, outputs: Outputs, view: View) -> Array:
        """float32 (objects, 6): left, top, width, height, score, class. A box that is no number is no answer."""
        boxes, scores = (outputs[name] for name in self._outputs)
        [found] = detect(boxes, scores, self._coding)
        edges = view.to_pixels(found.boxes)
        rows = np.column_stack([edges[:, :2], edges[:, 2:] - edges[:, :2], found.scores, found.classes])
        finite: Array = np.isfinite(rows).all(axis=1)
        return rows[finite].astype(np.float32)


def _precision(curves: dict[int, Curve], whole: Estimate, at50: Estimate) -> Precision:
    figures = summary(curves)
    # Classes of the data set have objects by choice, so these three are there.
    map75, recall = figures["map75"], figures["recall"]
    assert map75 is not None
    assert recall is not None
    sizes = {name: figures[name] for name in ("small", "medium", "large")}
    return Precision(map=whole, map50=at50, map75=map75, recall=recall, **sizes)


def _packed(rows: Array) -> str:
    return base64.b64encode(rows.astype("<f4").tobytes()).decode()


def _unpacked(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, 6)


def _found(rows: Array) -> Found:
    return Found(rows[:, :4].astype(np.float64), rows[:, 4].astype(np.float64), rows[:, 5].astype(np.int64))


def _edges(corners: Array) -> Array:
    return np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:4]], axis=1)


def _alone(rows: Array, others: Array) -> int:
    """Objects without one of their class at their place among the others."""
    if not len(rows) or not len(others):
        return len(rows)
    mine, theirs = _edges(rows)[:, None], _edges(others)[None]
    low, high = np.maximum(mine[..., :2], theirs[..., :2]), np.minimum(mine[..., 2:], theirs[..., 2:])
    shared = (high - low).clip(min=0).prod(-1)
    areas = rows[:, None, 2:4].prod(-1) + others[None, :, 2:4].prod(-1)
    same = (shared >= _SAME * (areas - shared)) & (rows[:, None, 5] == others[None, :, 5])
    return int((~same.any(axis=1)).sum())
