"""How a command line states an image's size."""

from __future__ import annotations

import re

from edgevit.errors import UserError


def image_size(text: str) -> int | tuple[int, int]:
    """Pixels of both sides, or height and width: ``320`` or ``240x320``.

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise UserError(f"{text!r} is no image size.", advice="Give pixels, 320, or height and width, 240x320.")
    return (int(match[1]), int(match[2])) if match[2] else int(match[1])
