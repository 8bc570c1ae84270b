"""Random crops, flips and colours, of an image with its label, boxes and mask alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Sample:
    """One image with what is known of it.

    Attributes:
        image: uint8 (height, width, 3), red first.
        label: index of the class.
        boxes: float32 (n, 4), left, top, right and bottom in pixels.
        classes: int64 (n,), of the boxes.
        mask: uint8 (height, width), 0 the background and 1 + class elsewhere; None where there is none.
    """

    image: Array
    label: int = 0
    boxes: Array | None = None
    classes: Array | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class Augmentation:
    """How far a sample may be changed.

    Attributes:
        area: least share of the image that a crop keeps.
        ratio: greatest aspect ratio of a crop, relative to the image's; one over it is the least.
        flip: whether left and right may change places.
        jitter: brightness, contrast and saturation are each multiplied by 1 - jitter to 1 + jitter.
    """

    area: float = 0.25
    ratio: float = 4 / 3
    flip: bool = True
    jitter: float = 0.4


def augment(sample: Sample, resolution: int, how: Augmentation, rng: np.random.Generator) -> Sample:
    """A random view of a sample.

    Args:
        sample: not changed.
        resolution: height and width of the result.
        how: limits.
        rng: decides.
    """
    sample = crop(sample, _crop_box(sample.image.shape[:2], how, rng), resolution)
    if how.flip and rng.random() < 0.5:
        sample = flip(sample)
    return replace(sample, image=jitter(sample.image, how.jitter, rng))


def _crop_box(size: tuple[int, ...], how: Augmentation, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a random crop, in pixels."""
    height, width = size[:2]
    area = rng.uniform(how.area, 1)
    ratio = how.ratio ** rng.uniform(-1, 1)
    across, down = min(1.0, np.sqrt(area * ratio)), min(1.0, np.sqrt(area / ratio))
    left, top = rng.uniform(0, 1 - across), rng.uniform(0, 1 - down)
    return left * width, top * height, (left + across) * width, (top + down) * height


def crop(sample: Sample, box: tuple[float, float, float, float], resolution: int) -> Sample:
    """Part of a sample, resized to a square.

    Boxes whose centre is outside go, as in SSD's sampling; the others are cut at the border.

    Args:
        sample: not changed.
        box: left, top, right and bottom in pixels.
        resolution: height and width of the result.
    """
    square = (resolution, resolution)
    image = Image.fromarray(sample.image).resize(square, Image.Resampling.BILINEAR, box=box)
    boxes, classes, mask = sample.boxes, sample.classes, sample.mask
    if boxes is not None and classes is not None:
        origin, extent = np.array(box[:2] * 2), np.array([box[2] - box[0], box[3] - box[1]] * 2)
        moved = (boxes - origin) / extent
        centers = (moved[:, :2] + moved[:, 2:]) / 2
        inside = ((centers > 0) & (centers < 1)).all(1)
        boxes = (moved[inside].clip(0, 1) * resolution).astype(np.float32)
        classes = classes[inside]
    if mask is not None:
        mask = np.asarray(Image.fromarray(mask).resize(square, Image.Resampling.NEAREST, box=box))
    return replace(sample, image=np.asarray(image), boxes=boxes, classes=classes, mask=mask)


def flip(sample: Sample) -> Sample:
    """Left and right exchanged."""
    boxes, mask = sample.boxes, sample.mask
    if boxes is not None:
        boxes = boxes.copy()
        boxes[:, [0, 2]] = sample.image.shape[1] - boxes[:, [2, 0]]
    if mask is not None:
        mask = mask[:, ::-1]
    return replace(sample, image=sample.image[:, ::-1], boxes=boxes, mask=mask)


def jitter(image: Array, strength: float, rng: np.random.Generator) -> Array:
    """Brightness, contrast and saturation changed; uint8 (height, width, 3) to the same."""
    if not strength:
        return image
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    x = image.astype(np.float32)
    grey = x @ np.array([0.299, 0.587, 0.114], np.float32)
    # Each pixel between its grey and its colour, then all of them between the mean and themselves.
    x = brightness * (saturation * x + (1 - saturation) * grey[..., None])
    x = contrast * x + (1 - contrast) * brightness * grey.mean()
    result: Array = x.clip(0, 255).astype(np.uint8)
    return result
