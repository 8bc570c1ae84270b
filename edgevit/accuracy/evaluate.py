"""Run reference and artifact over a data set in one pass, and let a metric judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy.typing as npt

from edgevit.accuracy.batch_size import BatchSize
from edgevit.accuracy.check import RUN_TIMEOUT, refuse_other_model
from edgevit.accuracy.contact_sheet import Tile, refuse_unwritable, write_sheet
from edgevit.accuracy.images import prepare, read_image, room_for, to_rgb
from edgevit.accuracy.metric import Metric, Outputs, Result
from edgevit.accuracy.prefetch import prefetch
from edgevit.accuracy.reference import OnnxRuntimeReference
from edgevit.accuracy.tally import Tally, Unreadable
from edgevit.accuracy.view import View
from edgevit.device.batches import most_runs
from edgevit.device.phone import PhoneFacts
from edgevit.device.usage import usable_cores
from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.accuracy.dataset import Sample
    from edgevit.accuracy.journal import Journal, Line
    from edgevit.artifact import Artifact
    from edgevit.device.session import LoadedModel, Session, Tensors
    from edgevit.model import Model
    from edgevit.model.metadata import Preprocessing

T = TypeVar("T")

Progress = Callable[[int, int], None]
"""Told how many images are done, and of how many."""

_ON_THIS_MACHINE = frozenset({"in-process", "process", "emulated"})
_MOST_THREADS = 8


class Rate(Result):
    """One of the stages that an image goes through.

    Attributes:
        seconds: spent on all images, by all threads together.
        threads: that worked on it at once.
        images_per_second: that it alone would reach with these threads; None where it saw no image.
    """

    seconds: float
    threads: int
    images_per_second: float | None


class Pass(Result):
    """One pass over a data set.

    Attributes:
        images: that both executors have seen.
        resumed: how many of them, and of the unreadable ones, an earlier run had done.
        unreadable: those left out.
        seconds: of this run.
        decoding: reading and preparing images, and their masks.
        reference_rate: ONNX Runtime.
        device_rate: the artifact, with the transfers to and from the device.
        judging: from both outputs to what is counted: label maps, boxes.
        batch: images of the largest batch that went to the device in one request; 0 if none went.
        reference: what computed the reference, with its version.
        ran_on: where the artifact ran.
        emulated: whether that was an emulator.
        phone: what Android says, of a phone reached through adb.
    """

    images: int
    resumed: int
    unreadable: tuple[Unreadable, ...]
    seconds: float
    decoding: Rate
    reference_rate: Rate
    device_rate: Rate
    judging: Rate
    batch: int
    reference: str
    ran_on: str
    emulated: bool
    phone: PhoneFacts | None = None

    @property
    def images_per_second(self) -> float | None:
        """Of the whole pass, both executors together; says nothing of the artifact's latency."""
        done = self.images + len(self.unreadable) - self.resumed
        return done / self.seconds if done else None


@dataclass
class _Clock:
    """Seconds by stage."""

    decoding: float = 0.0
    reference: float = 0.0
    device: float = 0.0
    judging: float = 0.0
    seen: int = 0


@dataclass(frozen=True)
class _Seen(Generic[T]):
    """A sample that was read, and what the reference says of it; or why it is left out."""

    sample: Sample[T]
    reason: str | None = None
    tensor: npt.NDArray[Any] | None = None
    loaded: Any = None
    view: View | None = None
    expected: Outputs = field(default_factory=dict)
    decoding: float = 0.0
    reference: float = 0.0


