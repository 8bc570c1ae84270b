"""Which part of a picture the model saw, and what it said of each of the picture's own pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.images import crop_corner, resized_size

if TYPE_CHECKING:
    from edgevit.model.metadata import Preprocessing

Array = npt.NDArray[Any]

_BLOCK = 1 << 22
"""Scores held at once while a picture's pixels are judged."""


@dataclass(frozen=True)
class View:
    """A rectangle of a picture, in its own pixels: what resize and crop left for the model's input.

    Attributes:
        size: width and height of the picture.
        left, top, right, bottom: of the rectangle; between pixels where a resize put a crop there.
    """

    size: tuple[int, int]
    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, size: tuple[int, int], preprocessing: Preprocessing) -> View:
        """What is seen of a picture of width and height ``size``; the preprocessing fits the input's size."""
        if preprocessing.crop is None:
            return cls(size, 0.0, 0.0, float(size[0]), float(size[1]))
        resized = resized_size(size, preprocessing)
        left, top = crop_corner(resized, preprocessing.crop)
        across, down = size[0] / resized[0], size[1] / resized[1]
        side = preprocessing.crop
        return cls(size, left * across, top * down, (left + side) * across, (top + side) * down)

    @property
    def rows(self) -> slice:
        """Rows of the picture whose middle was seen."""
        return _whole(self.top, self.bottom, self.size[1])

    @property
    def columns(self) -> slice:
        """Columns of the picture whose middle was seen."""
        return _whole(self.left, self.right, self.size[0])

    def to_pixels(self, boxes: Array) -> npt.NDArray[np.float64]:
        """Boxes (n, 4) of left, top, right and bottom as shares of the input, in the picture's pixels."""
        width, height = self.right - self.left, self.bottom - self.top
        corner = np.array([self.left, self.top, self.left, self.top])
        pixels: npt.NDArray[np.float64] = boxes.astype(np.float64) * [width, height, width, height] + corner
        return pixels

    def label_map(self, scores: Array) -> npt.NDArray[np.int32]:
        """The best class of every pixel of the picture that was seen.

        Scores are interpolated bilinearly between the middles of their cells and continued beyond the outermost ones
        (ONNX's Resize of mode ``linear`` with ``half_pixel`` coordinates), then the first of the best classes counts.

        Args:
            scores: (classes, height, width) of any height and width, over the rectangle.

        Returns:
            int32 of the shape of ``[rows, columns]``; the number of classes where a score is not a number.
        """
        classes, height, width = scores.shape
        above, below, down = _between(self.rows, self.top, self.bottom, height)
        before, after, across = _between(self.columns, self.left, self.right, width)
        values = scores.astype(np.float32)
        wide = values[..., before] * (1 - across) + values[..., after] * across
        labels = np.empty((len(above), len(before)), np.int32)
        step = max(1, _BLOCK // max(1, classes * len(before)))
        for first in range(0, len(above), step):
            block = slice(first, first + step)
            weight = down[block, None]
            mixed = wide[:, above[block]] * (1 - weight) + wide[:, below[block]] * weight
            # Of several NaN, argmax finds the first.
            best = mixed.argmax(axis=0)
            unclear = np.isnan(np.take_along_axis(mixed, best[None], 0)[0])
            labels[block] = np.where(unclear, classes, best)
        return labels


def _whole(low: float, high: float, extent: int) -> slice:
    """Pixels with their middle between two edges; the sums of products that made them may be off by some bits."""
    return slice(max(0, math.ceil(low - 0.5 - 1e-9)), min(extent, math.ceil(high - 0.5 - 1e-9)))


def _between(
    pixels: slice, low: float, high: float, cells: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """For each pixel the two cells whose middles it lies between, and how far it is to the second."""
    middles = np.arange(pixels.start, pixels.stop) + 0.5
    places = ((middles - low) / (high - low) * cells - 0.5).clip(0, cells - 1)
    first = np.floor(places).astype(np.int64)
    return first, np.minimum(first + 1, cells - 1), (places - first).astype(np.float32)
