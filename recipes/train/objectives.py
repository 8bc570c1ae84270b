"""What each task minimizes, and how it is monitored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from edgevit.accuracy.images import prepare
from edgevit.zoo.about import about
from edgevit.zoo.ssd import anchor_boxes, detection
from recipes.train.augment import Sample
from recipes.train.data import Source
from recipes.train.monitor import average_precision, mean_iou, objects
from recipes.train.plans import Plan
from recipes.train.ssd import Array, decode, match

_CHECKED = 50
"""Images of a batch at evaluation."""
_NEGATIVES = 3
"""Anchors of the background that count, for each that stands for an object."""


class Objective(Protocol):
    """A task's loss and figures.

    Attributes:
        classes: outputs of the network, the background counted where there is one.
        dense: classes of a classifier's auxiliary prediction, 0 for none.
    """

    classes: int
    dense: int

    def loss(self, output: Any, samples: Sequence[Sample]) -> Tensor:
        """Mean loss of a batch."""

    def evaluate(self, network: nn.Module, source: Source) -> dict[str, float]:
        """Figures in percent, of a network that is in evaluation mode."""


def images(samples: Sequence[Sample]) -> Tensor:
    """The network's input: (batch, 3, height, width), blue first, 0 to 1, channels last in memory."""
    pixels = np.stack([sample.image for sample in samples])[..., ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255


def prepared(plan: Plan, source: Source, classes: int) -> Iterator[tuple[Tensor, list[Sample]]]:
    """Batches of inputs as the finished model's metadata prepare them, with their samples."""
    size = (plan.image_size, plan.image_size)
    preprocessing = about("mobilevit", plan.task, size, classes, source="cvnets").preprocessing
    assert preprocessing is not None
    for start in range(0, len(source), _CHECKED):
        numbers = range(start, min(len(source), start + _CHECKED))
        samples = [source.sample(index, 0, plan.image_size) for index in numbers]
        inputs = [prepare(Image.fromarray(sample.image), preprocessing, *size) for sample in samples]
        yield torch.from_numpy(np.concatenate(inputs)).contiguous(memory_format=torch.channels_last), samples


class Classification:
    """Cross entropy with smoothed labels, and of every pixel where the plan says so; top-1."""

    def __init__(self, plan: Plan, labels: Sequence[str]) -> None:
        self.plan = plan
        self.classes = len(labels)
        self.dense = 1 + len(labels) if plan.dense else 0

    def loss(self, output: Tensor | tuple[Tensor, Tensor], samples: Sequence[Sample]) -> Tensor:
        """Mean cross entropy; ``output`` is the network's, with or without the auxiliary prediction."""
        logits, cells = output if isinstance(output, tuple) else (output, None)
        labels = torch.tensor([sample.label for sample in samples])
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.plan.smoothing)
        return loss if cells is None else loss + self.plan.dense * pixel_loss(cells, samples)

    def evaluate(self, network: nn.Module, source: Source) -> dict[str, float]:
        """Share of the images whose class has the highest logit."""
        right = 0
        for inputs, samples in prepared(self.plan, source, self.classes):
            labels = torch.tensor([sample.label for sample in samples])
            right += int((network(inputs).argmax(1) == labels).sum())
        return {"top1": 100 * right / len(source)}


