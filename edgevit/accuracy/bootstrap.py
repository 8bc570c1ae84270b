"""Intervals for figures that are no simple proportions: images drawn again, with replacement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

Array = npt.NDArray[Any]

DRAWS = 1000
_SEED = 0
_AT_ONCE = 100


class Estimate(BaseModel):
    """A figure, and where it lies with 95 % confidence.

    Attributes:
        value: on all images.
        low: 2.5th percentile over the draws; None where one image, or none, leaves nothing to draw from.
        high: 97.5th percentile.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.1%}" if self.low is None else f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


def bootstrap(
    images: int, figures: Callable[[Array], Array], *, draws: int = DRAWS
) -> list[tuple[Estimate, Estimate, Estimate]]:
    """For each of several figures: estimates for the reference, for the artifact, and of what the artifact has more.

    Both are judged on the same draws of images, so that what is hard for both does not blur their difference: Efron
    and Tibshirani, "An Introduction to the Bootstrap", 1993, percentile intervals. Draws without a figure do not
    count.

    Args:
        images: how many there are.
        figures: from weights (draws, images), how often each image counts, to (draws, 2, figures), reference before
            artifact; NaN where there is none.
        draws: how many; the same each time.
    """
    whole = figures(np.ones((1, images), np.int64))[0]
    with np.errstate(invalid="ignore"):
        parts = [figures(weights) for weights in _weights(images, draws)] if images > 1 else [whole[None]]
    drawn = np.concatenate(parts)
    return [
        (
            _estimate(whole[0, index], drawn[:, 0, index], images),
            _estimate(whole[1, index], drawn[:, 1, index], images),
            _estimate(whole[1, index] - whole[0, index], drawn[:, 1, index] - drawn[:, 0, index], images),
        )
        for index in range(whole.shape[1])
    ]


def _weights(images: int, draws: int) -> Iterator[Array]:
    generator = np.random.Generator(np.random.PCG64(_SEED))
    for first in range(0, draws, _AT_ONCE):
        count = min(_AT_ONCE, draws - first)
        chosen = generator.integers(0, images, (count, images))
        yield np.stack([np.bincount(row, minlength=images) for row in chosen])


def _estimate(value: float, samples: Array, images: int) -> Estimate:
    counted = samples[~np.isnan(samples)]
    if images < 2 or not len(counted):
        return Estimate(value=float(value), low=None, high=None)
    low, high = np.percentile(counted, [2.5, 97.5])
    return Estimate(value=float(value), low=float(low), high=float(high))
