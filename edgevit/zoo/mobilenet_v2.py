"""MobileNetV2 as an ONNX graph, built from its definition.

Source: Sandler, Howard, Zhu, Zhmoginov and Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018
(arXiv 1801.04381).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize, check_classes, divisible, image_extents
from edgevit.zoo.graph import GraphBuilder

if TYPE_CHECKING:
    import onnx

Padding = Literal["symmetric", "tensorflow"]

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of the first block: Table 2 of the paper."""

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class _Convention:
    """What differs between the frameworks that MobileNetV2 is trained in.

    Attributes:
        pads: of 3×3 convolutions, as :meth:`GraphBuilder.conv` takes them.
        epsilon: of batch norms.
    """

    pads: Literal["same"] | None
    epsilon: float


_CONVENTIONS: dict[str, _Convention] = {
    "symmetric": _Convention(None, 1e-5),
    "tensorflow": _Convention("same", 1e-3),
}


def build_mobilenet_v2(
    *,
    width: float = 1.0,
    image_size: ImageSize = 224,
    classes: int = 1000,
    padding: Padding = "symmetric",
    seed: int = 0,
    dynamic: bool = False,
) -> onnx.ModelProto:
    """MobileNetV2 for image classification, with seeded weights.

    Args:
        width: factor of all channel counts; the last convolution never has fewer than 1,280.
        image_size: pixels of a square, or height and width; at least 32.
        classes: number of classes; weights that came from TensorFlow have one more, background, at 0.
        padding: ``symmetric`` pads every side alike, with batch norm's epsilon 1e-5 (PyTorch: torchvision, timm).
            ``tensorflow`` pads below and right first, with epsilon 1e-3 (weights of the paper's authors, which
            Hugging Face transformers has).
        seed: seed of the weights.
        dynamic: leave height and width open.

    Returns:
        A checked model, opset 17, with input ``pixel_values`` (1, 3, height, width) and output ``logits``
        (1, classes), both float32. The same arguments give the same bytes.

    Raises:
        UserError: an unknown padding, or a width, size or count that makes no model.
    """
    if padding not in _CONVENTIONS:
        raise UserError(f"there is no padding {padding!r}.", advice=f"Choose from {', '.join(get_args(Padding))}.")
    if width <= 0:
        raise UserError(f"a width of {width} makes no model.", advice="Use a positive factor, such as 1.0.")
    check_classes(classes)
    height, breadth = image_extents(image_size, least=32)
    convention = _CONVENTIONS[padding]
    g = GraphBuilder("mobilenet_v2", seed, dynamic=dynamic)
    x = g.input("pixel_values", (1, 3, height, breadth))
    x = _conv_norm(g, x, "stem", divisible(STEM_CHANNELS * width), 3, convention, stride=2)
    index = 0
    for expansion, channels, blocks, stride in STAGES:
        for block in range(blocks):
            step = 1 if block else stride
            scaled = divisible(channels * width)
            x = inverted_residual(g, x, f"block{index}", scaled, expansion, convention, stride=step)
            index += 1
    x = _conv_norm(g, x, "head.expand", divisible(HEAD_CHANNELS * max(1.0, width)), 1, convention)
    g.output("logits", g.linear(g.global_average(x, "head.pool"), "head.classifier", classes))
    return g.build()


def inverted_residual(
    g: GraphBuilder, x: str, name: str, channels: int, expansion: int, convention: _Convention, *, stride: int
) -> str:
    """Expand (unless by 1), depthwise, project; residual where the shape stays the same."""
    inner = g.shape(x)[1] * expansion
    y = _conv_norm(g, x, f"{name}.expand", inner, 1, convention) if expansion > 1 else x
    y = _conv_norm(g, y, f"{name}.depthwise", inner, 3, convention, stride=stride, depthwise=True)
    y = _conv_norm(g, y, f"{name}.project", channels, 1, convention, active=False)
    return g.add(x, y, f"{name}.add") if g.shape(x) == g.shape(y) else y


def _conv_norm(
    g: GraphBuilder,
    x: str,
    name: str,
    channels: int,
    kernel: int,
    convention: _Convention,
    *,
    stride: int = 1,
    depthwise: bool = False,
    active: bool = True,
) -> str:
    """Convolution, batch norm and, unless it is a bottleneck, ReLU6."""
    pads = convention.pads if kernel > 1 else None
    y = g.conv(x, f"{name}.conv", channels, kernel, stride=stride, depthwise=depthwise, pads=pads)
    y = g.batch_norm(y, f"{name}.norm", epsilon=convention.epsilon)
    return g.relu6(y, f"{name}.relu6") if active else y
