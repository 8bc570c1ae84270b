"""Learned positions of another image size."""

from __future__ import annotations

import math

import numpy as np

from edgevit.zoo.seeding import Array

_SHARPNESS = -0.75
"""Parameter of the cubic kernel: PyTorch's, with which the authors of DeiT resize positions."""


def resized(table: Array, height: int, width: int) -> Array:
    """Bicubic interpolation, corners not aligned, edges repeated.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, equation 4.

    Args:
        table: (..., rows, columns), float32.
        height: rows of the result.
        width: columns of the result.

    Returns:
        (..., height, width), float32.
    """
    rows, columns = _weights(table.shape[-2], height), _weights(table.shape[-1], width)
    return np.asarray(rows @ table.astype(np.float64) @ columns.T, np.float32)


def resized_tokens(table: Array, height: int, width: int, extra: int) -> Array | None:
    """Positions of tokens for an image of height by width patches; None where the old ones were of no square image.

    Args:
        table: (1, extra + patches, size).
        height: patches from top to bottom.
        width: patches from left to right.
        extra: tokens before the patches', whose positions stay.
    """
    side = math.isqrt(table.shape[1] - extra)
    if side * side != table.shape[1] - extra:
        return None
    grid = table[:, extra:].reshape(side, side, -1).transpose(2, 0, 1)
    moved = resized(grid, height, width).transpose(1, 2, 0).reshape(1, height * width, -1)
    return np.concatenate([table[:, :extra], moved], axis=1)


def _weights(old: int, new: int) -> Array:
    """Matrix (new, old) of one axis: what each new place takes of the four old ones around it."""
    matrix = np.zeros((new, old))
    centers = (np.arange(new) + 0.5) * old / new - 0.5
    for tap in range(-1, 3):
        places = np.floor(centers).astype(int) + tap
        distance = np.abs(centers - places)
        np.add.at(matrix, (np.arange(new), places.clip(0, old - 1)), _kernel(distance))
    return matrix


def _kernel(distance: Array) -> Array:
    a, d = _SHARPNESS, distance
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * (d**3 - 5 * d**2 + 8 * d - 4)
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))
