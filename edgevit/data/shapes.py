"""Outlines and surfaces of objects, as functions of the plane.

Addition, multiplication, comparison, rounding and square root only: these give the same bits everywhere.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[Any]
"""Of float32."""

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross")
TEXTURES = ("plain", "striped", "checked", "dotted")

REACH = 1.17
"""No outline goes further from its centre than this, in radii."""


def outline(shape: str, u: Plane, v: Plane) -> Plane:
    """How far points lie outside an outline of radius 1 around the origin; negative inside.

    Beyond corners it is less than the distance.

    Args:
        shape: one of :data:`SHAPES`.
        u: first coordinate.
        v: second coordinate, same shape.
    """
    if shape in ("disc", "ring"):
        radius: Plane = np.sqrt(u * u + v * v)
        return radius - 0.9 if shape == "disc" else np.maximum(radius - 1.0, 0.5 - radius)
    if shape == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.75
    if shape == "cross":
        along, across = np.abs(u), np.abs(v)
        return np.minimum(np.maximum(along - 0.95, across - 0.32), np.maximum(along - 0.32, across - 0.95))
    if shape == "triangle":
        first, second, third = (u * x + v * y for x, y in _TRIANGLE)
        return np.maximum(np.maximum(first, second), third) - 0.58
    # A pentagram is all points that lie beyond at most one of five lines: the second largest of the distances counts.
    first = second = np.full_like(u, -np.inf)
    for x, y in _PENTAGRAM:
        distance = u * x + v * y
        second = np.maximum(second, np.minimum(first, distance))
        first = np.maximum(first, distance)
    return second - 0.36


def surface(texture: str, a: Plane, b: Plane, period: float) -> Plane:
    """How much of its second colour a texture shows at each point, 0 to 1.

    Args:
        texture: one of :data:`TEXTURES`.
        a: first coordinate, in periods of the texture.
        b: second coordinate, same shape.
        period: in pixels; edges are one pixel wide.
    """
    if texture == "plain":
        return np.zeros_like(a)
    if texture == "dotted":
        x, y = (value - np.floor(value) - 0.5 for value in (a, b))
        return _clip((_DOT * _DOT - (x * x + y * y)) * (period / (2 * _DOT)) + 0.5)
    wave = _wave(a) * _wave(b) if texture == "checked" else _wave(a)
    return _clip(wave * max(1.0, period / 4) + 0.5)


def _wave(value: Plane) -> Plane:
    """A triangular wave of period 1 between -1 and 1."""
    wave: Plane = np.abs(value - np.floor(value) - 0.5) * 4.0 - 1.0
    return wave


def _clip(value: Plane) -> Plane:
    return np.minimum(np.maximum(value, 0.0), 1.0)


def _directions(count: int) -> tuple[tuple[float, float], ...]:
    angles = [2 * math.pi * index / count for index in range(count)]
    return tuple((round(math.cos(angle), 6), round(math.sin(angle), 6)) for angle in angles)


_TRIANGLE = _directions(3)
_PENTAGRAM = _directions(5)
_DOT = 0.32
"""Radius of a dot, in periods."""
