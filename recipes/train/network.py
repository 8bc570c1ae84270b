"""MobileViT for classification, detection and segmentation in PyTorch, with the parameter names of the reference code.

Channels, depths and heads are those of :mod:`edgevit.zoo`, which builds the same networks as ONNX graphs.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgevit.zoo.mobilevit import DEPTHS, STEM_CHANNELS, VARIANTS
from edgevit.zoo.segmentation import CHANNELS, RATES
from edgevit.zoo.ssd import LEVELS, Level, anchors
from recipes.train.layers import InvertedResidual, MobileViTBlock, Unit

DROPOUT = 0.1
"""Before a classifier. The transformer layers have none: it cost a tenth of the time."""


class Backbone(nn.Module):
    """Stem and five stages, and the last 1x1 expansion where a classifier follows.

    Args:
        variant: ``xxs``, ``xs`` or ``s``.
        last_stride: 1 keeps the last stage at output stride 16.
        expand: whether there is the expansion.
    """

    def __init__(self, variant: str, *, last_stride: int = 2, expand: bool = False) -> None:
        super().__init__()
        sizes = VARIANTS[variant]
        c, t = sizes.channels, sizes.expansion
        self.conv_1 = Unit(3, STEM_CHANNELS, 3, stride=2)
        self.layer_1 = nn.Sequential(InvertedResidual(STEM_CHANNELS, c[0], t))
        self.layer_2 = nn.Sequential(
            InvertedResidual(c[0], c[1], t, stride=2), InvertedResidual(c[1], c[1], t), InvertedResidual(c[1], c[1], t)
        )
        self.layer_3, self.layer_4, self.layer_5 = (
            nn.Sequential(InvertedResidual(inner, outer, t, stride=stride), MobileViTBlock(outer, width, depth))
            for inner, outer, width, depth, stride in zip(
                c[1:4], c[2:], sizes.widths, DEPTHS, (2, 2, last_stride), strict=True
            )
        )
        self.channels = c[3:]
        self.expanded = min(4 * c[-1], 960)
        if expand:
            self.conv_1x1_exp = Unit(c[-1], self.expanded)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The maps at output stride 16 and of the last stage, of images (batch, 3, height, width)."""
        x = self.layer_2(self.layer_1(self.conv_1(x)))
        middle = self.layer_4(self.layer_3(x))
        return middle, self.layer_5(middle)


def prediction(inner: int, outer: int) -> Unit:
    """A 1x1 convolution whose outputs mean something as they are."""
    return Unit(inner, outer, norm=False, bias=True, act=None)


class Classifier(Backbone):
    """Images (batch, 3, height, width) to logits (batch, classes).

    Args:
        variant: ``xxs``, ``xs`` or ``s``.
        classes: number of classes.
        dense: classes of an auxiliary prediction for every cell of the map at output stride 16, which exists only
            in training; 0 for none.
    """

    def __init__(self, variant: str, classes: int, dense: int = 0) -> None:
        super().__init__(variant, expand=True)
        self.classifier = nn.Sequential(OrderedDict(dropout=nn.Dropout(DROPOUT), fc=nn.Linear(self.expanded, classes)))
        self.auxiliary = prediction(self.channels[-2], dense) if dense else None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of the classes; with the cells' in training, where there is an auxiliary prediction."""
        middle, last = self.features(x)
        result: Tensor = self.classifier(self.conv_1x1_exp(last).mean((2, 3)))
        return (result, self.auxiliary(middle)) if self.training and self.auxiliary is not None else result


