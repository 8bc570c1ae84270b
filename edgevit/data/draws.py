"""Random numbers that stay the same: on every platform, in every version of NumPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

_GRID = 1 << 24


class Draws:
    """One stream of draws.

    Only raw words of PCG64, which NumPy promises to keep, are used; NumPy's distributions may change between versions.
    What follows is arithmetic that IEEE 754 defines to the last bit.
    """

    def __init__(self, key: Sequence[int]) -> None:
        """Begin the stream of a key: integers from 0 to 2**32 - 1."""
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number from ``low`` to below ``high``."""
        return low + (high - low) * ((int(self._bits.random_raw()) >> 11) * 2.0**-53)

    def below(self, count: int) -> int:
        """An integer from 0 to ``count - 1``."""
        return (int(self._bits.random_raw()) * count) >> 64

    def between(self, low: int, high: int) -> int:
        """An integer from ``low`` to ``high``, both included."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of the items."""
        return items[self.below(len(items))]

    def chance(self, probability: float) -> bool:
        """True this often."""
        return self.uniform() < probability

    def direction(self) -> tuple[float, float]:
        """A unit vector of any direction.

        Rounded to 24 binary places: C libraries differ in the last bit of sine and cosine.
        """
        angle = self.uniform(0.0, 2 * math.pi)
        return round(math.cos(angle) * _GRID) / _GRID, round(math.sin(angle) * _GRID) / _GRID

    def bytes(self, count: int) -> npt.NDArray[np.uint8]:
        """Integers from 0 to 255, shape (count,)."""
        words = np.asarray(self._bits.random_raw(-(-count // 8)), np.uint64)
        return words.astype("<u8", copy=False).view(np.uint8)[:count]