class ObjectDetection:
    """SSD's loss; average precision at an intersection over union of one half."""

    def __init__(self, plan: Plan, labels: Sequence[str]) -> None:
        self.plan = plan
        self.classes = 1 + len(labels)
        self.dense = 0

    def loss(self, output: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Mean of :func:`multibox_loss`."""
        side = samples[0].image.shape[0]
        priors, coding = _priors(side, self.plan.image_size), detection((side, side))
        return multibox_loss(output, [match(*truth(sample), priors, coding) for sample in samples])

    def evaluate(self, network: nn.Module, source: Source) -> dict[str, float]:
        """Mean average precision."""
        side = self.plan.image_size
        priors, coding = _priors(side, side), detection((side, side))
        found, known = [], []
        for inputs, samples in prepared(self.plan, source, self.classes):
            output = network(inputs)
            scores = output[..., 4:].softmax(-1).numpy()
            boxes = [decode(raw, priors, coding) for raw in output[..., :4].double().numpy()]
            found += [objects(*image) for image in zip(boxes, scores, strict=True)]
            known += [truth(sample) for sample in samples]
        return {"ap50": average_precision(found, known), "ap75": average_precision(found, known, overlap=0.75)}


class Segmentation:
    """Cross entropy of every pixel; mean intersection over union, the background counted."""

    def __init__(self, plan: Plan, labels: Sequence[str]) -> None:
        self.plan = plan
        self.classes = 1 + len(labels)
        self.dense = 0

    def loss(self, output: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Mean of :func:`pixel_loss`."""
        return pixel_loss(output, samples)

    def evaluate(self, network: nn.Module, source: Source) -> dict[str, float]:
        """At the resolution of the masks, as the logits are interpolated to it."""
        confusion = np.zeros(self.classes * self.classes, np.int64)
        for inputs, samples in prepared(self.plan, source, self.classes):
            masks = np.stack([_mask(sample) for sample in samples])
            output = functional.interpolate(network(inputs), masks.shape[1:], mode="bilinear", align_corners=False)
            pairs = masks.astype(np.int64) * self.classes + output.argmax(1).numpy()
            confusion += np.bincount(pairs.ravel(), minlength=len(confusion))
        return {"miou": mean_iou(confusion.reshape(self.classes, -1))}


def pixel_loss(output: Tensor, samples: Sequence[Sample]) -> Tensor:
    """Cross entropy of logits (batch, classes, rows, columns), interpolated to the masks: mean over the pixels."""
    masks = torch.from_numpy(np.stack([_mask(sample) for sample in samples])).long()
    output = functional.interpolate(output, masks.shape[1:], mode="bilinear", align_corners=False)
    return functional.cross_entropy(output, masks)


def multibox_loss(output: Tensor, targets: Sequence[tuple[Array, Array]]) -> Tensor:
    """SSD's: smooth L1 of the boxes and cross entropy of the classes, per anchor that stands for an object.

    Of the background, only the anchors count whose loss is highest: three for each that stands for an object.

    Args:
        output: (batch, anchors, 4 + classes).
        targets: of each image, from :func:`~recipes.train.ssd.match`.
    """
    boxes = torch.from_numpy(np.stack([image[0] for image in targets]))
    labels = torch.from_numpy(np.stack([image[1] for image in targets]))
    positive = labels > 0
    count = positive.sum().clamp(min=1)
    entropy = functional.cross_entropy(output[..., 4:].transpose(1, 2), labels, reduction="none")
    with torch.no_grad():
        # Rank of each anchor among its image's background, hardest first.
        hardness = entropy.masked_fill(positive, -torch.inf)
        rank = hardness.argsort(1, descending=True).argsort(1)
        hard = rank < _NEGATIVES * positive.sum(1, keepdim=True)
    location = functional.smooth_l1_loss(output[..., :4][positive], boxes[positive], reduction="sum")
    return (location + entropy[positive | hard].sum()) / count


def truth(sample: Sample) -> tuple[Array, Array]:
    """Boxes as shares of the image, and classes."""
    assert sample.boxes is not None
    assert sample.classes is not None
    height, width = sample.image.shape[:2]
    return sample.boxes / np.array([width, height, width, height]), sample.classes


def _mask(sample: Sample) -> Array:
    assert sample.mask is not None
    return sample.mask


@lru_cache
def _priors(side: int, image_size: int) -> Array:
    """Anchors for a square of so many pixels, as shares of it, each of as many pixels as at ``image_size``.

    Anchors are shares of the image, and convolutions do not know how large it is: if anchors had fewer pixels at a
    lower resolution, an object of the same pixels would be a larger share of them, and the network could but predict
    the mean over the resolutions. At the largest, boxes came out a tenth too large.
    """
    boxes = anchor_boxes(detection((side, side)).anchors)
    boxes[:, 2:] *= image_size / side
    return boxes


OBJECTIVES: dict[str, type[Classification] | type[ObjectDetection] | type[Segmentation]] = {
    "cls": Classification,
    "det": ObjectDetection,
    "seg": Segmentation,
}
"""By task."""
