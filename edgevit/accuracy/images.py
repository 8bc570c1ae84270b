"""From a picture to the tensor a model takes, as its preprocessing says."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
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

_LARGE_PIXELS = 1 << 24
"""Pictures beyond this are decoded one at a time, so that memory does not grow with the number of threads."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's names of what is read: others, such as PostScript, would start programs."""

_EIGHT_BIT = frozenset({"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "LA", "PA", "RGBA"})
_SIXTEEN_BIT = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})


def read_image(path: Path) -> Image:
    """Read a picture whole, turned the way its EXIF data says.

    Raises:
        UserError: it cannot be read, is damaged or cut short, or would fill the memory.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if path.exists() and not path.is_file():
        raise _unreadable(path, "it is no regular file")
    try:
        with _pillows_warnings, Image.open(path, formats=_FORMATS) as opened:
            return ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise _unreadable(path, "it is no image that Pillow knows") from error
    # Decoders raise whatever the damaged bytes lead them to.
    except Exception as error:
        raise _unreadable(path, str(error) or type(error).__name__) from error


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """While the block decodes this picture, no other large one is decoded; small ones do not wait."""
    with _one_large_picture if _is_large(path) else contextlib.nullcontext():
        yield


def _is_large(path: Path) -> bool:
    """Whether a header says so; whoever decodes the picture says what is wrong with it."""
    from PIL import Image

    # A pipe would be waited for.
    if not path.is_file():
        return False
    try:
        with _pillows_warnings, Image.open(path, formats=_FORMATS) as opened:
            return opened.width * opened.height > _LARGE_PIXELS
    except Exception:
        return False


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

    width, height = resized_size(image.size, preprocessing)
    if (width, height) == image.size:
        return image
    if height * width > _MAX_PIXELS:
        raise UserError(
            f"an image of {image.height}x{image.width} is too long and narrow to be resized to {height}x{width}.",
            advice="Crop it first.",
        )
    kind = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    return image.resize((width, height), kind[preprocessing.interpolation])


def resized_size(size: tuple[int, int], preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of a picture of width and height ``size`` after the resize."""
    if preprocessing.resize is None:
        return size
    if isinstance(preprocessing.resize, tuple):
        return preprocessing.resize[1], preprocessing.resize[0]
    short = min(size)
    return size[0] * preprocessing.resize // short, size[1] * preprocessing.resize // short


def crop_corner(size: tuple[int, int], side: int) -> tuple[int, int]:
    """Left and top of the square that is cut from the middle of a picture of width and height ``size``."""
    # Python rounds halves to even, as torchvision does here.
    return round((size[0] - side) / 2), round((size[1] - side) / 2)


def _crop(image: Image, preprocessing: Preprocessing) -> Image:
    if (side := preprocessing.crop) is None:
        return image
    if min(image.size) < side:
        raise UserError(
            f"an image of {image.height}x{image.width} is smaller than the crop of {side}.",
            advice="State a resize in the preprocessing.",
        )
    left, top = crop_corner(image.size, side)
    return image.crop((left, top, left + side, top + side))


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"cannot read the image: {reason}.", where=str(path), advice="Replace or remove the file.")


class _PillowsWarnings:
    """While anyone is inside: what Pillow only warns of is refused, or not said.

    ``warnings.catch_warnings`` is not for threads: the first of them to leave would put the filters back that the
    others still need, and the last might leave behind what another had set.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        from PIL import Image

        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            self._stack.enter_context(warnings.catch_warnings())
            # Oddities of a file that decodes nonetheless.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            # Pictures of very many pixels: a warning up to a limit, an error beyond it. Here both are refused; set
            # last, so that it comes first.
            warnings.simplefilter("error", Image.DecompressionBombWarning)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stack.close()


_pillows_warnings = _PillowsWarnings()
_one_large_picture = threading.Lock()
