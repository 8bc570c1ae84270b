"""From the description of a scene to its pixels.

Every step is an elementwise operation in float32, or an integer lookup: the same bits on every platform.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgevit.data.draws import Draws
from edgevit.data.layout import Bar, Colour, Ground, Item, Layout, Light
from edgevit.data.shapes import REACH, Plane, outline, surface

_NORMAL = np.array([round(NormalDist().inv_cdf((index + 0.5) / 256) * 1024) / 1024 for index in range(256)], np.float32)
"""Quantiles of the normal distribution, by byte."""


@dataclass(frozen=True)
class Window:
    """A part of the image and where its pixels lie.

    Attributes:
        rows: of the image.
        columns: of the image.
        x: (1, columns), from a centre to the pixels' middles, in short sides.
        y: (rows, 1), likewise.
    """

    rows: slice
    columns: slice
    x: Plane
    y: Plane

    def along(self, x: float, y: float) -> Plane:
        """The linear function with these slopes, zero at the centre: (rows, columns)."""
        return self.x * x + self.y * y


class Canvas:
    """An image in the making.

    Attributes:
        pixels: float32 of shape (3, height, width), about 0 to 255.
        owners: uint8 of shape (height, width): position of the visible item plus 1, 0 where there is none.
        unit: pixels of the short side.
    """

    def __init__(self, height: int, width: int) -> None:
        self.unit = min(height, width)
        self.pixels = np.empty((3, height, width), np.float32)
        self.owners = np.zeros((height, width), np.uint8)

    def window(self, x: float, y: float, reach: float) -> Window:
        """The part of the image that is within ``reach`` of a centre; lengths in short sides."""
        height, width = self.owners.shape
        rows, columns = self._span(y, reach, height), self._span(x, reach, width)
        return Window(rows, columns, self._axis(columns, x)[None, :], self._axis(rows, y)[:, None])

    def everything(self) -> Window:
        """The whole image, seen from its middle."""
        height, width = self.owners.shape
        rows, columns = slice(0, height), slice(0, width)
        x, y = self._axis(columns, width / self.unit / 2), self._axis(rows, height / self.unit / 2)
        return Window(rows, columns, x[None, :], y[:, None])

    def paint(self, window: Window, outside: Plane, colour: Plane, owner: int) -> None:
        """Cover what an outline encloses; pixels on its edge mix, and belong to it if their middle is inside.

        Args:
            window: where.
            outside: (rows, columns), how far outside the outline pixels lie, in short sides.
            colour: (3, rows, columns), or what broadcasts to it.
            owner: of the covered pixels.
        """
        share = np.minimum(np.maximum(0.5 - outside * float(self.unit), 0.0), 1.0)
        part = self.pixels[:, window.rows, window.columns]
        part += (colour - part) * share
        self.owners[window.rows, window.columns][outside <= 0] = owner

    def _span(self, centre: float, reach: float, size: int) -> slice:
        low = max(0, math.floor((centre - reach) * self.unit))
        high = min(size, math.ceil((centre + reach) * self.unit))
        return slice(low, max(low, high))

    def _axis(self, span: slice, centre: float) -> Plane:
        return (np.arange(span.start, span.stop, dtype=np.float32) + 0.5) / float(self.unit) - centre


def render(
    layout: Layout, draws: Draws, height: int, width: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw a scene.

    Args:
        layout: what to draw.
        draws: its stream, for what is as large as the image.
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        The image, uint8 of shape (height, width, 3), RGB; and for each pixel the position plus 1 of the item that is
        seen there, 0 where there is none, uint8 of shape (height, width).
    """
    canvas = Canvas(height, width)
    whole = canvas.everything()
    _paint_ground(canvas, whole, layout.ground, draws)
    for bar in layout.litter:
        _paint_bar(canvas, bar)
    for position, item in enumerate(layout.items, 1):
        _paint_item(canvas, item, position)
    for bar in layout.twigs:
        _paint_bar(canvas, bar)
    return _expose(canvas, whole, layout.light, draws), canvas.owners


