"""Compare contenders that were measured in the same rounds.

A round's median is one observation of a contender; two contenders are compared by the ratios of their
observations of the same round, which cancels what slows the whole machine for a while. The interval of the
median ratio is a percentile bootstrap over rounds (B. Efron and R. Tibshirani, "An Introduction to the
Bootstrap", chapter 13).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict

_RESAMPLES = 4000
_MIN_ROUNDS = 6
"""Fewer observations give a bootstrap nothing to draw from."""


class Ratio(BaseModel):
    """Median of paired ratios, below 1 where the first is the faster, and its 95 % interval.

    Attributes:
        ci95_low, ci95_high: None with fewer than six rounds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    median: float
    ci95_low: float | None
    ci95_high: float | None


def round_medians(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Seconds of the median call of each round."""
    return [statistics.median(seconds) for seconds in rounds]


def paired(own: Sequence[float], other: Sequence[float]) -> Ratio:
    """Median ratio ``own`` / ``other`` over rounds, with a bootstrap interval that the same numbers always give.

    Args:
        own: a contender's observation of each round.
        other: another's of the same rounds.

    Raises:
        ValueError: there are none, or the two differ in number.
    """
    if not own or len(own) != len(other):
        raise ValueError(f"paired rounds must be as many on both sides, not {len(own)} and {len(other)}")
    ratios = np.asarray(own, np.float64) / np.asarray(other, np.float64)
    low = high = None
    if ratios.size >= _MIN_ROUNDS:
        generator = np.random.Generator(np.random.PCG64(0))
        picks = generator.integers(0, ratios.size, (_RESAMPLES, ratios.size))
        low, high = (float(end) for end in np.quantile(np.median(ratios[picks], axis=1), (0.025, 0.975)))
    return Ratio(median=float(np.median(ratios)), ci95_low=low, ci95_high=high)


def fastest(observations: Mapping[str, Sequence[float]]) -> str | None:
    """Name of the contender with the smallest median observation; None if there are none."""
    return min(observations, key=lambda name: statistics.median(observations[name]), default=None)
