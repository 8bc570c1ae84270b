"""Learning rate over a training: a linear warm-up, then half a cosine."""

from __future__ import annotations

import math


def learning_rate(progress: float, *, peak: float, warm_up: float, floor: float = 0.01) -> float:
    """The rate at one point of the training.

    Args:
        progress: share of the training that is done, 0 to 1.
        peak: highest rate.
        warm_up: share of the training in which the rate rises from ``floor * peak`` to the peak.
        floor: share of the peak at both ends.
    """
    if progress < warm_up:
        return peak * (floor + (1 - floor) * progress / warm_up)
    done = min(1.0, (progress - warm_up) / (1 - warm_up))
    return peak * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)
