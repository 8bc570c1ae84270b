"""Blocks of MobileViT in PyTorch, whose parameters are called as in the reference code (cvnets).

So :func:`edgevit.zoo.build` reads the weights of a network trained here like published ones. The shapes follow
:mod:`edgevit.zoo.mobilevit_layers`.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

HEADS = 4


class Unit(nn.Module):
    """Convolution, and after it a batch norm and an activation where they are wanted."""

    def __init__(
        self,
        inner: int,
        outer: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
        norm: bool = True,
        bias: bool = False,
        act: type[nn.Module] | None = nn.SiLU,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel - 1) // 2
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(inner, outer, kernel, stride, padding, dilation, groups, bias)
        if norm:
            layers["norm"] = nn.BatchNorm2d(outer)
        if act is not None:
            layers["act"] = act()
        self.block = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images, (batch, channels, height, width)."""
        result: Tensor = self.block(x)
        return result


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, depthwise, project; residual where the shape stays the same."""

    def __init__(self, inner: int, outer: int, expansion: int, *, stride: int = 1) -> None:
        super().__init__()
        hidden = inner * expansion
        self.block = nn.Sequential(
            OrderedDict(
                exp_1x1=Unit(inner, hidden),
                conv_3x3=Unit(hidden, hidden, 3, stride=stride, groups=hidden),
                red_1x1=Unit(hidden, outer, act=None),
            )
        )
        self.residual = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class Attention(nn.Module):
    """Multi-head self-attention over the second axis of (batch, tokens, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv_proj(x).reshape(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        result: Tensor = self.out_proj(y.transpose(1, 2).reshape(batch, tokens, width))
        return result


class TransformerLayer(nn.Module):
    """Pre-norm attention and feed-forward layer, each with a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_norm_mha = nn.Sequential(nn.LayerNorm(width), Attention(width))
        self.pre_norm_ffn = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.SiLU(),
            # Where the reference code has a dropout: the names of the layers count it.
            nn.Identity(),
            nn.Linear(2 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) to tokens."""
        x = x + self.pre_norm_mha(x)
        result: Tensor = x + self.pre_norm_ffn(x)
        return result


class MobileViTBlock(nn.Module):
    """Local convolutions, transformer over patches, fusion with the input."""

    def __init__(self, channels: int, width: int, depth: int, *, patch: int = 2) -> None:
        super().__init__()
        self.patch = patch
        self.local_rep = nn.Sequential(
            OrderedDict(conv_3x3=Unit(channels, channels, 3), conv_1x1=Unit(channels, width, norm=False, act=None))
        )
        layers = [TransformerLayer(width) for _ in range(depth)]
        self.global_rep = nn.Sequential(*layers, nn.LayerNorm(width))
        self.conv_proj = Unit(width, channels)
        self.fusion = Unit(2 * channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images; a size that is no multiple of the patch is resized, and back."""
        y = self.local_rep(x)
        batch, width, *size = y.shape
        rows, columns = (-(-pixels // self.patch) for pixels in size)
        grown = [rows * self.patch, columns * self.patch]
        if grown != size:
            y = functional.interpolate(y, grown, mode="bilinear", align_corners=False)
        # Pixels at the same place of every patch make a sequence.
        y = y.reshape(batch, width, rows, self.patch, columns, self.patch).permute(0, 3, 5, 2, 4, 1)
        y = self.global_rep(y.reshape(-1, rows * columns, width))
        y = y.reshape(batch, self.patch, self.patch, rows, columns, width).permute(0, 5, 3, 1, 4, 2)
        y = y.reshape(batch, width, *grown)
        if grown != size:
            y = functional.interpolate(y, size, mode="bilinear", align_corners=False)
        result: Tensor = self.fusion(torch.cat([x, self.conv_proj(y)], 1))
        return result
