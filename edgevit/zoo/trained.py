"""MobileViT-XXS trained on the scenes of :mod:`edgevit.data`, one for each task; the weights ship with edgevit.

They recognise drawn shapes and nothing else: they are there so that accuracy can be shown, and a fault that costs
accuracy can be seen, with nothing to download. ``recipes/train`` made them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.zoo.arguments import ImageSize
    from edgevit.zoo.catalogue import Built

FOLDER = Path(__file__).parent / "shipped"
"""Of the weights."""

PLANS = {"cls": "scenes-cls", "det": "scenes-det", "seg": "scenes-seg"}
"""The training that made the weights for a task."""


class Facts(BaseModel):
    """How weights were trained, and what came of it: the recipe's own account.

    Attributes:
        model: name in the catalogue.
        task: ``cls``, ``det`` or ``seg``.
        image_size: pixels of the sides of the input.
        labels: of the model's classes, the background first where there is one.
        figures: percent on ``checked_images`` of the ``val`` split: ``top1``; ``ap50`` and ``ap75``; ``miou``.
        seed: of the training.
        done_epochs: passes over the training set.
        images_seen: in all of them.
        hours: of wall time.
        cpu_hours: of processor time.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    task: str
    image_size: int
    labels: tuple[str, ...]
    figures: dict[str, float]
    checked_images: int
    seed: int
    done_epochs: int
    images_seen: int
    hours: float
    cpu_hours: float


def weights_file(task: str = "cls") -> Path:
    """The weights for a task, a safetensors file.

    Raises:
        UserError: no weights ship for that task.
    """
    if task not in PLANS:
        raise UserError(f"no trained weights ship for the task {task!r}.", advice=f"Choose from {', '.join(PLANS)}.")
    return FOLDER / f"{PLANS[task]}.safetensors"


def facts(task: str = "cls") -> Facts:
    """How the weights for a task were trained.

    Raises:
        UserError: no weights ship for that task.
    """
    return Facts.model_validate_json(weights_file(task).with_suffix(".json").read_text(encoding="utf-8"))


def make_trained(task: str = "cls", *, image_size: ImageSize | None = None, dynamic: bool = False) -> Built:
    """The trained MobileViT-XXS, as :func:`edgevit.zoo.catalogue.make` builds it.

    Args:
        task: ``cls``, classification; ``det``, detection; ``seg``, segmentation.
        image_size: pixels of a square, or height and width; None for what it was trained for. At others it
            recognises less.
        dynamic: leave height and width of the input open.

    Raises:
        UserError: no weights ship for that task, or the size makes no model.
    """
    from edgevit.zoo.catalogue import make

    known = facts(task)
    return make(
        known.model,
        task=task,
        image_size=image_size or known.image_size,
        dynamic=dynamic,
        weights=weights_file(task),
        labels=known.labels,
    )
