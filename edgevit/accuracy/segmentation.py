"""How well two label maps cover the true one: intersection over union of each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.bootstrap import Estimate, bootstrap
from edgevit.accuracy.contact_sheet import ARTIFACT_COLOUR, REFERENCE_COLOUR, Tile, beside, marked
from edgevit.accuracy.dataset_masks import VOID, Mask
from edgevit.accuracy.metric import SIDES, ClassScore, Outputs, Record, Result, Score, class_name, file_mark
from edgevit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgevit.accuracy.view import View

Array = npt.NDArray[Any]


class Overlap(Result):
    """Of one executor.

    Attributes:
        miou: mean of the classes' intersections over unions, each over all images together; of the classes that the
            masks show.
        pixel_accuracy: share of the pixels with the right class.
    """

    miou: Estimate
    pixel_accuracy: float


class SegmentationScores(Result):
    """Both executors on the same images.

    Attributes:
        reference: of ONNX Runtime.
        artifact: of the artifact.
        difference: what the artifact's mIoU has more.
        agreement: share of the pixels that both give the same class.
        pixels: that were judged.
        classes: IoU of each class that the masks show.
    """

    reference: Overlap
    artifact: Overlap
    difference: Estimate
    agreement: float
    pixels: int
    classes: tuple[ClassScore, ...]

    @property
    def score(self) -> Score:
        """Mean IoU."""
        return Score(name="mIoU", reference=self.reference.miou.value, artifact=self.artifact.miou.value)


def confusion_matrix(truth: Array, predicted: Array, classes: int) -> npt.NDArray[np.int64]:
    """How often each class was taken for each: int64 (classes, classes + 1), truth by row.

    The last column is "no answer". It is scikit-learn's ``confusion_matrix`` without its checks, which take ten times
    as long as the count, for every image.

    Args:
        truth: integers below ``classes``, of any shape.
        predicted: integers up to ``classes``, of the same shape.
        classes: how many.
    """
    pairs = truth.astype(np.int64).ravel() * (classes + 1) + predicted.ravel()
    return np.bincount(pairs, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


class SegmentationMetric:
    """Counts pixels by class, image by image; keeps three numbers a class and image for the intervals."""

    def __init__(self, output: str, classes: int, labels: Sequence[str] | None = None) -> None:
        """Count by one output.

        Args:
            output: name of the output of shape (1, classes, height, width): logits or probabilities.
            classes: how many, the background counted.
            labels: what they are called.
        """
        self._output = output
        self._classes = classes
        self._labels = labels
        self._agreeing = self._pixels = 0
        self._correct = dict.fromkeys(SIDES, 0)
        self._counts: dict[str, list[Array]] = {side: [] for side in SIDES}

    def fingerprint(self, truth: Mask) -> bytes:
        """What tells it from another truth."""
        return truth.values.tobytes() + truth.refused.tobytes() + file_mark(truth.path)

    def load(self, truth: Mask, size: tuple[int, int]) -> Array:
        """The class of every pixel.

        Raises:
            UserError: the mask cannot be read, holds no class of the model, or has another size than the image.
        """
        mask = truth.read()
        if mask.shape != size[::-1]:
            raise UserError(
                f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels, the image {size[1]}x{size[0]}.",
                where=str(truth.path),
                advice="Make the mask from the image as it is shown, turned as its EXIF data says.",
            )
        return mask

    def judge(self, loaded: Array, view: View, expected: Outputs, actual: Outputs) -> Record:
        """By class that occurs: pixels in common, in the label map and in the mask, of those that the model saw."""
        truth = loaded[view.rows, view.columns]
        counted = truth != VOID
        maps = [view.label_map(outputs[self._output][0])[counted] for outputs in (expected, actual)]
        record: Record = {
            "pixels": int(counted.sum()),
            "same": int(((maps[0] == maps[1]) & self._answered(maps)).sum()),
        }
        for side, labels in zip(SIDES, maps, strict=True):
            matrix = confusion_matrix(truth[counted], labels, self._classes)
            common, said, true = matrix.diagonal(), matrix.sum(0)[:-1], matrix.sum(1)
            shown = np.flatnonzero(said + true)
            record[side] = [shown.tolist(), *(column[shown].tolist() for column in (common, said, true))]
        return record

    def add(self, truth: Mask, record: Record) -> None:  # noqa: ARG002 - the record says all
        """Count one image.

        Args:
            truth: its mask.
            record: from :meth:`judge`.
        """
        self._pixels += record["pixels"]
        self._agreeing += record["same"]
        for side in SIDES:
            shown, *columns = record[side]
            counts = np.zeros((3, self._classes), np.int32)
            counts[:, shown] = columns
            self._counts[side].append(counts)
            self._correct[side] += sum(columns[0])

    def disagreement(self, record: Record) -> float:
        """Share of the pixels with different classes."""
        return 1 - record["same"] / record["pixels"] if record["pixels"] else 0.0

    def tile(self, picture: Image, loaded: Array, view: View, expected: Outputs, actual: Outputs) -> Tile:
        """The picture twice, with the pixels that the reference, and the artifact, gets wrong where they differ."""
        maps = [view.label_map(outputs[self._output][0]) for outputs in (expected, actual)]
        truth = loaded[view.rows, view.columns]
        differ = (truth != VOID) & (maps[0] != maps[1])
        part = picture.crop((view.columns.start, view.rows.start, view.columns.stop, view.rows.stop))
        wrong = [differ & (labels != truth) for labels in maps]
        colours = (REFERENCE_COLOUR, ARTIFACT_COLOUR)
        shown = [marked(part, where, colour) for where, colour in zip(wrong, colours, strict=True)]
        counted = max(1, int((truth != VOID).sum()))
        lines = (
            f"pixels that differ: {differ.sum() / counted:.1%}",
            *(f"{side} wrong there: {where.sum() / counted:.1%}" for side, where in zip(SIDES, wrong, strict=True)),
        )
        return Tile(beside(*shown), lines)

    def result(self) -> SegmentationScores:
        """What was counted.

        Raises:
            UserError: no pixel was.
        """
        if not self._pixels:
            raise UserError("no pixel of the masks is labelled.", advice="Check the masks: 255 is not counted.")
        common, said, true = ({side: np.stack(self._counts[side])[:, row] for side in SIDES} for row in range(3))
        union = {side: said[side].astype(np.int64) + true[side] - common[side] for side in SIDES}

        def figures(weights: Array) -> Array:
            """mIoU of both, each draw by the classes that its masks show."""
            shown = weights @ true["reference"] > 0
            both = [
                np.where(shown, weights @ common[side] / np.maximum(weights @ union[side], 1), 0).sum(1) / shown.sum(1)
                for side in SIDES
            ]
            return np.stack(both, axis=1)[..., None]

        [(reference, artifact, difference)] = bootstrap(len(self._counts["reference"]), figures)
        values = {side: common[side].sum(0) / np.maximum(union[side].sum(0), 1) for side in SIDES}
        totals = true["reference"].sum(0)
        return SegmentationScores(
            reference=Overlap(miou=reference, pixel_accuracy=self._correct["reference"] / self._pixels),
            artifact=Overlap(miou=artifact, pixel_accuracy=self._correct["artifact"] / self._pixels),
            difference=difference,
            agreement=self._agreeing / self._pixels,
            pixels=self._pixels,
            classes=tuple(
                ClassScore(
                    index=index,
                    name=class_name(self._labels, index),
                    count=int(totals[index]),
                    **{side: float(values[side][index]) for side in SIDES},
                )
                for index in np.flatnonzero(totals).tolist()
            ),
        )

    def _answered(self, maps: Sequence[Array]) -> Array:
        answered: Array = maps[0] < self._classes
        return answered
