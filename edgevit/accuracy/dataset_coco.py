"""Labelled pictures in COCO's format: a folder of images, and a JSON file of boxes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.dataset import DataSet, Sample, resolve_names
from edgevit.errors import UserError

ANNOTATIONS = "instances.json"
_MAX_BYTES = 1 << 30
_ADVICE = "Give a folder with images/ and instances.json, or the JSON file itself."
_SHOWN = 5


@dataclass(frozen=True)
class Boxes:
    """The objects of one picture.

    Attributes:
        size: width and height of the picture they were drawn in, None where the file does not say.
        corners: float64 (objects, 4), left, top, width and height in pixels: COCO's ``bbox``.
        classes: int64 (objects,), indices of the model's classes.
        areas: float64 (objects,), in pixels: COCO's ``area``, or the box's own where there is none.
        crowds: bool (objects,), COCO's ``iscrowd``: neither demanded nor held against a detector.
    """

    size: tuple[int, int] | None
    corners: npt.NDArray[np.float64]
    classes: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]


def open_coco(
    path: Path, *, labels: Sequence[str] | None, classes: int, background: int | None, by_order: bool = False
) -> DataSet[Boxes]:
    """Read the objects of a data set in COCO's format.

    Args:
        path: a folder with ``images`` and ``instances.json``, or the JSON file. Images of a file are looked for in
            ``images`` beside it, in a folder named as COCO names them (``val2017`` for
            ``annotations/instances_val2017.json``), and beside it.
        labels: the model's classes, the background's among them; categories are found there by name.
        classes: how many the model has, the background counted.
        background: index of the class that means "nothing".
        by_order: the category with the lowest id is the model's first class that is not the background, and so on.

    Raises:
        UserError: the file cannot be read, is not COCO's, or its categories are not the model's.
    """
    file = path / ANNOTATIONS if path.is_dir() else path
    content = _read(file)
    images, annotations, categories = (_part(content, key, file) for key in ("images", "annotations", "categories"))
    names = {_whole(entry, "id", file): str(entry.get("name", entry["id"])) for entry in categories}
    if by_order:
        known = _by_order(sorted(names), classes, background, file)
    else:
        known = _by_name(names, labels, background, file)
    folder = _folder(path, file)
    objects, strays = _objects(annotations, images, names, file)
    samples = []
    for image in images:
        name = image.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise UserError("an image has no file_name.", where=str(file), advice=_ADVICE)
        own = [entry for entry in objects.get(image["id"], ()) if entry["category_id"] in known]
        samples.append(Sample(folder / name, name, _boxes(own, known, image)))
    if not samples:
        raise UserError("it names no images.", where=str(file), advice=_ADVICE)
    return DataSet(
        root=path,
        classes={names[key]: index for key, index in known.items()},
        samples=tuple(samples),
        ignored=strays,
        notes=_notes(names, known, annotations, strays),
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        if file.exists() and not file.is_file():
            raise UserError("it is no regular file.", where=str(file), advice=_ADVICE)
        if file.stat().st_size > _MAX_BYTES:
            raise UserError("the file is too large for annotations.", where=str(file), advice=_ADVICE)
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(
            f"cannot read the annotations: {error.strerror or error}.", where=str(file), advice=_ADVICE
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"it is not valid JSON: {error}.", where=str(file), advice=_ADVICE) from error
    if not isinstance(content, dict):
        raise UserError("it is not in COCO's format.", where=str(file), advice=_ADVICE)
    return content


def _part(content: Mapping[str, Any], key: str, file: Path) -> list[dict[str, Any]]:
    part = content.get(key)
    if not isinstance(part, list) or not all(isinstance(entry, dict) for entry in part):
        raise UserError(f"it has no list {key!r}, as COCO's format demands.", where=str(file), advice=_ADVICE)
    for entry in part:
        _whole(entry, "id", file)
    return part


def _whole(entry: Mapping[str, Any], key: str, file: Path) -> int:
    value = entry.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"an entry has no number {key!r}: {str(entry)[:80]}.", where=str(file), advice=_ADVICE)
    return value


def _folder(path: Path, file: Path) -> Path:
    """Where the images are."""
    if path.is_dir():
        return path / "images"
    beside = file.parent / "images"
    published = file.parent.parent / file.stem.removeprefix("instances_")
    return next((folder for folder in (beside, published) if folder.is_dir()), file.parent)


def _by_name(
    names: Mapping[int, str], labels: Sequence[str] | None, background: int | None, file: Path
) -> dict[int, int]:
    if labels is None:
        raise UserError(
            "nothing says what the model's classes are called, so its categories cannot be found.",
            where=str(file),
            advice="Give --labels FILE, or --classes order if the data set's categories are the model's classes in "
            "order.",
        )
    found = resolve_names(list(names.values()), labels, file)
    known = {key: i for key, i in zip(names, found, strict=True) if i is not None and i != background}
    if doubled := [index for index, count in Counter(known.values()).items() if count > 1]:
        several = " and ".join(repr(names[key]) for key, index in known.items() if index == doubled[0])
        raise UserError(
            f"the categories {several} are one class of the model.", where=str(file), advice="Rename one of them."
        )
    if not known:
        listed = ", ".join(map(repr, list(names.values())[:_SHOWN]))
        raise UserError(
            f"none of its categories is a label of the model: {listed}.",
            where=str(file),
            advice="Give the model's labels with --labels FILE, or --classes order.",
        )
    return known


def _by_order(ids: Sequence[int], classes: int, background: int | None, file: Path) -> dict[int, int]:
    foreground = [index for index in range(classes) if index != background]
    if len(ids) != len(foreground):
        raise UserError(
            f"it has {len(ids)} categories, and the model {len(foreground)} classes beside the background.",
            where=str(file),
            advice="Give the model's labels with --labels FILE, so that categories are found by name.",
        )
    return dict(zip(ids, foreground, strict=True))


def _objects(
    annotations: Sequence[dict[str, Any]], images: Sequence[dict[str, Any]], names: Mapping[int, str], file: Path
) -> tuple[dict[int, list[dict[str, Any]]], int]:
    """Annotations by image, and how many belong to no image or category."""
    found: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    if len(found) < len(images):
        raise UserError("two images have one id.", where=str(file), advice=_ADVICE)
    strays = 0
    for entry in annotations:
        box = entry.get("bbox")
        if not (isinstance(box, list) and len(box) == 4 and all(_is_number(value) for value in box)):
            raise UserError(f"annotation {entry['id']} has no box of four numbers.", where=str(file), advice=_ADVICE)
        place, kind = entry.get("image_id"), entry.get("category_id")
        if isinstance(place, int) and isinstance(kind, int) and place in found and kind in names:
            found[place].append(entry)
        else:
            strays += 1
    return found, strays


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        # An integer beyond what a float holds.
        return False


def _boxes(entries: Sequence[dict[str, Any]], known: Mapping[int, int], image: Mapping[str, Any]) -> Boxes:
    corners = np.array([entry["bbox"] for entry in entries], np.float64).reshape(-1, 4)
    areas = [
        entry["area"] if _is_number(entry.get("area")) else entry["bbox"][2] * entry["bbox"][3] for entry in entries
    ]
    width, height = image.get("width"), image.get("height")
    return Boxes(
        size=(width, height) if isinstance(width, int) and isinstance(height, int) else None,
        corners=corners,
        classes=np.array([known[entry["category_id"]] for entry in entries], np.int64),
        areas=np.array(areas, np.float64),
        crowds=np.array([bool(entry.get("iscrowd", 0)) for entry in entries], np.bool_),
    )


def _notes(
    names: Mapping[int, str], known: Mapping[int, int], annotations: Sequence[dict[str, Any]], strays: int
) -> tuple[str, ...]:
    notes = []
    if foreign := [key for key in names if key not in known]:
        counts = Counter(kind for entry in annotations if isinstance(kind := entry.get("category_id"), int))
        listed = ", ".join(repr(names[key]) for key in foreign[:_SHOWN])
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        notes.append(
            f"categories that are no label of the model, left out with {sum(counts[key] for key in foreign)} "
            f"objects: {listed}{more}"
        )
    if strays:
        notes.append(f"annotations of no image or category, left out: {strays}")
    return tuple(notes)
