"""MobileViT as an ONNX graph, built from its definition.

Source: Mehta and Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
Transformer", ICLR 2022 (arXiv 2110.02178).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import UserError
from edgevit.zoo.graph import GraphBuilder

if TYPE_CHECKING:
    import onnx

STEM_CHANNELS = 16
HEADS = 4
PATCH = 2
DEPTHS = (2, 4, 3)
"""Transformer layers of the blocks at output strides 8, 16 and 32."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes the sizes of MobileViT.

    Attributes:
        channels: output channels of the five stages after the stem.
        expansion: factor of the inverted residual blocks.
        widths: token size of the transformer blocks at output strides 8, 16 and 32; the feed-forward layer
            is twice as wide.
    """

    channels: tuple[int, int, int, int, int]
    expansion: int
    widths: tuple[int, int, int]


VARIANTS = {
    "xxs": Variant((16, 24, 48, 64, 80), 2, (64, 80, 96)),
    "xs": Variant((32, 48, 64, 80, 96), 4, (96, 120, 144)),
    "s": Variant((32, 64, 96, 128, 160), 4, (144, 192, 240)),
}


def build_mobilevit(variant: str, *, image_size: int = 256, classes: int = 1000, seed: int = 0) -> onnx.ModelProto:
    """MobileViT for image classification, with seeded weights.

    Args:
        variant: ``xxs``, ``xs`` or ``s``.
        image_size: height and width of the input in pixels, at least 32.
        classes: number of classes.
        seed: seed of the weights.

    Returns:
        A checked model, opset 17, with input ``pixel_values`` (1, 3, image_size, image_size) and output
        ``logits`` (1, classes), both float32. The same arguments give the same bytes.

    Raises:
        UserError: an unknown variant, or a size or count that makes no model.
    """
    if variant not in VARIANTS:
        raise UserError(f"there is no MobileViT {variant!r}.", advice=f"Choose from {', '.join(VARIANTS)}.")
    if image_size < 32:
        raise UserError(f"an image of {image_size} pixels is too small.", advice="Use 32 pixels or more.")
    if classes < 1:
        raise UserError(f"{classes} classes make no classifier.", advice="Use at least one class.")
    builder = GraphBuilder(f"mobilevit_{variant}", seed)
    image = builder.input("pixel_values", (1, 3, image_size, image_size))
    features = backbone(builder, image, VARIANTS[variant])[-1]
    builder.output("logits", classifier(builder, features, classes))
    return builder.build()


def backbone(g: GraphBuilder, image: str, variant: Variant) -> list[str]:
    """Stem and five stages; returns the stages' outputs, at strides 2, 4, 8, 16 and 32."""
    c = variant.channels
    x = conv_norm_silu(g, image, "stem", STEM_CHANNELS, 3, stride=2)
    outputs = [inverted_residual(g, x, "stage1.0", c[0], variant.expansion)]
    x = outputs[0]
    for index in range(3):
        x = inverted_residual(g, x, f"stage2.{index}", c[1], variant.expansion, stride=1 if index else 2)
    outputs.append(x)
    for index, (channels, width, depth) in enumerate(zip(c[2:], variant.widths, DEPTHS, strict=True)):
        name = f"stage{index + 3}"
        x = inverted_residual(g, x, f"{name}.down", channels, variant.expansion, stride=2)
        x = mobilevit_block(g, x, f"{name}.block", width, depth)
        outputs.append(x)
    return outputs


def classifier(g: GraphBuilder, x: str, classes: int) -> str:
    """Expansion, global average pool, linear layer."""
    x = conv_norm_silu(g, x, "head.expand", min(4 * g.shape(x)[1], 960), 1)
    x = g.global_average(x, "head.pool")
    return g.linear(x, "head.classifier", classes)


def conv_norm_silu(g: GraphBuilder, x: str, name: str, channels: int, kernel: int, *, stride: int = 1) -> str:
    """Convolution, batch norm, SiLU."""
    x = g.conv(x, f"{name}.conv", channels, kernel, stride=stride)
    x = g.batch_norm(x, f"{name}.norm")
    return g.silu(x, f"{name}.silu")


def inverted_residual(g: GraphBuilder, x: str, name: str, channels: int, expansion: int, *, stride: int = 1) -> str:
    """MobileNetV2's block: expand, depthwise, project; residual where the shape stays the same."""
    inner = g.shape(x)[1]
    y = conv_norm_silu(g, x, f"{name}.expand", inner * expansion, 1)
    y = g.conv(y, f"{name}.depthwise.conv", inner * expansion, 3, stride=stride, depthwise=True)
    y = g.silu(g.batch_norm(y, f"{name}.depthwise.norm"), f"{name}.depthwise.silu")
    y = g.batch_norm(g.conv(y, f"{name}.project.conv", channels, 1), f"{name}.project.norm")
    return g.add(x, y, f"{name}.add") if g.shape(x) == g.shape(y) else y


