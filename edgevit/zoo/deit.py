"""DeiT as an ONNX graph, built from its definition.

Source: Touvron, Cord, Douze, Massa, Sablayrolles and Jégou, "Training data-efficient image transformers & distillation
through attention", ICML 2021 (arXiv 2012.12877). The model is the one without a distillation token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize, check_classes, image_extents
from edgevit.zoo.graph import GraphBuilder

if TYPE_CHECKING:
    import onnx

PATCH = 16
LAYERS = 12
EPSILON = 1e-6
"""Of layer norms, as in the authors' code and in timm. Hugging Face transformers has 1e-12 by default; beside the
variance of real activations, neither shows in float32."""


@dataclass(frozen=True)
class Variant:
    """What distinguishes the sizes of DeiT.

    Attributes:
        width: token size.
        heads: of the attention, 64 channels each.
    """

    width: int
    heads: int


VARIANTS = {"tiny": Variant(192, 3)}


def build_deit(
    variant: str = "tiny", *, image_size: ImageSize = 224, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """DeiT for image classification, with seeded weights.

    Args:
        variant: ``tiny``.
        image_size: pixels of a square, or height and width; multiples of 16. The positions are a parameter of that
            size, so the image size cannot be left open.
        classes: number of classes.
        seed: seed of the weights.

    Returns:
        A checked model, opset 17, with input ``pixel_values`` (1, 3, height, width) and output ``logits``
        (1, classes), both float32. The same arguments give the same bytes.

    Raises:
        UserError: an unknown variant, or a size or count that makes no model.
    """
    if variant not in VARIANTS:
        raise UserError(f"there is no DeiT {variant!r}.", advice=f"Choose from {', '.join(VARIANTS)}.")
    check_classes(classes)
    height, breadth = image_extents(image_size, least=PATCH, multiple=PATCH)
    shape = VARIANTS[variant]
    g = GraphBuilder(f"deit_{variant}", seed)
    x = g.input("pixel_values", (1, 3, height, breadth))
    x = g.conv(x, "patches", shape.width, PATCH, stride=PATCH, pads=(0, 0, 0, 0), bias=True)
    tokens = g.concat([table(g, "class_token", (1, 1, shape.width)), flatten(g, x, "tokens")], "sequence", 1)
    tokens = g.add(tokens, table(g, "positions", g.shape(tokens)), "positioned")
    for index in range(LAYERS):
        tokens = transformer_layer(g, tokens, f"layer{index}", shape.heads)
    g.output("logits", classifier(g, tokens, classes))
    return g.build()


def table(g: GraphBuilder, name: str, shape: tuple[int, ...]) -> str:
    """A learned tensor that is added or prepended to tokens."""
    return g.constant(name, g.weights.small(name, math.prod(shape)).reshape(shape))


def flatten(g: GraphBuilder, x: str, name: str) -> str:
    """Image (B, C, H, W) to tokens (B, H·W, C)."""
    batch, channels, height, width = g.shape(x)
    x = g.reshape(x, f"{name}.rows", (batch, channels, height * width))
    return g.transpose(x, name, (0, 2, 1))


def transformer_layer(g: GraphBuilder, x: str, name: str, heads: int) -> str:
    """Pre-norm attention and feed-forward layer (4 times as wide, GELU), each with a residual."""
    width = g.shape(x)[-1]
    y = attention(g, g.layer_norm(x, f"{name}.norm1", epsilon=EPSILON), f"{name}.attention", heads)
    x = g.add(x, y, f"{name}.add1")
    y = g.linear(g.layer_norm(x, f"{name}.norm2", epsilon=EPSILON), f"{name}.expand", 4 * width)
    y = g.linear(g.gelu(y, f"{name}.gelu"), f"{name}.project", width)
    return g.add(x, y, f"{name}.add2")


def attention(g: GraphBuilder, x: str, name: str, heads: int) -> str:
    """Multi-head self-attention over the second axis of (batch, tokens, width)."""
    batch, tokens, width = g.shape(x)
    size = width // heads

    def split(role: str, order: tuple[int, int, int, int]) -> str:
        y = g.linear(x, f"{name}.{role}", width)
        y = g.reshape(y, f"{name}.{role}.split", (batch, tokens, heads, size))
        return g.transpose(y, f"{name}.{role}.heads", order)

    query, key, value = split("q", (0, 2, 1, 3)), split("k", (0, 2, 3, 1)), split("v", (0, 2, 1, 3))
    scale = g.constant(f"{name}.scale", np.asarray(1 / math.sqrt(size), np.float32))
    scores = g.multiply(g.matmul(query, key, f"{name}.scores"), scale, f"{name}.scaled")
    y = g.matmul(g.softmax(scores, f"{name}.softmax"), value, f"{name}.mix")
    y = g.reshape(g.transpose(y, f"{name}.merge", (0, 2, 1, 3)), f"{name}.join", (batch, tokens, width))
    return g.linear(y, f"{name}.out", width)


def classifier(g: GraphBuilder, tokens: str, classes: int) -> str:
    """Layer norm and linear layer of the class token, the first of (1, tokens, width)."""
    width = g.shape(tokens)[-1]
    # Every token is normalised by itself: the others need not be.
    x = g.layer_norm(g.slice(tokens, "class_token.last", 1, 0, 1), "norm", epsilon=EPSILON)
    return g.linear(g.reshape(x, "head.flat", (1, width)), "head.classifier", classes)
