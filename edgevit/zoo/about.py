"""What the zoo's models say of themselves: task, labels, how images are prepared, how boxes become objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevit.model.metadata import Metadata, Preprocessing, Task
from edgevit.model.metadata_labels import read_labels

TASKS: dict[str, Task] = {"cls": "classification", "det": "detection", "seg": "segmentation"}
"""Name of a task on the command line, and in a model's metadata."""

BACKGROUND = "background"

_LABELS = Path(__file__).parent / "labels"

# Of pixels scaled to 0 … 1, in the order red, green, blue.
_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF: dict[str, Any] = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

# Each for the published image size. CVNets 0.1, which MobileViT was trained with, read images with OpenCV, whose
# channels are blue, green, red; CVNets 0.2, of MobileViTV2, with PIL: red, green, blue. Neither normalizes. timm's
# ports of both take red first, and its configurations state the share of the image that is cropped: 0.9, 0.888,
# 0.875. The image processors of transformers state blue first for both generations of MobileViT.
_CLASSIFICATION: dict[tuple[str, str], Preprocessing] = {
    ("mobilevit", "cvnets"): Preprocessing(resize=288, crop=256, channel_order="BGR"),
    ("mobilevit", "transformers"): Preprocessing(resize=288, crop=256, channel_order="BGR"),
    ("mobilevit", "timm"): Preprocessing(resize=284, crop=256, channel_order="RGB", interpolation="bicubic"),
    ("mobilevit_v2", "cvnets"): Preprocessing(resize=288, crop=256, channel_order="RGB", interpolation="bicubic"),
    ("mobilevit_v2", "transformers"): Preprocessing(resize=288, crop=256, channel_order="BGR"),
    ("mobilevit_v2", "timm"): Preprocessing(resize=288, crop=256, channel_order="RGB", interpolation="bicubic"),
    ("mobilenet_v2", "torchvision"): Preprocessing(resize=256, crop=224, channel_order="RGB", **_IMAGENET),
    ("mobilenet_v2", "cvnets"): Preprocessing(resize=256, crop=224, channel_order="RGB"),
    ("mobilenet_v2", "transformers"): Preprocessing(resize=256, crop=224, channel_order="RGB", **_HALF),
    ("mobilenet_v2", "timm"): Preprocessing(
        resize=256, crop=224, channel_order="RGB", interpolation="bicubic", **_IMAGENET
    ),
    ("deit", "timm"): Preprocessing(resize=248, crop=224, channel_order="RGB", interpolation="bicubic", **_IMAGENET),
    ("deit", "transformers"): Preprocessing(
        resize=256, crop=224, channel_order="RGB", interpolation="bicubic", **_IMAGENET
    ),
    ("pit", "timm"): Preprocessing(resize=248, crop=224, channel_order="RGB", interpolation="bicubic", **_IMAGENET),
}

_REFERENCE = {
    "mobilevit": "cvnets",
    "mobilevit_v2": "cvnets",
    "mobilenet_v2": "torchvision",
    "deit": "timm",
    "pit": "timm",
}
"""Where the weights are from that a model is made for, by architecture."""


def about(
    architecture: str,
    task: str,
    image_size: tuple[int, int],
    classes: int,
    *,
    source: str | None = None,
    labels: tuple[str, ...] | None = None,
) -> Metadata:
    """The metadata of a model of the zoo.

    Args:
        architecture: a module of the zoo: ``mobilevit``, ``mobilevit_v2``, ``mobilenet_v2``, ``deit`` or ``pit``.
        task: ``cls``, ``det`` or ``seg``.
        image_size: height and width of the input in pixels.
        classes: of the model, the background counted where it has one.
        source: where its weights are from: ``cvnets``, ``transformers`` or ``timm``; None for seeded weights.
        labels: names of the classes; None for those of the data set that has as many.
    """
    # Here, so that who asks only for a preprocessing does not wait for NumPy.
    from edgevit.zoo.ssd import detection

    return Metadata(
        task=TASKS[task],
        labels=labels or known_labels(task, classes),
        preprocessing=_preprocessing(architecture, task, image_size, source or _REFERENCE[architecture]),
        detection=detection(image_size) if task == "det" else None,
    )


def known_labels(task: str, classes: int) -> tuple[str, ...] | None:
    """Names of the classes of ImageNet-1k, COCO or Pascal VOC; None for another number of classes.

    TensorFlow's ImageNet models have a class 0 for the background before the thousand.
    """
    if (task, classes) in (("cls", 1000), ("cls", 1001)):
        names = read_labels(_LABELS / "imagenet.txt").names
        return names if classes == 1000 else (BACKGROUND, *names)
    if (task, classes) == ("det", 81):
        return (BACKGROUND, *_numbered("coco"))
    return _numbered("voc") if (task, classes) == ("seg", 21) else None


def _numbered(name: str) -> tuple[str, ...]:
    """Names of a file whose lines begin with the data set's own number of the class."""
    return tuple(line.split(" ", 1)[1] for line in read_labels(_LABELS / f"{name}.txt").names)


def _preprocessing(architecture: str, task: str, image_size: tuple[int, int], source: str) -> Preprocessing:
    stated = _CLASSIFICATION[architecture, source]
    if task == "cls" and image_size[0] == image_size[1]:
        return stated.for_size(*image_size)
    # Detection: CVNets resizes to exactly the input's size, and boxes are shares of the image. Segmentation: CVNets
    # evaluates each image at its own size, transformers resizes the short side to 544 and crops 512, which leaves the
    # border without classes; a model of one size sees all of the image only in this way. A classifier of a rectangle
    # has no published recipe.
    return stated.model_copy(update={"resize": image_size, "crop": None, "interpolation": "bilinear"})
