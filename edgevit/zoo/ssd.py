"""SSDLite's head: boxes and classes for a fixed set of anchors on six feature maps.

Sources: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016 (arXiv 1512.02325), for anchors and box
coding; Sandler et al., "MobileNetV2", CVPR 2018 (arXiv 1801.04381), for the separable convolutions; Mehta and
Rastegari, "MobileViT", ICLR 2022 (arXiv 2110.02178), and its public configuration for sizes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.model.metadata import AnchorLevel, Detection
from edgevit.zoo.graph import GraphBuilder
from edgevit.zoo.mobilevit_layers import conv_norm_relu

SCALES = np.linspace(0.1, 1.05, 7)
"""Side of the square anchors of each level, and of one level more, as a share of the image."""

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Level:
    """A feature map that boxes are predicted from.

    Attributes:
        name: ends the names of its layers.
        stride: pixels between its cells; None where one cell stands for the image.
        channels: of what its prediction reads, after a projection where the map has another number.
        ratios: aspect ratios of its anchors, beside 1.
    """

    name: str
    stride: int | None
    channels: int
    ratios: tuple[int, ...] = (2, 3)


LEVELS = (
    Level("16", 16, 512),
    Level("32", 32, 256),
    Level("64", 64, 256),
    Level("128", 128, 128),
    Level("256", 256, 128),
    Level("_global", None, 64, (2,)),
)


def anchors(image_size: tuple[int, int]) -> tuple[AnchorLevel, ...]:
    """The anchors of each level, in the order of the outputs.

    A cell of level i has a square of side s_i, one of side sqrt(s_i * s_(i+1)), and for every ratio r a wide and a
    high box of area s_i squared. No side is longer than the image.

    Args:
        image_size: height and width in pixels.
    """
    levels = []
    for level, small, large in zip(LEVELS, SCALES[:-1], SCALES[1:], strict=True):
        sizes = [(small, small), (math.sqrt(small * large),) * 2]
        for ratio in level.ratios:
            root = math.sqrt(ratio)
            sizes += [(small * root, small / root), (small / root, small * root)]
        clipped = tuple((min(float(width), 1.0), min(float(height), 1.0)) for width, height in sizes)
        rows, columns = (-(-pixels // level.stride) if level.stride else 1 for pixels in image_size)
        levels.append(AnchorLevel(height=rows, width=columns, sizes=clipped))
    return tuple(levels)


def detection(image_size: tuple[int, int]) -> Detection:
    """How the outputs at that image size, height and width in pixels, become objects."""
    return Detection(anchors=anchors(image_size))


def anchor_boxes(levels: Sequence[AnchorLevel]) -> Array:
    """Centre x, centre y, width and height of every anchor, as shares of the image: float64 (anchors, 4)."""
    boxes = []
    for level in levels:
        rows, columns = np.indices((level.height, level.width)).reshape(2, -1) + 0.5
        centers = np.stack([columns / level.width, rows / level.height], axis=-1)
        sizes = np.asarray(level.sizes)
        boxes.append(np.concatenate([np.repeat(centers, len(sizes), 0), np.tile(sizes, (len(centers), 1))], axis=-1))
    return np.concatenate(boxes)


def ssdlite(g: GraphBuilder, features: Sequence[str], coding: Detection, classes: int) -> tuple[str, str]:
    """Extra levels, predictions, decoded boxes and probabilities.

    Args:
        features: the backbone's maps at output strides 16 and 32.
        coding: the anchors, and how boxes are coded relative to them.
        classes: number of classes, the background at 0 among them.

    Returns:
        Boxes (1, anchors, 4): left, top, right and bottom as shares of the image, not clipped to it.
        Scores (1, anchors, classes), which sum to 1 for each anchor.
    """
    maps = list(features)
    for level in LEVELS[len(maps) :]:
        maps.append(extra_level(g, maps[-1], level))
    values = 4 + classes
    parts = [
        predictions(g, x, level, len(anchor.sizes), values)
        for x, level, anchor in zip(maps, LEVELS, coding.anchors, strict=True)
    ]
    raw = g.concat(parts, "det.concat", 1)
    logits = g.slice(raw, "det.logits", 2, 4, values)
    return decode(g, raw, coding), g.softmax(logits, "det.softmax")


def extra_level(g: GraphBuilder, x: str, level: Level) -> str:
    """The next coarser map: a separable convolution of stride 2, at last the whole image."""
    name = f"det.extra{level.name}"
    if level.stride is None:
        x = g.conv(g.global_average(x, f"{name}.mean", flat=False), f"{name}.conv", level.channels, 1)
        return g.relu(x, f"{name}.relu")
    x = g.conv(x, f"{name}.depthwise.conv", g.shape(x)[1], 3, stride=2, depthwise=True)
    x = g.batch_norm(x, f"{name}.depthwise.norm")
    return conv_norm_relu(g, x, f"{name}.point", level.channels, 1)


def predictions(g: GraphBuilder, x: str, level: Level, boxes: int, values: int) -> str:
    """What one map says of its anchors: (1, cells * boxes, values), four of a box before those of the classes."""
    name = f"det.head{level.name}"
    if level.stride is not None:
        if g.shape(x)[1] != level.channels:
            x = conv_norm_relu(g, x, f"{name}.project", level.channels, 1)
        x = g.conv(x, f"{name}.depthwise.conv", level.channels, 3, depthwise=True)
        x = g.batch_norm(x, f"{name}.depthwise.norm")
    x = g.conv(x, f"{name}.predict", boxes * values, 1, bias=True)
    batch, _, rows, columns = g.shape(x)
    x = g.transpose(x, f"{name}.channels_last", (0, 2, 3, 1))
    return g.reshape(x, f"{name}.anchors", (batch, rows * columns * boxes, values))


def decode(g: GraphBuilder, raw: str, coding: Detection) -> str:
    """Corners of the boxes that the first four of every anchor's values stand for.

    With the anchor's centre c and size s, and the values p (two) and q (two): the box's centre is
    ``c + center_variance * p * s``, its size ``s * exp(size_variance * q)``.
    """
    priors = anchor_boxes(coding.anchors)[None]
    centers, sizes = priors[..., :2], priors[..., 2:]
    shape = (1, priors.shape[1], 2)

    def constant(name: str, data: Array | float) -> str:
        return g.constant(f"det.decode.{name}", np.asarray(data, np.float32))

    offsets = g.slice(raw, "det.decode.offsets", 2, 0, 2)
    shift = g.multiply(offsets, constant("reach", coding.center_variance * sizes), "det.decode.shift")
    middle = g.add(shift, constant("centers", centers), "det.decode.middle")
    logs = g.slice(raw, "det.decode.logs", 2, 2, 4)
    power = g.multiply(logs, constant("variance", coding.size_variance), "det.decode.power")
    growth = g.node("Exp", [power], "det.decode.growth", shape)
    half = g.multiply(growth, constant("half_sizes", sizes / 2), "det.decode.half")
    low = g.node("Sub", [middle, half], "det.decode.low", shape)
    high = g.add(middle, half, "det.decode.high")
    return g.concat([low, high], "det.decode.corners", 2)
