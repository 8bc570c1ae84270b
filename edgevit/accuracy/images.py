"""From a picture to the tensor a model takes, as its preprocessing says."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgevit.model.metadata import Preprocessing

Tensor = npt.NDArray[np.float32]

_MAX_PIXELS = 1 << 26
"""Of a resized picture, against those of a pixel by thousands."""

_EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "PA", "RGBA"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


def read_image(path: Path) -> Image:
    """Read a picture whole, turned the way its EXIF data says.

    Raises:
        UserError: it cannot be read, is damaged or cut short, or would fill the memory.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            # Pictures of very many pixels: a warning up to a limit, an error beyond it. Here both are refused.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Oddities of a file that decodes nonetheless.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            with Image.open(path) as opened:
                return ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise _unreadable(path, "it is no image that Pillow knows") from error
    # Decoders raise whatever the damaged bytes lead them to.
    except Exception as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error


def prepare(image: Image, preprocessing: Preprocessing, height: int, width: int) -> Tensor:
    """The input tensor of one picture.

    The picture becomes RGB, is resized (antialiased, in 8 bits, as Pillow does it) and cropped in the middle, then
    ``(pixel * scale - mean) / std`` in float32, channels in the preprocessing's order.

    Transparency is dropped. Pictures of 16 bits are brought to 8. A short side keeps the proportions, the long side
    rounded down; a crop that cannot be centred exactly begins at the even one of the two nearest pixels. These are
    torchvision's rules.

    Args:
        image: from :func:`read_image`, or made by Pillow.
        preprocessing: for this input size: see :meth:`~edgevit.model.metadata.Preprocessing.for_size`.
        height: of the input, pixels.
        width: of the input, pixels.

    Returns:
        float32 of shape (1, 3, height, width).

    Raises:
        UserError: the picture's mode has no defined range, or the result has another size.
    """
    picture = _crop(_resize(to_rgb(image), preprocessing), preprocessing)
    if picture.size != (width, height):
        raise UserError(
            f"an image of {image.height}x{image.width} becomes {picture.height}x{picture.width}, and the model takes "
            f"{height}x{width}.",
            advice="State a crop, or a resize to both sides, in the preprocessing.",
        )
    pixels = np.asarray(picture, np.float32)
    if preprocessing.channel_order == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    scaled = (pixels * np.float32(preprocessing.scale) - mean) / std
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def to_rgb(image: Image) -> Image:
    """The picture in 8 bits of red, green and blue; transparency is dropped.

    Raises:
        UserError: its mode is none of those whose range is known.
    """
    from PIL import Image

    if image.mode in _SIXTEEN_BIT:
        # 65535 / 255 = 257; rounded to the nearest.
        wide: npt.NDArray[Any] = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode not in _EIGHT_BIT:
        raise UserError(
            f"an image of mode {image.mode!r} has no defined range of values.",
            advice="Convert it to 8 bits of RGB or grey first.",
        )
    if image.mode in ("P", "PA"):
        # By way of RGBA, because a palette may hold transparency for each colour.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resize(image: Image, preprocessing: Preprocessing) -> Image:
    from PIL import Image

    if preprocessing.resize is None:
        return image
    if isinstance(preprocessing.resize, tuple):
        height, width = preprocessing.resize
    else:
        short = min(image.size)
        height, width = (side * preprocessing.resize // short for side in (image.height, image.width))
    if (width, height) == image.size:
        return image
    if height * width > _MAX_PIXELS:
        raise UserError(
            f"an image of {image.height}x{image.width} is too long and narrow to be resized to {height}x{width}.",
            advice="Crop it first.",
        )
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return image.resize((width, height), kind[preprocessing.interpolation])


def _crop(image: Image, preprocessing: Preprocessing) -> Image:
    if (side := preprocessing.crop) is None:
        return image
    if min(image.size) < side:
        raise UserError(
            f"an image of {image.height}x{image.width} is smaller than the crop of {side}.",
            advice="State a resize in the preprocessing.",
        )
    # Python rounds halves to even, as torchvision does here.
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"cannot read the image: {reason}.", where=str(path), advice="Replace or remove the file.")
