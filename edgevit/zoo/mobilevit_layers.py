"""Blocks of MobileViT: inverted residuals, and the block that runs a transformer over patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgevit.zoo.graph import Extent, GraphBuilder

HEADS = 4


def conv_norm_silu(g: GraphBuilder, x: str, name: str, channels: int, kernel: int, *, stride: int = 1) -> str:
    """Convolution, batch norm, SiLU."""
    x = g.conv(x, f"{name}.conv", channels, kernel, stride=stride)
    x = g.batch_norm(x, f"{name}.norm")
    return g.silu(x, f"{name}.silu")


def conv_norm_relu(g: GraphBuilder, x: str, name: str, channels: int, kernel: int, *, dilation: int = 1) -> str:
    """Convolution, batch norm, ReLU: the heads' spelling."""
    x = g.conv(x, f"{name}.conv", channels, kernel, dilation=dilation)
    x = g.batch_norm(x, f"{name}.norm")
    return g.relu(x, f"{name}.relu")


def inverted_residual(g: GraphBuilder, x: str, name: str, channels: int, expansion: int, *, stride: int = 1) -> str:
    """MobileNetV2's block: expand, depthwise, project; residual where the shape stays the same."""
    inner = g.shape(x)[1]
    y = conv_norm_silu(g, x, f"{name}.expand", inner * expansion, 1)
    y = g.conv(y, f"{name}.depthwise.conv", inner * expansion, 3, stride=stride, depthwise=True)
    y = g.silu(g.batch_norm(y, f"{name}.depthwise.norm"), f"{name}.depthwise.silu")
    y = g.batch_norm(g.conv(y, f"{name}.project.conv", channels, 1), f"{name}.project.norm")
    return g.add(x, y, f"{name}.add") if stride == 1 and inner == channels else y


def mobilevit_block(g: GraphBuilder, x: str, name: str, width: int, depth: int, patch: int) -> str:
    """Local convolutions, transformer over patches, fusion with the input.

    Args:
        x: (batch, channels, height, width), like the result.
        name: of the block.
        width: size of a token.
        depth: transformer layers.
        patch: height and width of a patch; an image that is no multiple of it is resized, and back.
    """
    channels = g.shape(x)[1]
    y = conv_norm_silu(g, x, f"{name}.local", channels, 3)
    y = g.conv(y, f"{name}.to_tokens", width, 1)
    height, breadth = g.extent(y, 2, f"{name}.height"), g.extent(y, 3, f"{name}.width")
    grid = Grid(patch, g.parts(height, patch, f"{name}.rows"), g.parts(breadth, patch, f"{name}.columns"))
    grown = g.times(grid.rows, patch, f"{name}.grown_height"), g.times(grid.columns, patch, f"{name}.grown_width")
    # Where sizes are open, whether there is something to resize is known only when the model runs.
    resized = g.dynamic or grown != (height, breadth)
    if resized:
        y = g.resize(y, f"{name}.grow", *grown)
    tokens = unfold(g, y, f"{name}.unfold", grid)
    for index in range(depth):
        tokens = transformer_layer(g, tokens, f"{name}.layer{index}")
    tokens = g.layer_norm(tokens, f"{name}.norm")
    y = fold(g, tokens, f"{name}.fold", grid, grown)
    if resized:
        y = g.resize(y, f"{name}.shrink", height, breadth)
    y = conv_norm_silu(g, y, f"{name}.from_tokens", channels, 1)
    return conv_norm_silu(g, g.concat([x, y], f"{name}.concat", 1), f"{name}.fuse", channels, 3)


@dataclass(frozen=True)
class Grid:
    """An image cut into square patches.

    Attributes:
        patch: height and width of a patch.
        rows: of patches.
        columns: of patches.
    """

    patch: int
    rows: Extent
    columns: Extent


def unfold(g: GraphBuilder, x: str, name: str, grid: Grid) -> str:
    """Image (1, C, H, W) to tokens (P, N, C): N patches, one sequence for each of P pixel positions."""
    b, c, *_ = g.shape(x)
    area = grid.patch * grid.patch
    strips = g.times(grid.rows, b * c, f"{name}.strips")
    patches = g.product(grid.rows, grid.columns, f"{name}.count")
    x = g.reshape(x, f"{name}.split", (strips, grid.patch, grid.columns, grid.patch))
    x = g.transpose(x, f"{name}.gather", (0, 2, 1, 3))
    x = g.reshape(x, f"{name}.patches", (b, c, patches, area))
    x = g.transpose(x, f"{name}.channels_last", (0, 3, 2, 1))
    return g.reshape(x, name, (b * area, patches, c))


def fold(g: GraphBuilder, tokens: str, name: str, grid: Grid, size: tuple[Extent, Extent]) -> str:
    """Inverse of :func:`unfold`; ``size`` is the image's height and width."""
    area = grid.patch * grid.patch
    b, c = g.shape(tokens)[0] // area, g.shape(tokens)[2]
    strips = g.times(grid.rows, b * c, f"{name}.strips")
    patches = g.product(grid.rows, grid.columns, f"{name}.count")
    x = g.reshape(tokens, f"{name}.positions", (b, area, patches, c))
    x = g.transpose(x, f"{name}.channels_first", (0, 3, 2, 1))
    x = g.reshape(x, f"{name}.patches", (strips, grid.columns, grid.patch, grid.patch))
    x = g.transpose(x, f"{name}.scatter", (0, 2, 1, 3))
    return g.reshape(x, name, (b, c, *size))


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
    batch, _, width = g.shape(x)
    tokens = g.extent(x, 1, f"{name}.tokens")
    size = width // HEADS

    def split(role: str, order: tuple[int, int, int, int]) -> str:
        y = g.linear(x, f"{name}.{role}", width)
        y = g.reshape(y, f"{name}.{role}.split", (batch, tokens, HEADS, size))
        return g.transpose(y, f"{name}.{role}.heads", order)

    query, key, value = split("q", (0, 2, 1, 3)), split("k", (0, 2, 3, 1)), split("v", (0, 2, 1, 3))
    scores = g.matmul(query, key, f"{name}.scores")
    divisor = g.constant(f"{name}.sqrt", np.asarray(math.sqrt(size), np.float32))
    scores = g.node("Div", [scores, divisor], f"{name}.scaled", g.shape(scores))
    weights = g.softmax(scores, f"{name}.softmax")
    y = g.matmul(weights, value, f"{name}.mix")
    y = g.transpose(y, f"{name}.merge", (0, 2, 1, 3))
    y = g.reshape(y, f"{name}.join", (batch, tokens, width))
    return g.linear(y, f"{name}.out", width)
