"""Labelled pictures in the manner of Pascal VOC: a folder of images, and a folder of masks of the same names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.dataset import IMAGE_SUFFIXES, DataSet, Sample, resolve_names
from edgevit.accuracy.images import read_image
from edgevit.errors import UserError
from edgevit.model.metadata_labels import read_labels

VOID = 255
"""Value of pixels that nobody labelled: objects' borders, and what is hard to tell."""

VALUES = "classes.txt"
_IMAGES, _MASKS = ("images", "JPEGImages"), ("masks", "SegmentationClass")
_ADVICE = "Give a folder with images/ and masks/, a PNG of each image's name with a class index in every pixel."


@dataclass(frozen=True)
class Mask:
    """Where the classes of one picture are written.

    Attributes:
        path: of the mask.
        values: uint8 (256,), the model's class by value of a pixel; :data:`VOID` where it is not counted.
        refused: bool (256,), values that no mask may hold.
    """

    path: Path
    values: npt.NDArray[np.uint8]
    refused: npt.NDArray[np.bool_]

    def read(self) -> npt.NDArray[np.uint8]:
        """The model's class of every pixel: uint8 (height, width), :data:`VOID` where it is not counted.

        Raises:
            UserError: it cannot be read, is no palette or grey image of 8 bits, or holds a value of no class.
        """
        image = read_image(self.path)
        if image.mode not in ("P", "L", "1"):
            raise UserError(
                f"the mask is of mode {image.mode!r}; class indices are a palette or 8 bits of grey.",
                where=str(self.path),
                advice="Save it as PNG with one value a pixel.",
            )
        found = np.asarray(image).astype(np.uint8)
        if bad := np.flatnonzero(self.refused & (np.bincount(found.ravel(), minlength=256) > 0)).tolist():
            listed = ", ".join(map(str, bad[:5])) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
            raise UserError(
                f"the mask holds {listed}, which are no classes of the model and have no name in {VALUES}.",
                where=str(self.path),
                advice=f"Say what the values mean in {VALUES} beside the masks' folder: a name a line, line 1 is 0.",
            )
        return self.values[found]


def open_masks(root: Path, *, classes: int, labels: Sequence[str] | None) -> DataSet[Mask]:
    """Find images and their masks.

    The value of a mask's pixel is the index of the model's class; 255 is not counted. With ``classes.txt`` in the data
    set's folder it is the number of a line instead, the first is 0; what is written there is looked for among the
    model's labels, and pixels of other names are not counted.

    Args:
        root: with ``images`` (or ``JPEGImages``) and ``masks`` (or ``SegmentationClass``).
        classes: how many the model knows, the background counted.
        labels: their names.

    Raises:
        UserError: a folder is missing, no image has a mask, or ``classes.txt`` has nothing in common with the labels.
    """
    images, masks = _folder(root, _IMAGES), _folder(root, _MASKS)
    if classes > VOID:
        raise UserError(
            f"the model has {classes} classes, and masks of 8 bits tell {VOID} apart.", where=str(root), advice=_ADVICE
        )
    known, values, refused, notes = _values(root, classes, labels)
    try:
        pictures = [
            file
            for file in sorted(images.iterdir())
            if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
        ]
        files = {file.stem: file for file in reversed(pictures)}
        found = {
            file.stem: file
            for file in sorted(masks.iterdir())
            if file.suffix.lower() == ".png" and not file.name.startswith(".")
        }
    except OSError as error:
        raise UserError(f"cannot read the data set: {error.strerror or error}.", where=str(root)) from error
    both = [stem for stem in sorted(files) if stem in found]
    if not both:
        raise UserError("no image has a mask.", where=str(root), advice=_ADVICE)
    if lacking := len(files) - len(both):
        notes.append(f"images without a mask, left out: {lacking}")
    if doubled := len(pictures) - len(files):
        notes.append(f"images of the same name as another but for its ending, left out: {doubled}")
    if alone := len(found) - len(both):
        notes.append(f"masks without an image, left out: {alone}")
    samples = tuple(Sample(files[stem], files[stem].name, Mask(found[stem], values, refused)) for stem in both)
    return DataSet(root=root, classes=known, samples=samples, ignored=lacking + alone + doubled, notes=tuple(notes))


def _folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise UserError(f"it has no folder {' or '.join(names)}.", where=str(root), advice=_ADVICE)


def _values(
    root: Path, classes: int, labels: Sequence[str] | None
) -> tuple[dict[str, int], npt.NDArray[np.uint8], npt.NDArray[np.bool_], list[str]]:
    """Classes by name, the class and the refusal of each value, and notes."""
    values = np.full(256, VOID, np.uint8)
    refused = np.zeros(256, np.bool_)
    if not (root / VALUES).is_file():
        values[:classes] = np.arange(classes)
        refused[classes:VOID] = True
        names = labels or [str(index) for index in range(classes)]
        return {name: index for index, name in enumerate(names)}, values, refused, []
    names = [re.sub(r"^[0-9]+\s+", "", name) for name in read_labels(root / VALUES).names]
    if labels is None:
        raise UserError(
            f"{VALUES} names the values, and nothing says what the model's classes are called.",
            where=str(root),
            advice="Give the model's labels with --labels FILE.",
        )
    if len(names) > VOID:
        raise UserError(f"there are more than {VOID} names.", where=str(root / VALUES), advice=_ADVICE)
    found = resolve_names(names, labels, root / VALUES)
    known = {name: index for name, index in zip(names, found, strict=True) if index is not None}
    if not known:
        raise UserError(
            "none of its names is a label of the model.",
            where=str(root / VALUES),
            advice="Give the model's labels with --labels FILE.",
        )
    for value, index in enumerate(found):
        values[value] = VOID if index is None else index
    refused[len(names) : VOID] = True
    foreign = [name for name, index in zip(names, found, strict=True) if index is None]
    note = f"classes that are no label of the model, not counted: {', '.join(map(repr, foreign[:5]))}"
    more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
    return known, values, refused, [note + more] if foreign else []
