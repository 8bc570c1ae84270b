"""Scenes as files, in the layouts that other tools read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.data.layout import CLASSES, Split, Task
from edgevit.data.scenes import Scene, check, scene
from edgevit.errors import UserError
from edgevit.files import make_folder, staged_folder

_DIGITS = 6
"""Of a file's name, at least."""


def write(
    folder: Path,
    task: Task,
    split: Split,
    count: int,
    *,
    size: int | tuple[int, int] = 256,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Write scenes 0 to ``count - 1`` into a new folder, whole or not at all.

    Images are PNG, so that pixels stay as they are. The layout depends on the task:

    * ``cls``: a folder for each class, named as the class with underscores.
    * ``det``: ``images/`` and ``instances.json`` in COCO's format, with the visible pixels of each object as
      uncompressed RLE. Category 1 is class 0.
    * ``seg``: ``images/`` and ``masks/`` with PNGs of the same names, as VOC has them: palette index 0 is background,
      1 is class 0; and ``classes.txt`` with a name for each index.

    Args:
        folder: to make, with its parents; must not exist.
        task: see :func:`~edgevit.data.scenes.scene`.
        split: likewise.
        count: of scenes.
        size: pixels of both sides, or height and width.
        seed: of the data set.
        progress: told the share written so far.

    Raises:
        UserError: an argument is out of range, the folder exists, or it cannot be written.
    """
    folder = Path(folder)
    if count < 1:
        raise UserError(f"{count} scenes cannot be written.", advice="Give a count of 1 or more.")
    check(task, split, count - 1, size, seed)
    if folder.exists() or folder.is_symlink():
        raise UserError("it exists already.", where=str(folder), advice="Remove it, or give another folder.")

    def drawn() -> Iterator[tuple[str, Scene]]:
        for index in range(count):
            yield f"{index:0{_DIGITS}d}.png", scene(task, split, index, size=size, seed=seed)
            if progress:
                progress((index + 1) / count)

    make_folder(folder.parent)
    with staged_folder(folder) as aside:
        if task == "cls":
            _write_class_folders(aside, drawn())
        elif task == "det":
            _write_coco(aside, drawn(), f"edgevit scenes: {task}, {split}, seed {seed}")
        else:
            _write_voc(aside, drawn())


def _write_class_folders(root: Path, drawn: Iterable[tuple[str, Scene]]) -> None:
    folders = [root / name.replace(" ", "_") for name in CLASSES]
    for name, one in drawn:
        folders[one.label].mkdir(exist_ok=True)
        _write_png(one.image, folders[one.label] / name)


def _write_coco(root: Path, drawn: Iterable[tuple[str, Scene]], description: str) -> None:
    (root / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, one in drawn:
        _write_png(one.image, root / "images" / name)
        height, width = one.mask.shape
        # From 1: COCO's own tools take an annotation 0 for none.
        images.append({"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        for row, (box, kind) in enumerate(zip(one.boxes.tolist(), one.classes.tolist(), strict=True), 1):
            left, top, right, bottom = box
            seen = one.instances == row
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": len(images),
                    "category_id": kind + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": int(seen.sum()),
                    "segmentation": {"size": [height, width], "counts": _run_lengths(seen)},
                    "iscrowd": 0,
                }
            )
    categories = [{"id": index, "name": name, "supercategory": "object"} for index, name in enumerate(CLASSES, 1)]
    whole = {
        "info": {"description": description},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }
    (root / "instances.json").write_text(json.dumps(whole), encoding="utf-8")


def _write_voc(root: Path, drawn: Iterable[tuple[str, Scene]]) -> None:
    from PIL import Image

    (root / "images").mkdir()
    (root / "masks").mkdir()
    palette = _voc_palette()
    for name, one in drawn:
        _write_png(one.image, root / "images" / name)
        mask = Image.fromarray(one.mask)
        mask.putpalette(palette)
        mask.save(root / "masks" / name)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in ("background", *CLASSES)), encoding="utf-8")


def _write_png(image: npt.NDArray[np.uint8], path: Path) -> None:
    from PIL import Image

    # Noise hardly compresses, so the fastest level is nearly as small as the others.
    Image.fromarray(image).save(path, compress_level=1)


def _run_lengths(seen: npt.NDArray[np.bool_]) -> list[int]:
    """Lengths of runs down the columns, that of zeros first, as COCO counts them."""
    flat = seen.ravel(order="F")
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths: list[int] = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def _voc_palette() -> list[int]:
    """VOC's 256 colours, red, green and blue of each: their bits, from the highest, are the index's lowest in turn."""
    return [
        sum(((index >> (3 * place + channel)) & 1) << (7 - place) for place in range(8))
        for index in range(256)
        for channel in range(3)
    ]
