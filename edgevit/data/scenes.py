"""A scene and its truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgevit.data.draws import Draws
from edgevit.data.layout import CLASSES, SPLITS, TASKS, Split, Task, lay_out
from edgevit.data.render import render
from edgevit.errors import UserError

EDITION = 1
"""Part of every scene's key: another one gives other scenes."""

_SMALLEST, _LARGEST = 32, 4096
_LONGEST = 4
_KEYS = 1 << 32


@dataclass(frozen=True)
class Scene:
    """An image and what is true of it. Objects count as far as they are seen.

    Attributes:
        image: uint8 of shape (height, width, 3), RGB.
        label: index of the class that covers the most pixels; for ``cls``, of the large object, which is the same.
        boxes: float32 of shape (objects, 4): left, top, right and bottom in pixels around what is seen of each, right
            and bottom one past the last pixel.
        classes: int64 of shape (objects,), indices into :data:`~edgevit.data.CLASSES`.
        mask: uint8 of shape (height, width): 0 for background, else 1 plus the class.
        instances: uint8 of shape (height, width): 0 for background, else 1 plus the row in ``boxes``.
    """

    image: npt.NDArray[np.uint8]
    label: int
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]
    mask: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint8]


def scene(task: Task, split: Split, index: int, *, size: int | tuple[int, int] = 256, seed: int = 0) -> Scene:
    """The scene of a task, split, seed and index: the same on every machine.

    At another size of the same proportions it is the same scene in other pixels.

    Args:
        task: ``cls`` has one large object; ``det`` and ``seg`` have one to six.
        split: ``train``, ``val`` or ``test``; they have no scene in common.
        index: from 0 to 2**32 - 1. Of ``cls``, scene ``index`` has class ``index % len(CLASSES)``.
        size: pixels of both sides, or height and width.
        seed: from 0 to 2**32 - 1, of the whole data set.

    Raises:
        UserError: an argument is out of range.
    """
    height, width = check(task, split, index, size, seed)
    draws = Draws((EDITION, TASKS.index(task), SPLITS.index(split), seed, index))
    unit = min(height, width)
    layout = lay_out(task, index, draws, width / unit, height / unit)
    image, owners = render(layout, draws, height, width)
    return _with_truth(
        image, owners, [item.kind for item in layout.items], index % len(CLASSES) if task == "cls" else None
    )


def check(task: str, split: str, index: int, size: int | tuple[int, int], seed: int) -> tuple[int, int]:
    """Height and width of scenes, if all is well; arguments as of :func:`scene`.

    Raises:
        UserError: an argument is out of range.
    """
    for value, known, what in ((task, TASKS, "task"), (split, SPLITS, "split")):
        if value not in known:
            raise UserError(f"{value!r} is no {what} of scenes.", advice=f"Known are {', '.join(known)}.")
    for number, what in ((index, "index"), (seed, "seed")):
        if not 0 <= number < _KEYS:
            raise UserError(f"{number} is no {what} of scenes.", advice=f"Give an integer from 0 to {_KEYS - 1}.")
    height, width = size if isinstance(size, tuple) else (size, size)
    low, high = sorted((height, width))
    if low < _SMALLEST or high > _LARGEST or high > _LONGEST * low:
        raise UserError(
            f"scenes are not drawn at {height}x{width}.",
            advice=f"Give sides from {_SMALLEST} to {_LARGEST} pixels, one at most {_LONGEST} times the other.",
        )
    return height, width


def _with_truth(
    image: npt.NDArray[np.uint8], owners: npt.NDArray[np.uint8], kinds: list[int | None], label: int | None
) -> Scene:
    """The scene, from who is seen where; decoys are background."""
    rows: npt.NDArray[np.uint8] = np.zeros(len(kinds) + 1, np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    classes: list[int] = []
    for position, kind in enumerate(kinds, 1):
        if kind is None or (box := _box(owners == position)) is None:
            continue
        boxes.append(box)
        classes.append(kind)
        rows[position] = len(boxes)
    instances = rows[owners]
    values = np.array([0, *(kind + 1 for kind in classes)], np.uint8)
    mask = values[instances]
    if label is None:
        label = int(np.bincount(mask.ravel(), minlength=len(CLASSES) + 1)[1:].argmax())
    return Scene(
        image=image,
        label=label,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        mask=mask,
        instances=instances,
    )


def _box(seen: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
