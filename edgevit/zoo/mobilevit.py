"""MobileViT as an ONNX graph, built from its definition: for classification, detection and segmentation.

Source: Mehta and Rastegari, "MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision
Transformer", ICLR 2022 (arXiv 2110.02178).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize, image_extents
from edgevit.zoo.graph import GraphBuilder
from edgevit.zoo.mobilevit_layers import conv_norm_silu, inverted_residual, mobilevit_block
from edgevit.zoo.segmentation import deeplab
from edgevit.zoo.ssd import detection, ssdlite

if TYPE_CHECKING:
    import onnx

STEM_CHANNELS = 16
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


@dataclass(frozen=True)
class TaskDefaults:
    """What a task's published models are built with.

    Attributes:
        image_size: height and width of the input in pixels.
        classes: number of classes: ImageNet's; COCO's and the background; Pascal VOC's and the background.
        least_classes: fewer make no such model.
        head: what the classes are for.
    """

    image_size: int
    classes: int
    least_classes: int
    head: str


TASKS = {
    "cls": TaskDefaults(256, 1000, 1, "classifier"),
    "det": TaskDefaults(320, 81, 2, "detector"),
    "seg": TaskDefaults(512, 21, 1, "segmentation model"),
}


def build_mobilevit(
    variant: str,
    *,
    task: str = "cls",
    image_size: ImageSize | None = None,
    classes: int | None = None,
    patches: tuple[int, int, int] = (2, 2, 2),
    seed: int = 0,
    dynamic: bool = False,
) -> onnx.ModelProto:
    """MobileViT with seeded weights.

    Args:
        variant: ``xxs``, ``xs`` or ``s``.
        task: ``cls``, classification; ``det``, detection with an SSDLite head; ``seg``, segmentation with a
            DeepLabv3 head on a backbone of output stride 16.
        image_size: pixels of a square, or height and width, at least 32; None for the task's published one: 256, 320
            or 512.
        classes: number of classes; for ``det`` with the background, which is class 0. None for 1000, 81 or 21.
        patches: side of the patches of the blocks at strides 8, 16 and 32.
        seed: seed of the weights.
        dynamic: leave height and width of the input open; the weights and numbers are the same. Not for ``det``,
            whose anchors belong to one size.

    Returns:
        A checked model, opset 17, with the float32 input ``pixel_values`` (1, 3, height, width) and float32 outputs.
        ``cls``: ``logits`` (1, classes). ``seg``: ``logits`` (1, classes, height / 16, width / 16), rounded up.
        ``det``: ``boxes`` (1, anchors, 4), left, top, right and bottom as shares of the image, and ``scores``
        (1, anchors, classes), probabilities. The same arguments give the same bytes.

    Raises:
        UserError: an unknown variant or task, or a size or count that makes no model.
    """
    if variant not in VARIANTS:
        raise UserError(f"there is no MobileViT {variant!r}.", advice=f"Choose from {', '.join(VARIANTS)}.")
    if task not in TASKS:
        raise UserError(f"MobileViT has no task {task!r}.", advice=f"Choose from {', '.join(TASKS)}.")
    defaults = TASKS[task]
    height, width = image_extents(defaults.image_size if image_size is None else image_size, least=32)
    classes = defaults.classes if classes is None else classes
    if classes < defaults.least_classes:
        raise UserError(
            f"{classes} classes make no {defaults.head}.",
            advice=f"Use at least {defaults.least_classes}.",
        )
    if len(patches) != len(DEPTHS) or min(patches) < 1:
        raise UserError(
            f"patches of {', '.join(map(str, patches))} pixels fit no MobileViT.",
            advice="Give three sides of at least 1, for strides 8, 16 and 32.",
        )
    if dynamic and task == "det":
        raise UserError(
            "a detector cannot leave its image size open: its anchors belong to one size.",
            advice="Build one model for each size.",
        )
    suffix = "" if task == "cls" else f"_{task}"
    g = GraphBuilder(f"mobilevit_{variant}{suffix}", seed, dynamic=dynamic)
    image = g.input("pixel_values", (1, 3, height, width))
    features = backbone(g, image, VARIANTS[variant], patches, last_stride=1 if task == "seg" else 2)
    if task == "cls":
        g.output("logits", classifier(g, features[-1], classes))
    elif task == "seg":
        g.output("logits", deeplab(g, features[-1], classes))
    else:
        boxes, scores = ssdlite(g, features[-2:], detection((height, width)), classes)
        g.output("boxes", boxes)
        g.output("scores", scores)
    return g.build()


def backbone(
    g: GraphBuilder, image: str, variant: Variant, patches: tuple[int, int, int], *, last_stride: int = 2
) -> list[str]:
    """Stem and five stages.

    Args:
        image: (1, 3, height, width).
        variant: sizes of the layers.
        patches: side of the patches in the last three stages.
        last_stride: 1 keeps the last stage at output stride 16. Nothing is dilated in its place: the one window that
            took the stride reads the same pixels without it, and the block after it attends to the whole map.

    Returns:
        The stages' outputs, at strides 2, 4, 8, 16 and 16 * last_stride.
    """
    c = variant.channels
    x = conv_norm_silu(g, image, "stem", STEM_CHANNELS, 3, stride=2)
    outputs = [inverted_residual(g, x, "stage1.0", c[0], variant.expansion)]
    x = outputs[0]
    for index in range(3):
        x = inverted_residual(g, x, f"stage2.{index}", c[1], variant.expansion, stride=1 if index else 2)
    outputs.append(x)
    stages = zip(c[2:], variant.widths, DEPTHS, patches, (2, 2, last_stride), strict=True)
    for index, (channels, width, depth, patch, stride) in enumerate(stages, start=3):
        x = inverted_residual(g, x, f"stage{index}.down", channels, variant.expansion, stride=stride)
        x = mobilevit_block(g, x, f"stage{index}.block", width, depth, patch)
        outputs.append(x)
    return outputs


def classifier(g: GraphBuilder, x: str, classes: int) -> str:
    """Expansion, global average pool, linear layer."""
    x = conv_norm_silu(g, x, "head.expand", min(4 * g.shape(x)[1], 960), 1)
    x = g.global_average(x, "head.pool")
    return g.linear(x, "head.classifier", classes)
