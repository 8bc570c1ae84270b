"""MobileViTV2 as an ONNX graph, built from its definition.

Source: Mehta and Rastegari, "Separable Self-attention for Mobile Vision Transformers", 2022 (arXiv 2206.02680).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize, check_classes, divisible, image_extents
from edgevit.zoo.graph import GraphBuilder

if TYPE_CHECKING:
    import onnx

WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
PATCH = 2
EXPANSION = 2
TRANSFORMERS = ((256, 128, 2), (384, 192, 4), (512, 256, 3))
"""Channels, token size and attention layers at output strides 8, 16 and 32, for width 1."""


def build_mobilevit_v2(
    width: float = 1.0,
    *,
    image_size: ImageSize = 256,
    classes: int = 1000,
    seed: int = 0,
    dynamic: bool = False,
) -> onnx.ModelProto:
    """MobileViTV2 for image classification, with seeded weights.

    Args:
        width: factor of all channel counts, one of :data:`WIDTHS`.
        image_size: pixels of a square, or height and width; at least 32. Where a feature map is no multiple of the
            patch, the block enlarges it before it does anything else, as in the authors' code.
        classes: number of classes.
        seed: seed of the weights.
        dynamic: leave height and width open.

    Returns:
        A checked model, opset 17, with input ``pixel_values`` (1, 3, height, width) and output ``logits``
        (1, classes), both float32. The same arguments give the same bytes.

    Raises:
        UserError: an unknown width, or a size or count that makes no model.
    """
    if width not in WIDTHS:
        known = ", ".join(str(known) for known in WIDTHS)
        raise UserError(f"there is no MobileViTV2 of width {width}.", advice=f"Choose from {known}.")
    check_classes(classes)
    height, breadth = image_extents(image_size, least=32)
    g = GraphBuilder("mobilevit_v2", seed, dynamic=dynamic)
    x = g.input("pixel_values", (1, 3, height, breadth))
    x = conv_norm(g, x, "stem", divisible(max(16, min(64, 32 * width)), least=16), 3, stride=2)
    x = inverted_residual(g, x, "stage1.0", divisible(64 * width, 16))
    for index in range(2):
        x = inverted_residual(g, x, f"stage2.{index}", divisible(128 * width), stride=1 if index else 2)
    for stage, (channels, size, layers) in enumerate(TRANSFORMERS, 3):
        x = inverted_residual(g, x, f"stage{stage}.down", divisible(channels * width), stride=2)
        x = mobilevit_block(g, x, f"stage{stage}.block", divisible(size * width), layers)
    g.output("logits", g.linear(g.global_average(x, "head.pool"), "head.classifier", classes))
    return g.build()


def conv_norm(
    g: GraphBuilder,
    x: str,
    name: str,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    depthwise: bool = False,
    active: bool = True,
) -> str:
    """Convolution, batch norm and, unless it is a bottleneck, SiLU."""
    y = g.conv(x, f"{name}.conv", channels, kernel, stride=stride, depthwise=depthwise)
    y = g.batch_norm(y, f"{name}.norm")
    return g.silu(y, f"{name}.silu") if active else y


def inverted_residual(g: GraphBuilder, x: str, name: str, channels: int, *, stride: int = 1) -> str:
    """MobileNetV2's block: expand, depthwise, project; residual where the shape stays the same."""
    inner = EXPANSION * g.shape(x)[1]
    y = conv_norm(g, x, f"{name}.expand", inner, 1)
    y = conv_norm(g, y, f"{name}.depthwise", inner, 3, stride=stride, depthwise=True)
    y = conv_norm(g, y, f"{name}.project", channels, 1, active=False)
    return g.add(x, y, f"{name}.add") if stride == 1 and g.shape(x) == g.shape(y) else y


def mobilevit_block(g: GraphBuilder, x: str, name: str, size: int, layers: int) -> str:
    """Local convolutions, separable attention over patches, projection. There is no residual around it.

    Args:
        g: where to add it.
        x: (1, channels, height, width).
        name: of the block.
        size: channels of a token.
        layers: attention layers.

    Returns:
        (1, channels, height, width), both rounded up to multiples of the patch.
    """
    channels = g.shape(x)[1]
    x = enlarge(g, x, f"{name}.grow")
    y = conv_norm(g, x, f"{name}.local", channels, 3, depthwise=True)
    y = g.conv(y, f"{name}.to_tokens", size, 1)
    tokens = unfold(g, y, f"{name}.unfold")
    for index in range(layers):
        tokens = transformer_layer(g, tokens, f"{name}.layer{index}")
    y = fold(g, group_norm(g, tokens, f"{name}.norm"), f"{name}.fold", y)
    return conv_norm(g, y, f"{name}.from_tokens", channels, 1, active=False)


def enlarge(g: GraphBuilder, x: str, name: str) -> str:
    """Resize an image, corners aligned, to the next multiples of the patch, unless it has that size."""
    if not g.dynamic and not any(extent % PATCH for extent in g.shape(x)[2:]):
        return x
    extents = []
    for axis, role in ((2, "height"), (3, "width")):
        count = g.parts(g.extent(x, axis, f"{name}.{role}"), PATCH, f"{name}.{role}.patches")
        extents.append(g.times(count, PATCH, f"{name}.{role}.new"))
    return g.resize(x, name, *extents, align_corners=True)


