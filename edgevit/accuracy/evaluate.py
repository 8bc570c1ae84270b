"""Run reference and artifact over a data set in one pass, and let a metric judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgevit.accuracy.check import RUN_TIMEOUT, refuse_other_model
from edgevit.accuracy.images import prepare, read_image
from edgevit.accuracy.reference import OnnxRuntimeReference
from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.accuracy.dataset import Sample
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model
    from edgevit.model.metadata import Preprocessing

Truth = TypeVar("Truth", contravariant=True)
T = TypeVar("T")


class Metric(Protocol[Truth]):
    """Judges outputs, image by image."""

    def add(
        self, truth: Truth, expected: Mapping[str, npt.NDArray[Any]], actual: Mapping[str, npt.NDArray[Any]]
    ) -> None:
        """Take one image's truth, the reference's outputs and the artifact's."""


class _Result(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Unreadable(_Result):
    """An image that was left out, and why."""

    name: str
    reason: str


class Pass(_Result):
    """One pass over a data set.

    Attributes:
        images: that both executors have seen.
        unreadable: those left out.
        seconds: for reading, preparing and both runs.
        reference: what computed the reference, with its version.
        ran_on: where the artifact ran.
        emulated: whether that was an emulator.
    """

    images: int
    unreadable: tuple[Unreadable, ...]
    seconds: float
    reference: str
    ran_on: str
    emulated: bool

    @property
    def images_per_second(self) -> float:
        """Of the whole pass, both executors together; says nothing of the artifact's latency."""
        return self.images / self.seconds


def evaluate(
    artifact: Artifact,
    session: Session,
    model: Model,
    samples: Sequence[Sample[T]],
    metric: Metric[T],
    preprocessing: Preprocessing,
    *,
    progress: Callable[[float], None] | None = None,
) -> Pass:
    """Show every image to ONNX Runtime and to the artifact, one at a time, and hand both outputs to the metric.

    Images that cannot be read or prepared are left out and named in the result.

    Args:
        artifact: what to check, at its selected resolution.
        session: where it runs.
        model: its source; must be the very model the artifact was compiled from.
        samples: images with their truth.
        metric: is given each image's outputs.
        preprocessing: as the metadata states it; fitted to the artifact's input size here.
        progress: told the finished share, 0 to 1.

    Raises:
        ArtifactError: ``model`` is not the artifact's source.
        DeviceError: the device failed.
        UserError: the artifact does not take one image, or no sample could be used.
    """
    refuse_other_model(artifact, model)
    name, height, width = image_input(artifact)
    fitted = preprocessing.for_size(height, width)
    reference = OnnxRuntimeReference(model)
    unreadable: list[Unreadable] = []
    with session.load(artifact) as loaded:
        begun = time.perf_counter()
        for done, sample in enumerate(samples, 1):
            try:
                tensor = prepare(read_image(sample.path), fitted, height, width)
            except UserError as error:
                unreadable.append(Unreadable(name=sample.name, reason=error.message))
            else:
                inputs = {name: tensor}
                actual = loaded.run(inputs, timeout=RUN_TIMEOUT)
                metric.add(sample.truth, reference.run(inputs), actual)
            if progress:
                progress(done / len(samples))
        seconds = time.perf_counter() - begun
    if len(unreadable) == len(samples):
        raise UserError(
            f"none of {len(samples)} images could be used; {unreadable[0].name}: {unreadable[0].reason}"
            if unreadable
            else "there are no images.",
            advice="Check the data set and the preprocessing.",
        )
    info = session.describe()
    return Pass(
        images=len(samples) - len(unreadable),
        unreadable=tuple(unreadable),
        seconds=seconds,
        reference=reference.name,
        ran_on=f"{info.kind}: {info.address or info.cpu or 'this machine'}",
        emulated=session.emulated,
    )


def image_input(artifact: Artifact) -> tuple[str, int, int]:
    """Name, height and width of the artifact's input.

    Raises:
        UserError: it does not take one float32 image of three channels.
    """
    inputs = artifact.resolution.inputs
    if len(inputs) == 1:
        name, shape, dtype = inputs[0].name, inputs[0].shape, inputs[0].dtype
        if len(shape) == 4 and shape[:2] == (1, 3) and dtype == "float32":
            return name, shape[2], shape[3]
    taken = ", ".join(f"{info.name} {info.dtype}{list(info.shape)}" for info in inputs)
    raise UserError(
        f"a data set of images needs one input float32[1, 3, height, width]; the artifact takes {taken}.",
        where=str(artifact.path) if artifact.path else None,
        advice="Export the model with batch 1 and channels first.",
    )
