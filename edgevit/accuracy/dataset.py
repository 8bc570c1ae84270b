"""Labelled pictures on disk, and the first of their kinds: a folder for each class."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Generic, TypeVar

from edgevit.errors import UserError
from edgevit.model.metadata_labels import Labels

Truth = TypeVar("Truth")

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Sample(Generic[Truth]):
    """One picture and what is true of it.

    Attributes:
        path: of the image file.
        name: of it within the data set, for reports.
        truth: for classification, the index of the class; for detection, the objects; for segmentation, the mask's
            file.
    """

    path: Path
    name: str
    truth: Truth


@dataclass(frozen=True)
class DataSet(Generic[Truth]):
    """Pictures with what is true of them.

    Attributes:
        root: its folder or file.
        classes: index of the model's class by the data set's own name of it.
        samples: the pictures, in an order of which every beginning is a fair selection.
        ignored: files, or entries, that are no samples.
        notes: what else the reader of a result should know, a sentence each.
    """

    root: Path
    classes: dict[str, int]
    samples: tuple[Sample[Truth], ...]
    ignored: int
    notes: tuple[str, ...] = ()


ClassFolders = DataSet[int]
"""A data set for classification: the first image of each class, then the second of each, and so on."""


def open_class_folders(root: Path, *, classes: int, labels: Labels | None = None) -> ClassFolders:
    """Find the images of a folder whose subfolders are classes.

    Folders may be named by label (upper and lower case, spaces and underscores do not matter; one of several names
    between commas will do), by WordNet synset where ``labels`` has them, or by class index: all in the same way.

    Args:
        root: the data set's folder.
        classes: how many the model knows.
        labels: of the model.

    Raises:
        UserError: there is no such folder, it has no images, or a folder is no class of the model.
    """
    try:
        if not root.is_dir():
            raise UserError(
                "there is no such folder.", where=str(root), advice="Give a folder with one folder a class."
            )
        entries = sorted(entry for entry in root.iterdir() if not entry.name.startswith("."))
        folders = [entry for entry in entries if entry.is_dir()]
        files = [sorted(_files(folder)) for folder in folders]
    except OSError as error:
        raise UserError(f"cannot read the data set: {error.strerror or error}.", where=str(root)) from error
    if not folders:
        raise UserError(
            "it has no folders.", where=str(root), advice="Put the images of each class into a folder of its own."
        )
    indices = _resolve([folder.name for folder in folders], classes, labels, root)
    images = [[file for file in group if file.suffix.lower() in IMAGE_SUFFIXES] for group in files]
    by_class = [
        [Sample(file, file.relative_to(root).as_posix(), index) for file in group]
        for index, group in sorted(zip(indices, images, strict=True), key=lambda pair: pair[0])
    ]
    samples = tuple(sample for sample in chain.from_iterable(zip_longest(*by_class)) if sample)
    if not samples:
        raise UserError(
            "it holds no images.", where=str(root), advice=f"Known are {', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return DataSet(
        root=root,
        classes=dict(zip((folder.name for folder in folders), indices, strict=True)),
        samples=samples,
        ignored=sum(map(len, files)) - len(samples) + len(entries) - len(folders),
    )


def resolve_names(names: Sequence[str], labels: Sequence[str], root: Path) -> list[int | None]:
    """Index of the label that each name means, None where none does.

    Upper and lower case, spaces and underscores do not matter; one of several names between commas will do.

    Raises:
        UserError: a name is the label of several classes.
    """
    find = _by_label(labels, root)
    return [find(name) for name in names]


def _files(folder: Path) -> Iterator[Path]:
    """Everything in a folder and its folders that is neither a folder nor hidden.

    Raises:
        OSError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _resolve(names: list[str], classes: int, labels: Labels | None, root: Path) -> list[int]:
    """Index of each folder's class, by the first way of naming that all folders follow."""
    ways: dict[str, Callable[[str], int | None]] = {}
    if labels:
        ways["label"] = _by_label(labels.names, root)
    if labels and labels.synsets:
        ways["synset"] = {synset: index for index, synset in enumerate(labels.synsets)}.get
    ways["class index"] = lambda name: int(name) if re.fullmatch(r"[0-9]{1,9}", name) else None
    found = {way: [find(name) for name in names] for way, find in ways.items()}
    for indices in found.values():
        known = [index for index in indices if index is not None]
        if len(known) == len(names):
            return _in_range(names, known, classes, root)
    best = max(found.values(), key=lambda indices: sum(index is not None for index in indices))
    odd = [name for name, index in zip(names, best, strict=True) if index is None]
    listed = ", ".join(map(repr, odd[:5])) + (f" and {len(odd) - 5} more" if len(odd) > 5 else "")
    raise UserError(
        f"{listed}: no {' or '.join(ways)} of the model{'' if labels else ', whose labels are not known'}.",
        where=str(root),
        advice="Rename the folders, or give the model's labels with --labels FILE: a name or 'synset name' a line.",
    )


def _in_range(names: Iterable[str], indices: list[int], classes: int, root: Path) -> list[int]:
    for name, index in zip(names, indices, strict=True):
        if index >= classes:
            raise UserError(
                f"folder {name!r} is class {index}, and the model's {classes} classes end at {classes - 1}.",
                where=str(root),
                advice="Check the data set's labels against the model's.",
            )
    return indices


def _by_label(labels: Sequence[str], root: Path) -> Callable[[str], int | None]:
    whole: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for index, label in enumerate(labels):
        whole.setdefault(_plain(label), set()).add(index)
        for part in label.split(","):
            parts.setdefault(_plain(part), set()).add(index)

    def find(name: str) -> int | None:
        found = sorted(whole.get(_plain(name)) or parts.get(_plain(name)) or ())
        if len(found) > 1:
            raise UserError(
                f"{name!r} is the label of the classes {' and '.join(map(str, found))}.",
                where=str(root),
                advice="Name it by class index.",
            )
        return found[0] if found else None

    return find


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())