def _paint_ground(canvas: Canvas, whole: Window, ground: Ground, draws: Draws) -> None:
    first, second = (_column(colour) for colour in ground.colours)
    height, width = canvas.owners.shape
    cells_down, cells_across = (-(-ground.cells * side // canvas.unit) + 1 for side in (height, width))
    levels = draws.bytes(cells_down * cells_across).reshape(cells_down, cells_across)
    mixture = _magnify(levels.astype(np.float32) / 255.0, height, width, canvas.unit / ground.cells)
    if ground.texture != "plain":
        cosine, sine = (value / ground.period for value in ground.grain)
        pattern = surface(
            ground.texture, whole.along(cosine, sine), whole.along(-sine, cosine), ground.period * canvas.unit
        )
        mixture += (pattern - mixture) * ground.strength
    np.multiply(second - first, mixture, out=canvas.pixels)
    canvas.pixels += first


def _paint_bar(canvas: Canvas, bar: Bar) -> None:
    window = canvas.window(bar.x, bar.y, bar.half_length + bar.half_width)
    cosine, sine = bar.turn
    along, across = abs(window.along(cosine, sine)), abs(window.along(-sine, cosine))
    outside = np.maximum(along - bar.half_length, across - bar.half_width)
    canvas.paint(window, outside, _column(bar.colour), 0)


def _paint_item(canvas: Canvas, item: Item, owner: int) -> None:
    window = canvas.window(item.x, item.y, item.radius * REACH)
    cosine, sine = item.turn
    long, short = (item.radius * share for share in item.stretch)
    u, v = window.along(cosine / long, sine / long), window.along(-sine / short, cosine / short)
    outside = outline(item.shape, u, v) * short
    first, second = (_column(colour) for colour in item.colours)
    colour = np.broadcast_to(first, (3, *outside.shape))
    if item.texture != "plain":
        cosine, sine = (value / item.period for value in item.grain)
        a, b = window.along(cosine, sine) + item.phase[0], window.along(-sine, cosine) + item.phase[1]
        colour = first + (second - first) * surface(item.texture, a, b, item.period * canvas.unit)
    shade_x, shade_y = (value / item.radius for value in item.shade)
    canvas.paint(window, outside, colour * (window.along(shade_x, shade_y) + 1.0), owner)


def _expose(canvas: Canvas, whole: Window, light: Light, draws: Draws) -> npt.NDArray[np.uint8]:
    """Light, blur, noise; then bytes."""
    pixels = canvas.pixels
    pixels *= whole.along(*light.slope) + 1.0
    pixels *= _column(light.tint)
    for step in _blur_steps(light.blur * canvas.unit):
        for axis in (1, 2):
            pixels = _smooth(pixels, step, axis)
    noise = _NORMAL[draws.bytes(pixels.size)].reshape(pixels.shape)
    noise *= light.noise
    pixels += noise
    pixels += 0.5
    np.minimum(np.maximum(pixels, 0.0, out=pixels), 255.0, out=pixels)
    return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def _blur_steps(deviation: float) -> range:
    """Distances of taps: a pass at distance d adds d²/2 to the variance."""
    return range(1, 1 + sum(deviation > least for least in (0.35, 1.1, 2.1)))


def _smooth(pixels: Plane, step: int, axis: int) -> Plane:
    """(1, 2, 1) / 4 with taps ``step`` pixels apart; pixels beyond the border are its own."""
    turned = np.moveaxis(pixels, axis, 0)
    before = np.concatenate([np.repeat(turned[:1], step, 0), turned[:-step]])
    after = np.concatenate([turned[step:], np.repeat(turned[-1:], step, 0)])
    before += after
    before *= 0.5
    before += turned
    before *= 0.5
    return np.moveaxis(before, 0, axis)


def _magnify(levels: Plane, height: int, width: int, pitch: float) -> Plane:
    """Levels ``pitch`` pixels apart, linear between them: (height, width)."""
    rows, down = _taps(height, pitch)
    columns, across = _taps(width, pitch)
    wide: Plane = levels[:, columns] + (levels[:, columns + 1] - levels[:, columns]) * across
    tall: Plane = wide[rows] + (wide[rows + 1] - wide[rows]) * down[:, None]
    return tall


def _taps(size: int, pitch: float) -> tuple[npt.NDArray[np.int64], Plane]:
    places = (np.arange(size, dtype=np.float32) + 0.5) / pitch
    whole = places.astype(np.int64)
    return whole, places - whole.astype(np.float32)


def _column(colour: Colour) -> Plane:
    return np.array(colour, np.float32).reshape(3, 1, 1)
