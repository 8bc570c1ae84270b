"""Which workloads are so alike that what is best for one is worth a trial for the other.

Two workloads are alike if a family describes them in the same words, with the same small numbers (kernels, strides,
pads), and only sizes (channels, pixels, heads) differ. The nearer of two has the smaller sum of the sizes' ratios, as
logarithms. It takes a trial: choices that were taken over without one were as often slower than the default.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from math import log2

from edgevit.tuning.record import About

_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_SMALL = 6
"""Numbers below this are kinds, such as strides; the others are sizes."""


@dataclass(frozen=True)
class Signature:
    """What a workload's description says.

    Attributes:
        kind: words and small numbers, which must be the same.
        sizes: logarithms of the other numbers, in the order of the words.
    """

    kind: str
    sizes: tuple[float, ...]

    def distance(self, other: Signature) -> float | None:
        """Sum of the sizes' differences; None for workloads that are not alike."""
        if self.kind != other.kind or len(self.sizes) != len(other.sizes):
            return None
        return sum(abs(one - two) for one, two in zip(self.sizes, other.sizes, strict=True))


@cache
def signature(about: About) -> Signature:
    """What is compared of a workload."""
    sizes: list[float] = []

    def keep(match: re.Match[str]) -> str:
        value = float(match[0])
        if value < _SMALL:
            return match[0]
        sizes.append(log2(value))
        return "#"

    text = _NUMBER.sub(keep, about.shape)
    return Signature(f"{about.family} {about.dtype} {text} {about.epilogue}", tuple(sizes))
