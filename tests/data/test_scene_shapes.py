"""Outlines against polygons that Pillow fills, surfaces against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageDraw

from edgevit.data.shapes import REACH, SHAPES, outline, surface

SIDE = 401
SCALE = 160


def _points(corners: int, radius: float, inner: float | None = None, start: float = 0.0) -> list[tuple[float, float]]:
    """Corners of a regular polygon, or of a star, the first at an angle of ``start``."""
    count = corners if inner is None else 2 * corners
    radii = [radius if inner is None or index % 2 == 0 else inner for index in range(count)]
    angles = [start + 2 * math.pi * index / count for index in range(count)]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


# A pentagram's inner corners lie at the golden ratio squared.
GOLDEN = (1 + math.sqrt(5)) / 2
POLYGONS = {
    "square": [[(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)]],
    "triangle": [_points(3, 1.16, start=math.pi)],
    "star": [_points(5, 0.36 / math.cos(math.radians(72)), 0.36 / math.cos(math.radians(72)) / GOLDEN**2)],
    "cross": [
        [(-0.95, -0.32), (0.95, -0.32), (0.95, 0.32), (-0.95, 0.32)],
        [(-0.32, -0.95), (0.32, -0.95), (0.32, 0.95), (-0.32, 0.95)],
    ],
    "disc": [_points(200, 0.9)],
    "ring": [_points(200, 1.0)],
}


def _grid() -> tuple[np.ndarray, np.ndarray]:
    axis = ((np.arange(SIDE) - SIDE // 2) / SCALE).astype(np.float32)
    return np.broadcast_to(axis, (SIDE, SIDE)), np.broadcast_to(axis[:, None], (SIDE, SIDE))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_encloses_its_polygon(shape: str) -> None:
    image = Image.new("1", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for polygon in POLYGONS[shape]:
        draw.polygon([(x * SCALE + SIDE // 2, y * SCALE + SIDE // 2) for x, y in polygon], fill=1)
    if shape == "ring":
        hole = [(x * SCALE / 2 + SIDE // 2, y * SCALE / 2 + SIDE // 2) for x, y in _points(200, 1.0)]
        draw.polygon(hole, fill=0)
    expected = np.asarray(image)
    distance = outline(shape, *_grid())
    assert distance.dtype == np.float32
    inside = distance <= 0
    assert (inside & expected).sum() / (inside | expected).sum() > 0.98
    u, v = _grid()
    assert np.hypot(u, v)[inside].max() <= REACH


@pytest.mark.parametrize(
    ("texture", "share"), [("plain", 0.0), ("striped", 0.5), ("checked", 0.5), ("dotted", math.pi * 0.32**2)]
)
def test_a_surface_repeats_and_shows_its_share_of_the_second_colour(texture: str, share: float) -> None:
    axis = (np.arange(400, dtype=np.float32) + 0.5) / 40
    a, b = np.broadcast_to(axis, (400, 400)), np.broadcast_to(axis[:, None], (400, 400))
    shown = surface(texture, a, b, 40.0)
    assert shown.dtype == np.float32
    assert shown.min() >= 0
    assert shown.max() <= 1
    assert shown.mean() == pytest.approx(share, abs=0.01)
    assert np.allclose(shown[:, :360], shown[:, 40:], atol=1e-3)
    assert np.allclose(shown[:360], shown[40:], atol=1e-3)
    if texture == "striped":
        assert np.ptp(shown, axis=0).max() == 0
    if texture == "checked":
        assert np.allclose(shown[:, :380], 1 - shown[:, 20:], atol=1e-3)
