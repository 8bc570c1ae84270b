"""What is trained, and how: one plan for each model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recipes.train.augment import Augmentation
from recipes.train.sampler import MultiScaleSampler


@dataclass(frozen=True)
class Plan:
    """One training.

    Attributes:
        name: of the model that it makes.
        data: ``scenes``, the procedural set of :mod:`edgevit.data`, or ``flowers``, photographs in folders.
        task: ``cls``, ``det`` or ``seg``.
        image_size: of the input at evaluation.
        sampler: resolutions and batch sizes.
        epochs: passes over the training set.
        rate: highest learning rate.
        augmentation: of training images.
        images: of the procedural training set; None for all files of a folder.
        checks: images that the accuracy is monitored on; None for all files of a folder.
        weight_decay: of matrices and kernels.
        smoothing: of the classifier's targets.
        averaging: share of the averaged weights that an update keeps.
        warm_up: share of the training in which the rate rises.
        dense: weight of a classifier's auxiliary loss, the class of every pixel, where the data have masks; 0 for none.
        backbone: plan whose classifier the backbone starts from.
        seed: decides weights, order, resolutions, augmentation and dropout.
    """

    name: str
    data: Literal["scenes", "flowers"]
    task: Literal["cls", "det", "seg"]
    image_size: int
    sampler: MultiScaleSampler
    epochs: int
    rate: float
    augmentation: Augmentation = field(default_factory=Augmentation)
    images: int | None = None
    checks: int | None = None
    weight_decay: float = 0.05
    smoothing: float = 0.1
    averaging: float = 0.998
    warm_up: float = 0.05
    dense: float = 0.0
    backbone: str | None = None
    seed: int = 0


_AS_DRAWN = Augmentation(area=1, ratio=1, flip=False, jitter=0)
"""Every epoch has new scenes: nothing else need be varied."""

_PLANS = (
    Plan(
        "flowers",
        data="flowers",
        task="cls",
        image_size=160,
        sampler=MultiScaleSampler((96, 128, 160), 24),
        epochs=100,
        rate=1e-3,
    ),
    Plan(
        "scenes-cls",
        data="scenes",
        task="cls",
        image_size=128,
        sampler=MultiScaleSampler((96, 112, 128), 32),
        epochs=40,
        rate=1.5e-3,
        # What the crop of the finished model's preprocessing may cut off is cut off here too.
        augmentation=Augmentation(area=0.7, ratio=1.1, flip=False, jitter=0),
        images=6000,
        checks=600,
        # Labels alone took several times as many updates to say that outlines and surfaces matter.
        dense=1.0,
    ),
    Plan(
        "scenes-det",
        data="scenes",
        task="det",
        image_size=192,
        sampler=MultiScaleSampler((128, 160, 192), 16),
        epochs=8,
        rate=1e-3,
        augmentation=_AS_DRAWN,
        images=4500,
        checks=200,
        backbone="scenes-cls",
    ),
    Plan(
        "scenes-seg",
        data="scenes",
        task="seg",
        image_size=192,
        sampler=MultiScaleSampler((128, 160, 192), 16),
        epochs=28,
        rate=1e-3,
        augmentation=_AS_DRAWN,
        images=3000,
        checks=200,
        backbone="scenes-cls",
    ),
)
PLANS = {plan.name: plan for plan in _PLANS}
"""Every plan, by name."""
