"""Pictures on which reference and artifact differ, side by side in one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import UserError
from edgevit.files import staged_file

if TYPE_CHECKING:
    from PIL.Image import Image

MOST = 24
"""Pictures of a sheet."""

_SHEET = 1200
_SIDE = 192
_WIDEST = 3 * _SIDE
_LINE = 14
_TEXT_SIZE = 11
_MARGIN = 8

REFERENCE_COLOUR = (30, 140, 255)
ARTIFACT_COLOUR = (255, 120, 0)
TRUTH_COLOUR = (40, 200, 80)


@dataclass(frozen=True)
class Tile:
    """One picture of the sheet.

    Attributes:
        picture: of any size, RGB.
        lines: what to say under it.
    """

    picture: Image
    lines: tuple[str, ...]


def refuse_unwritable(path: Path) -> None:
    """Say before a long run that its sheet could not be written after it.

    Raises:
        UserError: its folder does not exist or cannot be written to, or there is a folder of that name.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError(
            "a contact sheet cannot be written there.", where=str(path), advice="Give a file in a folder of yours."
        )


def write_sheet(tiles: Sequence[Tile], path: Path) -> None:
    """Write the tiles as one PNG, in rows; none at all make a sheet that says so.

    Raises:
        UserError: the file cannot be written.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(_TEXT_SIZE)
    shown = list(tiles) or [Tile(Image.new("RGB", (_SIDE, _SIDE), "white"), ("no disagreement",))]
    pictures = [_fitted(tile.picture, _WIDEST) for tile in shown]
    side = max(_SIDE, *(picture.width for picture in pictures))
    wide, high = side + _MARGIN, _SIDE + _MARGIN + _LINE * max(len(tile.lines) for tile in shown)
    columns = min(max(1, _SHEET // wide), len(shown))
    rows = -(-len(shown) // columns)
    sheet = Image.new("RGB", (columns * wide + _MARGIN, rows * high + _MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (tile, picture) in enumerate(zip(shown, pictures, strict=True)):
        left, top = place % columns * wide + _MARGIN, place // columns * high + _MARGIN
        sheet.paste(picture, (left, top))
        for number, line in enumerate(tile.lines):
            # The built-in font has no other characters.
            text = line.encode("latin-1", "replace").decode("latin-1")
            while text and font.getlength(text) > side:
                text = f"{text.removesuffix('...')[:-1]}..."
            draw.text((left, top + _SIDE + number * _LINE), text, "black", font)
    with staged_file(path) as aside:
        sheet.save(aside, "PNG")


def framed(picture: Image, boxes: npt.NDArray[Any], colour: tuple[int, int, int]) -> Image:
    """The picture, reduced to a tile, with frames around boxes (n, 4) of left, top, right and bottom in its pixels."""
    from PIL import ImageDraw

    small = _fitted(picture, _SIDE)
    draw = ImageDraw.Draw(small)
    scale = np.array([small.width / picture.width, small.height / picture.height] * 2)
    for left, top, right, bottom in (boxes * scale).tolist():
        draw.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour)
    return small


def marked(picture: Image, where: npt.NDArray[np.bool_], colour: tuple[int, int, int]) -> Image:
    """The picture with the pixels of a map (height, width) covered."""
    from PIL import Image

    cover = Image.new("RGB", picture.size, colour)
    return Image.composite(cover, picture, Image.fromarray(where.astype(np.uint8) * 200))


def beside(*pictures: Image) -> Image:
    """Pictures of one height in a row."""
    from PIL import Image

    row = Image.new("RGB", (sum(picture.width for picture in pictures), max(picture.height for picture in pictures)))
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width
    return row


def _fitted(picture: Image, width: int) -> Image:
    """A copy no wider than that and no higher than a tile."""
    small = picture.copy()
    small.thumbnail((width, _SIDE))
    return small
