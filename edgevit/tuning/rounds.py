"""What readings taken in turns with a reference say, and which of them to throw away.

A round times the reference, then every candidate, then the reference again. A candidate's figure is the ratio to the
reference beside it, so what slows all alike (frequency, heat, a busy neighbour) cancels; a round in which it changed
does not count.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SLOW_SHARE = 0.15
"""How much slower than in its calm rounds the reference may be in a round that counts."""
OUTLIER_DEVIATIONS = 4.0
"""How far from the median a ratio may lie, in standard deviations of a normal distribution of the same MAD."""
MAD_TO_SIGMA = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
_CALM_QUANTILE = 4


@dataclass(frozen=True)
class Round:
    """Seconds of a call in one round.

    Attributes:
        before, after: of the reference.
        candidates: by name.
    """

    before: float
    after: float
    candidates: Mapping[str, float]

    @property
    def slowest(self) -> float:
        """The reference's slower reading."""
        return max(self.before, self.after)

    @property
    def reference(self) -> float:
        """Mean of the reference's readings."""
        return (self.before + self.after) / 2


@dataclass(frozen=True)
class Ratios:
    """A candidate's times over the reference's, and how many were thrown out as outliers."""

    kept: tuple[float, ...]
    outliers: int


def calm(rounds: Sequence[Round], share: float = SLOW_SHARE) -> list[Round]:
    """Rounds in which the reference was not slower than ``1 + share`` times its lower quartile over all rounds."""
    readings = sorted(reading for entry in rounds for reading in (entry.before, entry.after))
    if not readings:
        return []
    limit = readings[len(readings) // _CALM_QUANTILE] * (1 + share)
    return [entry for entry in rounds if entry.slowest <= limit]


def ratios(rounds: Sequence[Round], name: str) -> Ratios:
    """A candidate's ratios to the reference, without outliers."""
    found = [entry.candidates[name] / entry.reference for entry in rounds]
    middle = statistics.median(found)
    deviation = statistics.median(abs(ratio - middle) for ratio in found) * MAD_TO_SIGMA
    # Times of a coarse clock are often equal: then nothing is an outlier that is no more than a tick away.
    limit = max(OUTLIER_DEVIATIONS * deviation, 0.02 * middle)
    kept = tuple(ratio for ratio in found if abs(ratio - middle) <= limit)
    return Ratios(kept, len(found) - len(kept))