def evaluate(
    artifact: Artifact,
    session: Session,
    model: Model,
    samples: Sequence[Sample[T]],
    metric: Metric[T, Any],
    preprocessing: Preprocessing,
    *,
    journal: Journal | None = None,
    sheet: Path | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Pass:
    """Show every image to ONNX Runtime and to the artifact, and hand both outputs to the metric.

    Threads read and prepare the next images and ask ONNX Runtime about them while the device works on those before,
    so that the slower of host and device sets the pace. Where requests to the device take time of their own, images
    go there in batches; see :class:`~edgevit.accuracy.batch_size.BatchSize`. No more than two batches are held.

    Images that cannot be read or prepared are left out and named in the result.

    Args:
        artifact: what to check, at its selected resolution.
        session: where it runs.
        model: its source; must be the very model the artifact was compiled from.
        samples: images with their truth.
        metric: is given each image's outputs.
        preprocessing: as the metadata states it; fitted to the artifact's input size here.
        journal: images that it knows are not run again; it is told of the others.
        sheet: a PNG of the images on which the two differ most.
        threads: that prepare images and run the reference; None for one per core, half of them where the artifact
            runs on this machine too.
        progress: told how many images are done.

    Raises:
        ArtifactError: ``model`` is not the artifact's source.
        DeviceError: the device failed.
        UserError: the artifact does not take one image, or no sample could be used.
    """
    refuse_other_model(artifact, model)
    name, height, width = image_input(artifact)
    fitted = preprocessing.for_size(height, width)
    if sheet:
        refuse_unwritable(sheet)
    reference = OnnxRuntimeReference(model)
    tally = Tally(samples, metric)
    for line in journal.lines[: len(samples)] if journal else ():
        _take_noted(tally, line, journal)
    resumed = tally.done
    count = threads or _threads(session)
    clock, begun = _Clock(), time.perf_counter()
    if progress:
        progress(resumed, len(samples))
    look = partial(_look, metric=metric, reference=reference, name=name, fitted=fitted, size=(height, width))
    with session.load(artifact) as loaded:
        size = BatchSize(most_runs(artifact.resolution) if loaded.batches else 1)
        ahead = prefetch(samples[resumed:], look, threads=count, ahead=lambda: size.now + count)
        with closing(ahead):
            for group in _grouped(ahead, size):
                lines = _lines(group, loaded, metric, name, clock, size)
                if journal:
                    journal.append(*lines)
                for line in lines:
                    tally.take(line)
                    if progress:
                        progress(tally.done, len(samples))
        seconds = time.perf_counter() - begun
        tally.refuse_nothing()
        if sheet:
            write_sheet([_tile(look(sample), loaded, metric, name) for sample in tally.worst()], sheet)
    info = session.describe()
    return Pass(
        images=tally.done - len(tally.unreadable),
        resumed=resumed,
        unreadable=tuple(tally.unreadable),
        seconds=seconds,
        decoding=_rate(clock.decoding, clock.seen, count),
        reference_rate=_rate(clock.reference, clock.seen, count),
        device_rate=_rate(clock.device, clock.seen, 1),
        judging=_rate(clock.judging, clock.seen, 1),
        batch=size.largest,
        reference=reference.name,
        ran_on=f"{info.kind}: {info.address or info.cpu or 'this machine'}",
        emulated=session.emulated,
        phone=info.phone,
    )


def _reason(error: UserError, image: Path) -> str:
    """What was wrong, and with which file if it is not the image: its mask."""
    if error.where in (None, str(image)):
        return error.message
    return f"{Path(str(error.where)).name}: {error.message}"


def _take_noted(tally: Tally[T], line: Line, journal: Journal | None) -> None:
    try:
        tally.take(line)
    # Whatever a metric makes of a record that it did not write.
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"the journal's record of image {tally.done} is damaged.",
            where=str(journal.path) if journal else None,
            advice="Begin anew without --resume.",
        ) from error


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


def _look(
    sample: Sample[T],
    metric: Metric[T, Any],
    reference: OnnxRuntimeReference,
    name: str,
    fitted: Preprocessing,
    size: tuple[int, int],
) -> _Seen[T]:
    """Read one sample and ask the reference; runs in a thread."""
    begun = time.perf_counter()
    try:
        with room_for(sample.path):
            picture = read_image(sample.path)
            tensor = prepare(picture, fitted, *size)
            loaded = metric.load(sample.truth, picture.size)
            view = View.of(picture.size, fitted)
    except UserError as error:
        return _Seen(sample, reason=_reason(error, sample.path), decoding=time.perf_counter() - begun)
    decoded = time.perf_counter()
    expected = reference.run({name: tensor})
    return _Seen(
        sample,
        tensor=tensor,
        loaded=loaded,
        view=view,
        expected=expected,
        decoding=decoded - begun,
        reference=time.perf_counter() - decoded,
    )


def _grouped(ahead: Iterator[_Seen[T]], size: BatchSize) -> Iterator[list[_Seen[T]]]:
    """As many at once as the device should be given now."""
    while group := list(islice(ahead, size.now)):
        yield group


def _lines(
    group: list[_Seen[T]], loaded: LoadedModel, metric: Metric[T, Any], name: str, clock: _Clock, size: BatchSize
) -> list[Line]:
    """Ask the device about the readable ones, and judge; what came of each image."""
    readable = [{name: seen.tensor} for seen in group if seen.tensor is not None]
    answers = iter(_run(loaded, readable, clock, size))
    lines: list[Line] = []
    for seen in group:
        clock.decoding += seen.decoding
        if seen.reason is not None:
            lines.append({"unreadable": seen.reason})
            continue
        assert seen.view is not None
        begun = time.perf_counter()
        record = metric.judge(seen.loaded, seen.view, seen.expected, next(answers))
        clock.judging += time.perf_counter() - begun
        clock.reference += seen.reference
        clock.seen += 1
        lines.append({"record": record})
    return lines


def _run(loaded: LoadedModel, batch: Sequence[Tensors], clock: _Clock, size: BatchSize) -> Sequence[Outputs]:
    if not batch:
        return ()
    begun = time.perf_counter()
    # Its size is made for a second or so: all of it has the time of one.
    answers = loaded.run_batch(batch, timeout=RUN_TIMEOUT / len(batch))
    seconds = time.perf_counter() - begun
    clock.device += seconds
    size.took(len(batch), seconds)
    return answers


def _tile(seen: _Seen[T], loaded: LoadedModel, metric: Metric[T, Any], name: str) -> Tile:
    """Both executors once more: their outputs were not kept."""
    assert seen.tensor is not None
    assert seen.view is not None
    actual = loaded.run({name: seen.tensor}, timeout=RUN_TIMEOUT)
    picture = to_rgb(read_image(seen.sample.path))
    tile = metric.tile(picture, seen.loaded, seen.view, seen.expected, actual)
    return Tile(tile.picture, (seen.sample.name, *tile.lines))


def _threads(session: Session) -> int:
    cores = usable_cores()
    return max(1, min(_MOST_THREADS, cores // 2 if session.kind in _ON_THIS_MACHINE else cores))


def _rate(seconds: float, images: int, threads: int) -> Rate:
    speed = images * threads / seconds if images and seconds else None
    return Rate(seconds=seconds, threads=threads, images_per_second=speed)