class Separable(nn.Module):
    """Depthwise 3x3 and 1x1 convolution."""

    def __init__(self, inner: int, outer: int, *, stride: int = 1, predicts: bool = False) -> None:
        super().__init__()
        self.dw_conv = Unit(inner, inner, 3, stride=stride, groups=inner, act=None)
        self.pw_conv = prediction(inner, outer) if predicts else Unit(inner, outer, act=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        result: Tensor = self.pw_conv(self.dw_conv(x))
        return result


class Head(nn.Module):
    """What one map says of its anchors.

    Args:
        inner: channels of the map.
        level: of the map.
        outputs: values of a cell.
    """

    def __init__(self, inner: int, level: Level, outputs: int) -> None:
        super().__init__()
        same = inner == level.channels
        self.proj_layer = nn.Identity() if same else Unit(inner, level.channels, act=nn.ReLU)
        whole = level.stride is None
        predict = prediction if whole else partial(Separable, predicts=True)
        self.loc_cls_layer = predict(level.channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inner, height, width) to (batch, height, width, outputs)."""
        result: Tensor = self.loc_cls_layer(self.proj_layer(x)).permute(0, 2, 3, 1)
        return result


class Detector(nn.Module):
    """SSDLite: images (batch, 3, height, width) to raw values (batch, anchors, 4 + classes).

    Four values code a box relative to its anchor; the logits of the classes follow, the background's first.
    """

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        self.encoder = Backbone(variant)
        self.values = 4 + classes
        channels = [*self.encoder.channels[-2:], *(level.channels for level in LEVELS[2:])]
        extra: OrderedDict[str, nn.Module] = OrderedDict()
        heads = []
        for index, (level, per_cell) in enumerate(zip(LEVELS, anchors((320, 320)), strict=True)):
            heads.append(Head(channels[index], level, len(per_cell.sizes) * self.values))
            if level.stride is None:
                pooled = Unit(channels[index - 1], level.channels, norm=False, act=nn.ReLU)
                extra["os_-1"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), pooled)
            elif index >= 2:
                extra[f"os_{level.stride}"] = Separable(channels[index - 1], level.channels, stride=2)
        self.extra_layers = nn.ModuleDict(extra)
        self.ssd_heads = nn.ModuleList(heads)

    def forward(self, x: Tensor) -> Tensor:
        """Raw values of every anchor, in the order of :func:`edgevit.zoo.ssd.anchor_boxes`."""
        maps = list(self.encoder.features(x))
        for layer in self.extra_layers.values():
            maps.append(layer(maps[-1]))
        raw = [head(y).reshape(len(y), -1, self.values) for y, head in zip(maps, self.ssd_heads, strict=True)]
        return torch.cat(raw, 1)


class Pooling(nn.Module):
    """What the whole image looks like, at every cell."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.aspp_pool = nn.ModuleDict({"conv_1x1": Unit(inner, CHANNELS, act=nn.ReLU)})

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y = self.aspp_pool["conv_1x1"](x.mean((2, 3), keepdim=True))
        return functional.interpolate(y, x.shape[2:], mode="bilinear", align_corners=False)


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        levels = [Unit(inner, CHANNELS, act=nn.ReLU)]
        levels += [Unit(inner, CHANNELS, 3, dilation=rate, act=nn.ReLU) for rate in RATES]
        self.convs = nn.ModuleList([*levels, Pooling(inner)])
        self.project = Unit((len(levels) + 1) * CHANNELS, CHANNELS, act=nn.ReLU)

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        result: Tensor = self.project(torch.cat([level(x) for level in self.convs], 1))
        return result


class DeepLab(nn.Module):
    """The segmentation head."""

    def __init__(self, inner: int, classes: int) -> None:
        super().__init__()
        self.aspp = nn.ModuleDict({"aspp_layer": Pyramid(inner)})
        self.dropout = nn.Dropout2d(DROPOUT)
        self.classifier = prediction(CHANNELS, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features to logits of the same height and width."""
        result: Tensor = self.classifier(self.dropout(self.aspp["aspp_layer"](x)))
        return result


class Segmenter(nn.Module):
    """DeepLabv3: images (batch, 3, height, width) to logits (batch, classes, height / 16, width / 16), rounded up."""

    def __init__(self, variant: str, classes: int) -> None:
        super().__init__()
        self.encoder = Backbone(variant, last_stride=1)
        self.seg_head = DeepLab(self.encoder.channels[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of every cell."""
        result: Tensor = self.seg_head(self.encoder.features(x)[1])
        return result


_HEADS: dict[str, type[Detector | Segmenter]] = {"det": Detector, "seg": Segmenter}


def build_network(task: str, classes: int, *, variant: str = "xxs", dense: int = 0, seed: int = 0) -> nn.Module:
    """A network with fresh weights.

    Args:
        task: ``cls``, ``det`` or ``seg``.
        classes: the background counted for ``det`` and ``seg``.
        variant: ``xxs``, ``xs`` or ``s``.
        dense: classes of a classifier's auxiliary prediction, see :class:`Classifier`.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    network: nn.Module = Classifier(variant, classes, dense) if task == "cls" else _HEADS[task](variant, classes)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            if module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            else:
                # A prediction, which no norm follows: at first it says nothing.
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    # PyTorch's annotations know no memory format where nothing else is converted.
    channels_last: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return channels_last


def inherit(network: nn.Module, trained: dict[str, Tensor]) -> int:
    """Start a detector's or segmenter's backbone from a classifier's weights.

    Args:
        network: changed in place.
        trained: a :class:`Classifier`'s parameters and statistics by name.

    Returns:
        Number of tensors that were taken.
    """
    encoder = network.get_submodule("encoder")
    wanted = encoder.state_dict()
    found = {name: tensor for name, tensor in trained.items() if name in wanted}
    # Counters of batch norms may be left out of a file.
    encoder.load_state_dict(found, strict=False)
    return len(found)