def mobilevit_block(g: GraphBuilder, x: str, name: str, width: int, depth: int) -> str:
    """Local convolutions, transformer over patches, fusion with the input."""
    channels = g.shape(x)[1]
    y = conv_norm_silu(g, x, f"{name}.local", channels, 3)
    y = g.conv(y, f"{name}.to_tokens", width, 1)
    height, breadth = g.shape(y)[2:]
    padded = tuple(math.ceil(size / PATCH) * PATCH for size in (height, breadth))
    if padded != (height, breadth):
        y = g.resize(y, f"{name}.grow", *padded)
    tokens = unfold(g, y, f"{name}.unfold")
    for index in range(depth):
        tokens = transformer_layer(g, tokens, f"{name}.layer{index}")
    tokens = g.layer_norm(tokens, f"{name}.norm")
    y = fold(g, tokens, f"{name}.fold", g.shape(y))
    if padded != (height, breadth):
        y = g.resize(y, f"{name}.shrink", height, breadth)
    y = conv_norm_silu(g, y, f"{name}.from_tokens", channels, 1)
    return conv_norm_silu(g, g.concat([x, y], f"{name}.concat", 1), f"{name}.fuse", channels, 3)


def unfold(g: GraphBuilder, x: str, name: str) -> str:
    """Image (B, C, H, W) to tokens (B·P, N, C): N patches, one sequence for each of P pixel positions."""
    b, c, h, w = g.shape(x)
    rows, columns, area = h // PATCH, w // PATCH, PATCH * PATCH
    x = g.reshape(x, f"{name}.split", (b * c * rows, PATCH, columns, PATCH))
    x = g.transpose(x, f"{name}.gather", (0, 2, 1, 3))
    x = g.reshape(x, f"{name}.patches", (b, c, rows * columns, area))
    x = g.transpose(x, f"{name}.channels_last", (0, 3, 2, 1))
    return g.reshape(x, name, (b * area, rows * columns, c))


def fold(g: GraphBuilder, tokens: str, name: str, shape: tuple[int, ...]) -> str:
    """Inverse of :func:`unfold`; ``shape`` is the image's."""
    b, c, h, w = shape
    rows, columns, area = h // PATCH, w // PATCH, PATCH * PATCH
    x = g.reshape(tokens, f"{name}.positions", (b, area, rows * columns, c))
    x = g.transpose(x, f"{name}.channels_first", (0, 3, 2, 1))
    x = g.reshape(x, f"{name}.patches", (b * c * rows, columns, PATCH, PATCH))
    x = g.transpose(x, f"{name}.scatter", (0, 2, 1, 3))
    return g.reshape(x, name, shape)


def transformer_layer(g: GraphBuilder, x: str, name: str) -> str:
    """Pre-norm attention and feed-forward layer, each with a residual."""
    width = g.shape(x)[-1]
    y = attention(g, g.layer_norm(x, f"{name}.norm1"), f"{name}.attention")
    x = g.add(x, y, f"{name}.add1")
    y = g.linear(g.layer_norm(x, f"{name}.norm2"), f"{name}.expand", 2 * width)
    y = g.linear(g.silu(y, f"{name}.silu"), f"{name}.project", width)
    return g.add(x, y, f"{name}.add2")


def attention(g: GraphBuilder, x: str, name: str) -> str:
    """Multi-head self-attention over the second axis of (batch, tokens, width)."""
    import numpy as np

    batch, tokens, width = g.shape(x)
    size = width // HEADS

    def split(role: str, order: tuple[int, int, int, int]) -> str:
        y = g.linear(x, f"{name}.{role}", width)
        y = g.reshape(y, f"{name}.{role}.split", (batch, tokens, HEADS, size))
        return g.transpose(y, f"{name}.{role}.heads", order)

    query, key, value = split("q", (0, 2, 1, 3)), split("k", (0, 2, 3, 1)), split("v", (0, 2, 1, 3))
    scores = g.matmul(query, key, f"{name}.scores")
    divisor = g.constant(f"{name}.sqrt", np.asarray(math.sqrt(size), np.float32))
    scores = g.node("Div", [scores, divisor], f"{name}.scaled", g.shape(scores))
    weights = g.node("Softmax", [scores], f"{name}.softmax", g.shape(scores), axis=-1)
    y = g.matmul(weights, value, f"{name}.mix")
    y = g.transpose(y, f"{name}.merge", (0, 2, 1, 3))
    y = g.reshape(y, f"{name}.join", (batch, tokens, width))
    return g.linear(y, f"{name}.out", width)
