"""How often the best class, or one of the best five, is the right one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Array = npt.NDArray[Any]

TOP = 5


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Proportion(_Result):
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


class Accuracy(_Result):
    """Of one executor; ``top5`` is None where the model has no more than five classes."""

    top1: Proportion
    top5: Proportion | None


class ClassificationScores(_Result):
    """Both executors on the same images.

    Attributes:
        reference: of ONNX Runtime.
        artifact: of the artifact.
        agreement: images that both give the same best class.
    """

    reference: Accuracy
    artifact: Accuracy
    agreement: Proportion


class ClassificationMetric:
    """Counts right answers, image by image."""

    def __init__(self, output: str, classes: int) -> None:
        """Count by one output.

        Args:
            output: name of the output of shape (1, classes): logits or probabilities.
            classes: how many.
        """
        self._output = output
        self._classes = classes
        self._images = self._agreeing = 0
        self._right = {side: {1: 0, TOP: 0} for side in ("reference", "artifact")}

    def add(self, truth: int, expected: Mapping[str, Array], actual: Mapping[str, Array]) -> None:
        """Count one image.

        Args:
            truth: index of its class.
            expected: the reference's outputs.
            actual: the artifact's outputs.
        """
        self._images += 1
        best = []
        for side, outputs in (("reference", expected), ("artifact", actual)):
            ranking = _ranking(outputs[self._output])
            best.append(ranking[0] if ranking else None)
            for count in (1, TOP):
                self._right[side][count] += truth in ranking[:count]
        self._agreeing += best[0] is not None and best[0] == best[1]

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
        return ClassificationScores(**both, agreement=Proportion.measure(self._agreeing, self._images))


def _ranking(output: Array) -> list[int]:
    """The best classes, best first, of equal ones the first; none where the output holds a NaN: that is no answer."""
    scores = output[0].astype(np.float64)
    if np.isnan(scores).any():
        return []
    return [int(index) for index in np.argsort(-scores, kind="stable")[:TOP]]
