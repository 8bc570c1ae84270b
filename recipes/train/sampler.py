"""The multi-scale sampler: every batch has a resolution of its own, and small ones have more images.

Source: Mehta and Rastegari, "MobileViT", ICLR 2022 (arXiv 2110.02178), section 3.3: for the resolution
(H_t, W_t) of batch t the batch size is ``b_t = H_n * W_n * b / (H_t * W_t)``, with (H_n, W_n) the largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

PAPER_RESOLUTIONS = (160, 192, 256, 288, 320)
"""Sides of the squares that the paper trains with."""


@dataclass(frozen=True)
class Batch:
    """What one update sees.

    Attributes:
        resolution: height and width of the images, which are squares.
        indices: of the images.
    """

    resolution: int
    indices: tuple[int, ...]


@dataclass(frozen=True)
class MultiScaleSampler:
    """Cuts an epoch into batches of several resolutions.

    Attributes:
        resolutions: sides of the squares.
        batch: images of an update at the largest of them.
        even: what resolutions share evenly. ``batches``: each batch draws its resolution, as the paper says.
            ``images``: a resolution is drawn in inverse proportion to its batch size, so that all see as many images.
    """

    resolutions: tuple[int, ...]
    batch: int
    even: Literal["batches", "images"] = "batches"

    def batch_size(self, resolution: int) -> int:
        """Images of an update at that resolution: at most the pixels of the largest batch, at least one image."""
        return max(1, max(self.resolutions) ** 2 * self.batch // resolution**2)

    def epoch(self, images: int, *, seed: int, epoch: int) -> list[Batch]:
        """The batches of one epoch, which see every image once; the last one may be smaller.

        Args:
            images: of the data set.
            seed: of the training.
            epoch: counted from 0; with the seed it decides everything.
        """
        rng = np.random.default_rng((seed, epoch))
        order = tuple(rng.permutation(images).tolist())
        return list(self._cut(order, rng))

    def _cut(self, order: tuple[int, ...], rng: np.random.Generator) -> Iterator[Batch]:
        chances = np.array([float(chance) for chance in self._chances()])
        start = 0
        while start < len(order):
            resolution = self.resolutions[rng.choice(len(self.resolutions), p=chances)]
            end = start + self.batch_size(resolution)
            yield Batch(resolution, order[start:end])
            start = end

    def updates(self, images: int, epochs: int = 1) -> int:
        """Expected number of updates, to the nearest."""
        mean = sum(c * self.batch_size(r) for c, r in zip(self._chances(), self.resolutions, strict=True))
        return round(epochs * images / mean)

    def _chances(self) -> list[Fraction]:
        if self.even == "batches":
            return [Fraction(1, len(self.resolutions))] * len(self.resolutions)
        inverse = [Fraction(1, self.batch_size(resolution)) for resolution in self.resolutions]
        return [share / sum(inverse) for share in inverse]
