"""Names of classes: read from text files, held against the classes a model has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edgevit.errors import UserError

MAX_LABELS_BYTES = 4 << 20

_SYNSET = re.compile(r"(n\d{8})(?:[\s,]+(\S.*))?")


class Tensor(Protocol):
    """A model's output, or an artifact's."""

    @property
    def name(self) -> str:
        """In the graph."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Static dimensions; -1 where one is not known."""


@dataclass(frozen=True)
class Labels:
    """Classes by index.

    Attributes:
        names: of the classes.
        synsets: their WordNet identifiers (``n01440764``), where the file has them.
    """

    names: tuple[str, ...]
    synsets: tuple[str, ...] | None = None


def read_labels(path: Path) -> Labels:
    """Read a text file of labels: line 1 is class 0, and so on.

    A line is a name, or a WordNet synset and a name (``n01440764 tench, Tinca tinca``), the same way in all lines; a
    synset alone is its own name.

    Raises:
        UserError: the file cannot be read, is empty or has an empty line, or mixes the two kinds.
    """
    lines = _lines(path)
    for number, line in enumerate(lines, 1):
        if not line:
            raise UserError(
                "the line is empty, which leaves open whether it counts as a class.",
                where=f"{path}:{number}",
                advice="Remove it, or give the class a name.",
            )
    found = [_SYNSET.fullmatch(line) for line in lines]
    matches = [match for match in found if match]
    if not matches:
        return Labels(tuple(lines))
    if len(matches) < len(lines):
        number = next(number for number, match in enumerate(found, 1) if match is None)
        raise UserError(
            "the line begins with no synset, as others do.",
            where=f"{path}:{number}",
            advice="Write every line as 'n01440764 name', or every line as a name.",
        )
    return Labels(tuple(match[2] or match[1] for match in matches), tuple(match[1] for match in matches))


def class_count(outputs: Sequence[Tensor], task: str) -> tuple[str, int] | None:
    """Which output has an element for each class, and how many classes there are; None where that is not clear.

    Args:
        outputs: of the model.
        task: classification (an output 1×C), segmentation (1×C×H×W) or detection (1×N×C beside boxes 1×N×4).
    """
    rank = {"classification": 2, "segmentation": 4, "detection": 3}.get(task)
    axis = -1 if task == "detection" else 1
    boxes = 4 if task == "detection" else 0
    found = [
        (spec.name, spec.shape[axis])
        for spec in outputs
        if len(spec.shape) == rank and spec.shape[axis] > 1 and spec.shape[axis] != boxes
    ]
    if task == "detection" and len(outputs) < 2:
        return None
    return found[0] if len(found) == 1 else None


def check_label_count(labels: Sequence[str], outputs: Sequence[Tensor], task: str, *, where: str | None) -> None:
    """Refuse labels that cannot be the model's.

    Raises:
        UserError: there are more or fewer than classes.
    """
    counted = class_count(outputs, task)
    if counted and counted[1] != len(labels):
        name, count = counted
        raise UserError(
            f"there are {len(labels)} labels, and output {name!r} has {count} classes.",
            where=where,
            advice="Give one label for each class, in the model's order, its background class included if it has one.",
        )


def _lines(path: Path) -> list[str]:
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        with path.open("rb") as stream:
            data = stream.read(MAX_LABELS_BYTES + 1)
    except OSError as error:
        raise UserError(
            f"cannot read the labels: {error.strerror or error}.",
            where=str(path),
            advice="Give a text file with one label a line.",
        ) from error
    if len(data) > MAX_LABELS_BYTES:
        raise UserError("the file is too large for labels.", where=str(path), advice="Give one label a line.")
    try:
        # Byte order marks come from Windows editors.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("the labels are not UTF-8 text.", where=str(path), advice="Save them as UTF-8.") from error
    # Not str.splitlines(): a label may hold the separators that it knows beside the line feed.
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise UserError("the file holds no labels.", where=str(path), advice="Give one label a line.")
    return lines
