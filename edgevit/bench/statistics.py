"""What a list of measured times says, and how far it can be trusted.

Latencies are skewed and have outliers (interrupts, frequency steps), so the centre is the median and its
confidence interval assumes no distribution: it runs from the k-th smallest to the k-th largest sample, where
the number of samples below the true median is binomial(n, 1/2) (H. A. David and H. N. Nagaraja, "Order
Statistics", 3rd edition, section 7.1; W. J. Conover, "Practical Nonparametric Statistics", section 3.2).
It does assume independent samples: drift within a run makes it too narrow, which is what ``is_stable``
over several runs is for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from scipy.special import bdtr

CONFIDENCE = 0.95
STABLE_RUNS = 5
"""Runs that a replicable figure rests on."""
STABLE_SPREAD = 0.05
"""How far apart the p90 of those runs may lie, as a part of the smallest."""


class LatencySummary(BaseModel):
    """Summary of single-call times; every time is in seconds.

    Percentiles interpolate linearly between samples (Hyndman and Fan's type 7, NumPy's default).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    p50: float
    p90: float
    p99: float
    mean: float
    min: float
    max: float
    stdev: float | None
    """Sample standard deviation (n - 1); None for a single sample."""
    ci95_low: float | None
    """Confidence interval of the median, 95 % or a little more; None below six samples, too few for one."""
    ci95_high: float | None


class RatioSummary(BaseModel):
    """Paired ratios a / b: above 1, a is the slower."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    median: float
    min: float
    max: float
    ci95_low: float | None
    ci95_high: float | None

    @property
    def differs(self) -> bool:
        """Whether the interval lies wholly on one side of 1."""
        if self.ci95_low is None or self.ci95_high is None:
            return False
        return self.ci95_low > 1 or self.ci95_high < 1


def summarise(samples_seconds: Sequence[float]) -> LatencySummary:
    """Summarise the times of single calls.

    Raises:
        ValueError: no samples, or one that is not a positive finite number.
    """
    samples = _valid(samples_seconds)
    p50, p90, p99 = np.quantile(samples, (0.5, 0.9, 0.99))
    low, high = _median_interval(samples)
    return LatencySummary(
        count=samples.size,
        p50=float(p50),
        p90=float(p90),
        p99=float(p99),
        mean=float(samples.mean()),
        min=float(samples.min()),
        max=float(samples.max()),
        stdev=float(samples.std(ddof=1)) if samples.size > 1 else None,
        ci95_low=low,
        ci95_high=high,
    )


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> RatioSummary:
    """Compare two systems measured in turns: the i-th time of ``a`` belongs beside the i-th of ``b``.

    Pairing cancels what slows both at the time, such as heat or a busy neighbour.

    Args:
        a: seconds of the system in question.
        b: seconds of the baseline, as many.

    Raises:
        ValueError: the lengths differ, there are no samples, or one is not a positive finite number.
    """
    if len(a) != len(b):
        raise ValueError(f"paired samples must be as many on both sides, not {len(a)} and {len(b)}")
    ratios = _valid(a) / _valid(b)
    low, high = _median_interval(ratios)
    return RatioSummary(
        count=ratios.size,
        median=float(np.median(ratios)),
        min=float(ratios.min()),
        max=float(ratios.max()),
        ci95_low=low,
        ci95_high=high,
    )


def p90_spread(runs: Sequence[Sequence[float]]) -> float:
    """How far the p90 of several runs lie apart: largest over smallest, minus 1.

    Raises:
        ValueError: fewer than two runs, or samples as ``summarise`` refuses them.
    """
    if len(runs) < 2:
        raise ValueError(f"a spread needs at least two runs, not {len(runs)}")
    p90s = [float(np.quantile(_valid(run), 0.9)) for run in runs]
    return max(p90s) / min(p90s) - 1


def is_stable(runs: Sequence[Sequence[float]], *, spread: float = STABLE_SPREAD) -> bool:
    """Whether a figure is replicable: the p90 of all runs lie within ``spread`` of each other.

    The rule is meant for ``STABLE_RUNS`` runs; two are the least that can show a difference.

    Raises:
        ValueError: as ``p90_spread``.
    """
    return p90_spread(runs) <= spread


def median_ranks(count: int) -> tuple[int, int] | None:
    """Ranks, from 1, of the samples that bound the median with at least 95 % confidence.

    The k-th smallest and k-th largest of n samples enclose the median with probability
    1 - 2 P(B <= k - 1), B ~ binomial(n, 1/2); the largest such k is taken. None below six samples, where
    even the extremes reach less.
    """
    tail = (1 - CONFIDENCE) / 2
    below = bdtr(np.arange(max(1, count // 2)), count, 0.5)  # P(B <= 0), P(B <= 1), ...
    rank = int(np.searchsorted(below, tail, side="right"))
    return (rank, count + 1 - rank) if rank else None


def _median_interval(samples: npt.NDArray[np.float64]) -> tuple[float | None, float | None]:
    ranks = median_ranks(samples.size)
    if ranks is None:
        return None, None
    ordered = np.sort(samples)
    return float(ordered[ranks[0] - 1]), float(ordered[ranks[1] - 1])


def _valid(samples: Sequence[float]) -> npt.NDArray[np.float64]:
    array = np.asarray(samples, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError("at least one sample is needed, in a flat sequence")
    wrong = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if wrong.size:
        raise ValueError(f"sample {wrong[0]} is {array[wrong[0]]}: a time is a positive finite number")
    return array
