"""What was learned of one workload, used for another that is like it and that nobody has tuned.

Two workloads are alike if a family describes them in the same words, with the same small numbers (kernels, strides,
pads), and only sizes (channels, pixels, heads) differ. The nearer of two has the smaller sum of the sizes' ratios, as
logarithms. What the nearest one gained over its own default says whether its choice is worth taking over.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from math import log2

from edgevit.tuning.record import About, KernelRecord
from edgevit.tuning.records import Choice

LEAST_GAIN = 1.05
"""How many times faster than its default a choice must have been to be taken over unmeasured."""
FARTHEST = 4.0
"""Sum of the sizes' ratios, as logarithms to the base 2, beyond which nothing is taken over."""

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


def take_over(about: About, best: Iterable[KernelRecord], usable: Callable[[Choice, int], bool]) -> KernelRecord | None:
    """The record whose choice a workload without any should take; None where its default is the better guess.

    Args:
        about: the workload.
        best: measured record of the best choice of each other workload of the target.
        usable: tells whether the workload can take a choice that is good for so many threads.
    """
    own = signature(about)
    near: list[tuple[float, str, KernelRecord]] = []
    for record in best:
        distance = own.distance(signature(record.about)) if record.about.family == about.family else None
        if distance is not None and distance <= FARTHEST:
            near.append((distance, record.workload, record))
    for _, _, record in sorted(near, key=lambda entry: entry[:2])[:1]:
        gain = record.timing.gain
        if gain is not None and gain >= LEAST_GAIN and usable(dict(record.choice), record.threads):
            return record
    return None
