"""DeepLabv3's head: the same features seen at several distances, and classes for every cell.

Source: Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017 (arXiv 1706.05587).
"""

from __future__ import annotations

from edgevit.zoo.graph import GraphBuilder
from edgevit.zoo.mobilevit_layers import conv_norm_relu

CHANNELS = 256
RATES = (6, 12, 18)
"""Distances between the elements of the atrous 3x3 windows, for features at output stride 16."""


def deeplab(g: GraphBuilder, x: str, classes: int) -> str:
    """Atrous spatial pyramid pooling and a classifier.

    Args:
        x: features (1, channels, height, width).
        classes: number of classes.

    Returns:
        Logits (1, classes, height, width).
    """
    levels = [conv_norm_relu(g, x, "seg.aspp.point", CHANNELS, 1)]
    levels += [conv_norm_relu(g, x, f"seg.aspp.rate{rate}", CHANNELS, 3, dilation=rate) for rate in RATES]
    levels.append(image_level(g, x, "seg.aspp.pool"))
    x = conv_norm_relu(g, g.concat(levels, "seg.aspp.concat", 1), "seg.aspp.project", CHANNELS, 1)
    return g.conv(x, "seg.classifier", classes, 1, bias=True)


def image_level(g: GraphBuilder, x: str, name: str) -> str:
    """What the whole image looks like, at every cell."""
    height, width = g.extent(x, 2, f"{name}.height"), g.extent(x, 3, f"{name}.width")
    y = conv_norm_relu(g, g.global_average(x, f"{name}.mean", flat=False), name, CHANNELS, 1)
    return g.resize(y, f"{name}.grow", height, width)
