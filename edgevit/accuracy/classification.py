"""How often the best class, or one of the best five, is the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.contact_sheet import Tile
from edgevit.accuracy.metric import SIDES, ClassScore, Outputs, Record, Result, Score, class_name
from edgevit.accuracy.significance import McNemar

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgevit.accuracy.view import View

Array = npt.NDArray[Any]

TOP = 5


class Proportion(Result):
    """So many of so many, and where the true share lies with 95 % confidence.

    Attributes:
        count: how many.
        of: of how many.
        value: their quotient.
        low: lower end of Wilson's score interval.
        high: its upper end.
    """

    count: int
    of: int
    value: float
    low: float
    high: float

    @classmethod
    def measure(cls, count: int, of: int) -> Proportion:
        """The proportion with its interval.

        Raises:
            ValueError: ``of`` is not positive.
        """
        from scipy.stats import binomtest

        interval = binomtest(count, of).proportion_ci(confidence_level=0.95, method="wilson")
        return cls(count=count, of=of, value=count / of, low=float(interval.low), high=float(interval.high))

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


class Accuracy(Result):
    """Of one executor; ``top5`` is None where the model has no more than five classes."""

    top1: Proportion
    top5: Proportion | None


class ClassificationScores(Result):
    """Both executors on the same images.

    Attributes:
        reference: of ONNX Runtime.
        artifact: of the artifact.
        agreement: images that both give the same best class.
        difference: whether one is right more often than the other.
        classes: top-1 of each class that the images show.
    """

    reference: Accuracy
    artifact: Accuracy
    agreement: Proportion
    difference: McNemar
    classes: tuple[ClassScore, ...]

    @property
    def score(self) -> Score:
        """Top-1."""
        return Score(name="top-1", reference=self.reference.top1.value, artifact=self.artifact.top1.value)


class ClassificationMetric:
    """Counts right answers, image by image."""

    def __init__(self, output: str, classes: int, labels: Sequence[str] | None = None) -> None:
        """Count by one output.

        Args:
            output: name of the output of shape (1, classes): logits or probabilities.
            classes: how many.
            labels: what they are called.
        """
        self._output = output
        self._classes = classes
        self._labels = labels
        self._images = self._agreeing = 0
        self._right = {side: {1: 0, TOP: 0} for side in SIDES}
        self._only = dict.fromkeys(SIDES, 0)
        self._of_class: Counter[int] = Counter()
        self._right_of_class: dict[str, Counter[int]] = {side: Counter() for side in SIDES}

    def fingerprint(self, truth: int) -> bytes:
        """What tells it from another truth."""
        return str(truth).encode()

    def load(self, truth: int, size: tuple[int, int]) -> int:  # noqa: ARG002 - other metrics look at the size
        """The index of the class."""
        return truth

    def judge(self, loaded: int, view: View, expected: Outputs, actual: Outputs) -> Record:  # noqa: ARG002
        """The best classes of both, best first; none where an output holds a NaN: that is no answer."""
        return {side: _ranking(outputs[self._output]) for side, outputs in zip(SIDES, (expected, actual), strict=True)}

    def add(self, truth: int, record: Record) -> None:
        """Count one image.

        Args:
            truth: index of its class.
            record: from :meth:`judge`.
        """
        self._images += 1
        self._of_class[truth] += 1
        self._agreeing += self.disagreement(record) == 0
        right = {side: record[side][:1] == [truth] for side in SIDES}
        for side in SIDES:
            self._right[side][1] += right[side]
            self._right[side][TOP] += truth in record[side]
            self._right_of_class[side][truth] += right[side]
            self._only[side] += right[side] and not all(right.values())

    def disagreement(self, record: Record) -> float:
        """1 where the best classes differ, or one has none."""
        best = [record[side][:1] for side in SIDES]
        return float(best[0] != best[1] or not best[0])

    def tile(self, picture: Image, loaded: int, view: View, expected: Outputs, actual: Outputs) -> Tile:
        """The picture with three labels."""
        best = self.judge(loaded, view, expected, actual)
        said = [class_name(self._labels, best[side][0]) if best[side] else "no answer" for side in SIDES]
        lines = (f"is {class_name(self._labels, loaded)}", f"reference: {said[0]}", f"artifact: {said[1]}")
        return Tile(picture, lines)

    def result(self) -> ClassificationScores:
        """What was counted.

        Raises:
            ValueError: nothing was.
        """
        both = {
            side: Accuracy(
                top1=Proportion.measure(right[1], self._images),
                top5=Proportion.measure(right[TOP], self._images) if self._classes > TOP else None,
            )
            for side, right in self._right.items()
        }
        classes = tuple(
            ClassScore(
                index=index,
                name=class_name(self._labels, index),
                count=count,
                **{side: self._right_of_class[side][index] / count for side in SIDES},
            )
            for index, count in sorted(self._of_class.items())
        )
        return ClassificationScores(
            **both,
            agreement=Proportion.measure(self._agreeing, self._images),
            difference=McNemar.test(self._only["reference"], self._only["artifact"]),
            classes=classes,
        )


def _ranking(output: Array) -> list[int]:
    """The best classes, best first, of equal ones the first; none where the output holds a NaN."""
    scores = output[0].astype(np.float64)
    if np.isnan(scores).any():
        return []
    return [int(index) for index in np.argsort(-scores, kind="stable")[:TOP]]
