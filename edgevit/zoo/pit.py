"""PiT as an ONNX graph, built from its definition.

Source: Heo, Yun, Han, Chun, Choe and Oh, "Rethinking Spatial Dimensions of Vision Transformers", ICCV 2021
(arXiv 2103.16302). The model is the one without a distillation token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize, check_classes, image_extents
from edgevit.zoo.deit import classifier, flatten, table, transformer_layer
from edgevit.zoo.graph import GraphBuilder

if TYPE_CHECKING:
    import onnx

PATCH = 16
STRIDE = 8


@dataclass(frozen=True)
class Variant:
    """What distinguishes the sizes of PiT.

    Attributes:
        size: channels of an attention head.
        heads: of the three stages.
        layers: of the three stages.
    """

    size: int
    heads: tuple[int, int, int]
    layers: tuple[int, int, int]


VARIANTS = {"ti": Variant(32, (2, 4, 8), (2, 6, 4))}


def build_pit(
    variant: str = "ti", *, image_size: ImageSize = 224, classes: int = 1000, seed: int = 0
) -> onnx.ModelProto:
    """PiT for image classification, with seeded weights.

    Args:
        variant: ``ti``.
        image_size: pixels of a square, or height and width; at least 16. The positions are a parameter of that size,
            so the image size cannot be left open.
        classes: number of classes.
        seed: seed of the weights.

    Returns:
        A checked model, opset 17, with input ``pixel_values`` (1, 3, height, width) and output ``logits``
        (1, classes), both float32. The same arguments give the same bytes.

    Raises:
        UserError: an unknown variant, or a size or count that makes no model.
    """
    if variant not in VARIANTS:
        raise UserError(f"there is no PiT {variant!r}.", advice=f"Choose from {', '.join(VARIANTS)}.")
    check_classes(classes)
    height, breadth = image_extents(image_size, least=PATCH)
    shape = VARIANTS[variant]
    g = GraphBuilder(f"pit_{variant}", seed)
    x = g.input("pixel_values", (1, 3, height, breadth))
    # Patches overlap; what is left of the image at the right and below is not read.
    x = g.conv(x, "patches", shape.size * shape.heads[0], PATCH, stride=STRIDE, pads=(0, 0, 0, 0), bias=True)
    x = g.add(x, table(g, "positions", g.shape(x)), "positioned")
    token = table(g, "class_token", (1, 1, g.shape(x)[1]))
    tokens = ""
    for stage, (heads, layers) in enumerate(zip(shape.heads, shape.layers, strict=True)):
        name = f"stage{stage}"
        if stage:
            x, token = pool(g, tokens, g.shape(x), f"{name}.pool", shape.size * heads)
        tokens = g.concat([token, flatten(g, x, f"{name}.tokens")], f"{name}.sequence", 1)
        for layer in range(layers):
            tokens = transformer_layer(g, tokens, f"{name}.layer{layer}", heads)
    g.output("logits", classifier(g, tokens, classes))
    return g.build()


def pool(g: GraphBuilder, tokens: str, image: tuple[int, ...], name: str, channels: int) -> tuple[str, str]:
    """Halve the image and widen the tokens.

    Args:
        g: where to add it.
        tokens: (1, 1 + height · width, inner); the class token comes first.
        image: (1, inner, height, width).
        name: of the layer.
        channels: of the results, a multiple of inner.

    Returns:
        The image (1, channels, ceil(height / 2), ceil(width / 2)) and the class token (1, 1, channels).
    """
    token = g.slice(tokens, f"{name}.class_token", 1, 0, 1)
    x = g.slice(tokens, f"{name}.rest", 1, 1, g.shape(tokens)[1])
    x = g.reshape(g.transpose(x, f"{name}.channels_first", (0, 2, 1)), f"{name}.image", image)
    x = g.conv(x, f"{name}.conv", channels, 3, stride=2, depthwise=True, bias=True)
    return x, g.linear(token, f"{name}.linear", channels)