def unfold(g: GraphBuilder, x: str, name: str) -> str:
    """Image (B, C, H, W) to (B, C, P, N): N patches, each of P pixels, row by row."""
    batch, channels, *_ = g.shape(x)
    rows = g.parts(g.extent(x, 2, f"{name}.height"), PATCH, f"{name}.rows")
    columns = g.parts(g.extent(x, 3, f"{name}.width"), PATCH, f"{name}.columns")
    x = g.reshape(x, f"{name}.split", (batch, channels, rows, PATCH, columns, PATCH))
    x = g.transpose(x, f"{name}.gather", (0, 1, 3, 5, 2, 4))
    return g.reshape(x, name, (batch, channels, PATCH * PATCH, g.product(rows, columns, f"{name}.count")))


def fold(g: GraphBuilder, tokens: str, name: str, image: str) -> str:
    """Inverse of :func:`unfold`; ``image`` is what was unfolded."""
    batch, channels, *_ = g.shape(image)
    height, width = g.extent(image, 2, f"{name}.height"), g.extent(image, 3, f"{name}.width")
    rows, columns = g.parts(height, PATCH, f"{name}.rows"), g.parts(width, PATCH, f"{name}.columns")
    x = g.reshape(tokens, f"{name}.split", (batch, channels, PATCH, PATCH, rows, columns))
    x = g.transpose(x, f"{name}.scatter", (0, 1, 4, 2, 5, 3))
    return g.reshape(x, name, (batch, channels, height, width))


def transformer_layer(g: GraphBuilder, x: str, name: str) -> str:
    """Pre-norm attention and feed-forward layer (twice as wide, SiLU), each with a residual."""
    size = g.shape(x)[1]
    y = separable_attention(g, group_norm(g, x, f"{name}.norm1"), f"{name}.attention")
    x = g.add(x, y, f"{name}.add1")
    # The authors round down to multiples of 16, as every supported width is.
    y = g.conv(group_norm(g, x, f"{name}.norm2"), f"{name}.expand", 2 * size // 16 * 16, 1, bias=True)
    y = g.conv(g.silu(y, f"{name}.silu"), f"{name}.project", size, 1, bias=True)
    return g.add(x, y, f"{name}.add2")


def separable_attention(g: GraphBuilder, x: str, name: str) -> str:
    """Self-attention of a cost linear in the number of patches: section 3.2 of the paper.

    The scores of a pixel position, one a patch, weigh the sum of its keys; that one context gates the values.

    Args:
        g: where to add it.
        x: (B, C, P, N).
        name: of the layer; ``name.qkv`` returns the score, then C keys, then C values.
    """
    batch, size, pixels, _ = g.shape(x)
    y = g.conv(x, f"{name}.qkv", 1 + 2 * size, 1, bias=True)
    query = g.slice(y, f"{name}.query", 1, 0, 1)
    key = g.slice(y, f"{name}.key", 1, 1, 1 + size)
    value = g.slice(y, f"{name}.value", 1, 1 + size, 1 + 2 * size)
    weighted = g.multiply(key, g.softmax(query, f"{name}.scores"), f"{name}.weighted")
    axis = g.constant(f"{name}.patches", [3])
    context = g.node("ReduceSum", [weighted, axis], f"{name}.context", (batch, size, pixels, 1), keepdims=1)
    y = g.multiply(g.relu(value, f"{name}.relu"), context, f"{name}.gated")
    return g.conv(y, f"{name}.out", size, 1, bias=True)


def group_norm(g: GraphBuilder, x: str, name: str) -> str:
    """Group normalization of one group: over channels, pixels and patches, with a scale and shift per channel.

    Opset 17 has no such operator. This is how PyTorch's exporter writes it: flattened, normalised, reshaped back.
    """
    batch, channels, pixels, patches = g.shape(x)
    flat = g.constant(f"{name}.flat.shape", [batch, 1, -1])
    back = g.constant(f"{name}.back.shape", [batch, channels, pixels, -1])
    one = g.constant("group_norm.one", np.ones(1, np.float32))
    zero = g.constant("group_norm.zero", np.zeros(1, np.float32))
    y = g.node("Reshape", [x, flat], f"{name}.flat", (batch, 1, channels * pixels * patches))
    y = g.node("InstanceNormalization", [y, one, zero], f"{name}.normal", g.shape(y), epsilon=1e-5)
    y = g.node("Reshape", [y, back], f"{name}.back", g.shape(x))
    scale = g.weights.small(f"{name}.weight", channels, mean=1.0).reshape(channels, 1, 1)
    shift = g.weights.small(f"{name}.bias", channels).reshape(channels, 1, 1)
    y = g.multiply(y, g.constant(f"{name}.weight", scale), f"{name}.scaled")
    return g.add(y, g.constant(f"{name}.bias", shift), name)
