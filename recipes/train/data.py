"""Where the samples are from: the procedural scenes, or a folder of photographs for each class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from edgevit.errors import UserError
from recipes.train.augment import Sample
from recipes.train.plans import Plan

_PHOTOGRAPHS = (".jpg", ".jpeg", ".png")
_SCENE_SIZE = 256
"""Pixels of the scenes that a network is checked on."""
_OVERSIZE = (1.1, 1.6)
"""Sides of training scenes, relative to the network's input: noise and edges shall not tell what was resized."""


class Source(Protocol):
    """A numbered set of samples.

    Attributes:
        labels: names of the classes, without a background.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int:
        """Number of samples of an epoch."""

    def sample(self, index: int, epoch: int, resolution: int, /) -> Sample:
        """One of them, of about that resolution or a fixed one; the same arguments give the same."""


class Photographs:
    """A folder with a folder of images for each class, decoded once.

    Args:
        folder: its folders' names, sorted, are the classes.

    Raises:
        UserError: there are no images in such folders.
    """

    def __init__(self, folder: Path) -> None:
        self.labels = (
            tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()
        )
        files = [
            (path, index)
            for index, label in enumerate(self.labels)
            for path in sorted((folder / label).iterdir())
            if path.suffix.lower() in _PHOTOGRAPHS
        ]
        if not files:
            raise UserError(
                f"there are no photographs in {folder}.",
                advice="Give the folder whose train and val hold a folder of images for each class.",
            )
        self._samples = [Sample(np.asarray(Image.open(path).convert("RGB")), label) for path, label in files]

    def __len__(self) -> int:
        return len(self._samples)

    def sample(self, index: int, _epoch: int, _resolution: int, /) -> Sample:
        """A photograph; always the whole of it."""
        return self._samples[index]


class Scenes:
    """Procedural scenes, drawn when they are needed.

    Args:
        task: ``cls``, ``det`` or ``seg``.
        split: ``train`` has new scenes every epoch, of sizes a little above the resolution asked for; the others have
            the same ones of 256 pixels.
        images: of an epoch.
    """

    def __init__(self, task: Literal["cls", "det", "seg"], split: Literal["train", "val", "test"], images: int) -> None:
        from edgevit.data import CLASSES

        self.labels: tuple[str, ...] = CLASSES
        self._task, self._split, self._images = task, split, images

    def __len__(self) -> int:
        return self._images

    def sample(self, index: int, epoch: int, resolution: int, /) -> Sample:
        """A scene."""
        from edgevit.data import scene

        size, number = _SCENE_SIZE, index
        if self._split == "train":
            number += epoch * self._images
            size = round(resolution * np.random.default_rng(number).uniform(*_OVERSIZE))
        drawn = scene(self._task, self._split, number, size=size)
        return Sample(drawn.image, drawn.label, drawn.boxes, drawn.classes, drawn.mask)


def sources(plan: Plan, folder: Path | None) -> tuple[Source, Source]:
    """What a plan trains on, and what it is checked on.

    Args:
        plan: says which data, and how much of it.
        folder: with ``train`` and ``val``, for photographs.

    Raises:
        UserError: a folder is needed and there is none, or it has no photographs.
    """
    if plan.data == "scenes":
        assert plan.images is not None
        assert plan.checks is not None
        return Scenes(plan.task, "train", plan.images), Scenes(plan.task, "val", plan.checks)
    if folder is None:
        raise UserError(f"{plan.name} is trained on photographs.", advice="Say where they are with --data FOLDER.")
    return Photographs(folder / "train"), Photographs(folder / "val")
