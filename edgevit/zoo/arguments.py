"""What the builders accept as image size and number of classes."""

from __future__ import annotations

from edgevit.errors import UserError

ImageSize = int | tuple[int, int]
"""Pixels of a square, or height and width."""


def image_extents(size: ImageSize, *, least: int, multiple: int = 1) -> tuple[int, int]:
    """Height and width of an image.

    Args:
        size: what the caller asked for.
        least: pixels that either must have.
        multiple: what both must be multiples of.

    Raises:
        UserError: they make no image of the model.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < least:
        raise UserError(f"an image of {height} x {width} pixels is too small.", advice=f"Use {least} pixels or more.")
    if height % multiple or width % multiple:
        raise UserError(
            f"an image of {height} x {width} pixels cannot be cut into patches of {multiple}.",
            advice=f"Use multiples of {multiple} pixels.",
        )
    return height, width


def check_classes(classes: int) -> None:
    """Refuse a classifier of no classes.

    Raises:
        UserError: there is none.
    """
    if classes < 1:
        raise UserError(f"{classes} classes make no classifier.", advice="Use at least one class.")


def divisible(channels: float, divisor: int = 8, least: int | None = None) -> int:
    """Channels of a layer whose width is scaled: a multiple of ``divisor`` near ``channels``, not below 90 % of them.

    The rule of MobileNetV2's authors, which MobileViTV2 follows.

    Args:
        channels: the scaled number.
        divisor: of the result.
        least: smallest result; ``divisor`` if not given.
    """
    rounded = max(least or divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
