"""What a metric is: it judges images one by one, and sums up at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgevit.accuracy.contact_sheet import Tile

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgevit.accuracy.view import View

Outputs = Mapping[str, npt.NDArray[Any]]

Record = dict[str, Any]
"""What is kept of one image: JSON, small, and all that the result depends on beside the truth."""

SIDES = ("reference", "artifact")

Truth = TypeVar("Truth", contravariant=True)
Loaded = TypeVar("Loaded")


class Result(BaseModel):
    """Base of results: plain data that does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(Result):
    """The figure that a task is judged by.

    Attributes:
        name: of it.
        reference: of ONNX Runtime, 0 to 1.
        artifact: of the artifact, 0 to 1.
    """

    name: str
    reference: float
    artifact: float


class ClassScore(Result):
    """Both executors on one class.

    Attributes:
        index: of the model's class.
        name: its label, else its index.
        count: images, objects or pixels of it.
        reference: top-1, AP or IoU of ONNX Runtime, 0 to 1.
        artifact: the same of the artifact.
    """

    index: int
    name: str
    count: int
    reference: float
    artifact: float

    @property
    def difference(self) -> float:
        """What the artifact has more."""
        return self.artifact - self.reference


class Metric(Protocol[Truth, Loaded]):
    """Judges the outputs of both executors."""

    def fingerprint(self, truth: Truth) -> bytes:
        """What tells it from another truth, without reading much."""

    def load(self, truth: Truth, size: tuple[int, int]) -> Loaded:
        """Read what is true of an image of this width and height; called in threads.

        Raises:
            UserError: it cannot be read, or does not belong to the image, which is then left out.
        """

    def judge(self, loaded: Loaded, view: View, expected: Outputs, actual: Outputs) -> Record:
        """Compare the reference's outputs, and the artifact's, with the truth."""

    def add(self, truth: Truth, record: Record) -> None:
        """Count one image."""

    def disagreement(self, record: Record) -> float:
        """How much the two executors differ on an image: 0 for not at all."""

    def result(self) -> Any:
        """What was counted: a result with a property ``score``, the task's :class:`Score`."""

    def tile(self, picture: Image, loaded: Loaded, view: View, expected: Outputs, actual: Outputs) -> Tile:
        """The image with what was true and what both said, for people to look at."""


def file_mark(path: Path) -> bytes:
    """What tells a file from another one of its name: size and time of change."""
    try:
        facts = path.stat()
    except OSError:
        return b"missing"
    return f"{facts.st_size} {facts.st_mtime_ns}".encode()


def class_name(labels: Sequence[str] | None, index: int) -> str:
    """The label, else the index."""
    return labels[index] if labels else str(index)
