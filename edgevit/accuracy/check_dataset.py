"""How accurate are an artifact and its reference on labelled images?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from pydantic import PositiveInt

from edgevit.accuracy.classification import ClassificationScores
from edgevit.accuracy.dataset import DataSet
from edgevit.accuracy.detection import DetectionScores
from edgevit.accuracy.evaluate import Pass, Progress, evaluate, image_input
from edgevit.accuracy.floors import FLOORS, Verdict
from edgevit.accuracy.journal import Journal, Key
from edgevit.accuracy.metric import Metric, Result, file_mark
from edgevit.accuracy.segmentation import SegmentationScores
from edgevit.accuracy.task_setup import Classes, set_up
from edgevit.errors import UserError
from edgevit.model.metadata import Detection, Metadata, Preprocessing, Task
from edgevit.model.metadata_labels import Labels, read_labels
from edgevit.model.metadata_sources import gather

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model

TASKS = {"cls": "classification", "det": "detection", "seg": "segmentation"}
"""Short names of tasks."""


class DatasetResult(Result):
    """What :func:`check_dataset` found.

    Attributes:
        dataset: its folder.
        task: what was judged.
        shape: of the artifact's input.
        classes: of the data set that are the model's.
        available: images the data set has; ``run.images`` of them were scored.
        ignored: files or entries that are no samples.
        notes: what else the data set holds, a sentence each.
        preprocessing: as applied, at the artifact's input size.
        preprocessing_from: who stated it.
        scores: of both executors.
        verdict: whether the artifact is accurate enough.
        run: the pass that gave them.
    """

    dataset: str
    task: Task
    shape: str
    classes: PositiveInt
    available: PositiveInt
    ignored: int
    notes: tuple[str, ...]
    preprocessing: Preprocessing
    preprocessing_from: str
    scores: ClassificationScores | DetectionScores | SegmentationScores
    verdict: Verdict
    run: Pass


@dataclass(frozen=True)
class Request:
    """How an artifact is judged by a data set; what is None, the artifact's metadata says.

    Attributes:
        folder: of the data set: a folder for each class; ``images`` and ``instances.json``; ``images`` and ``masks``.
        task: ``classification`` or ``cls``, ``detection`` or ``det``, ``segmentation`` or ``seg``.
        preprocess: how images are prepared, if the artifact does not say or is wrong.
        labels: a text file of the model's classes, if the artifact does not say.
        classes: whether COCO's categories are the model's classes by name or by order.
        limit: most images to run, from the beginning; None for all.
        floor: share of the reference's score that the artifact must reach; None for the task's.
        least: score that it must reach besides; None for any.
    """

    folder: Path
    task: str | None = None
    preprocess: str | Path | Preprocessing | None = None
    labels: Path | None = None
    classes: Classes = "name"
    limit: int | None = None
    floor: float | None = None
    least: float | None = None


@dataclass(frozen=True)
class DatasetCheck:
    """Everything that is settled before a device is asked; :meth:`run` does the rest.

    Attributes:
        artifact: at its selected resolution.
        request: what was asked for.
        task: classification, detection or segmentation.
        detection: how outputs become objects, if that is the task.
        data: the images, and their classes.
        metric: makes one for a pass.
        preprocessing: as stated.
        preprocessing_from: who stated it.
    """

    artifact: Artifact
    request: Request
    task: Task
    detection: Detection | None
    data: DataSet[Any]
    metric: Callable[[], Metric[Any, Any]]
    preprocessing: Preprocessing
    preprocessing_from: str

    def run(
        self,
        session: Session,
        model: Model,
        *,
        journal: Path | None = None,
        resume: bool = False,
        sheet: Path | None = None,
        progress: Progress | None = None,
    ) -> DatasetResult:
        """Run both executors over the images.

        Args:
            session: where the artifact runs.
            model: its source.
            journal: a file that remembers what is done, so that a run that was killed can be resumed.
            resume: go on where the journal ends; else begin anew.
            sheet: a PNG of the images on which the two differ most.
            progress: told how many images are done, and of how many.

        Raises:
            UserError, DeviceError: see :func:`~edgevit.accuracy.evaluate.evaluate` and
                :class:`~edgevit.accuracy.journal.Journal`.
        """
        metric = self.metric()
        with Journal(journal, self.key(session), resume=resume) if journal else nullcontext() as held:
            done = evaluate(
                self.artifact,
                session,
                model,
                self.data.samples[: self.request.limit],
                metric,
                self.preprocessing,
                journal=held,
                sheet=sheet,
                progress=progress,
            )
        scores = metric.result()
        _, height, width = image_input(self.artifact)
        floor = FLOORS[self.task] if self.request.floor is None else self.request.floor
        return DatasetResult(
            dataset=str(self.data.root),
            task=self.task,
            shape=self.artifact.resolution.text,
            classes=len(self.data.classes),
            available=len(self.data.samples),
            ignored=self.data.ignored,
            notes=self.data.notes,
            preprocessing=self.preprocessing.for_size(height, width),
            preprocessing_from=self.preprocessing_from,
            scores=scores,
            verdict=Verdict.judge(scores.score, floor=floor, least=self.request.least),
            run=done,
        )

    def key(self, session: Session) -> Key:
        """What the scores depend on: a journal of another key is of another check.

        Of images and masks that is name, size and time of change; of devices, whether it is an emulator.
        """
        import onnxruntime

        metric = self.metric()
        digest = hashlib.sha256()
        for sample in self.data.samples:
            for part in (
                sample.name.encode("utf-8", "surrogatepass"),
                file_mark(sample.path),
                metric.fingerprint(sample.truth),
            ):
                digest.update(len(part).to_bytes(8, "little") + part)
        return {
            "artifact": self.artifact.sha256,
            "resolution": self.artifact.resolution.text,
            "reference": f"{self.artifact.manifest.model.sha256} onnxruntime {onnxruntime.__version__}",
            "data set": digest.hexdigest(),
            "task": self.task,
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "detection": self.detection.model_dump(mode="json") if self.detection else None,
            "emulated": session.emulated,
        }


def plan_check(artifact: Artifact, request: Request) -> DatasetCheck:
    """Settle how an artifact is judged by a data set, without guessing.

    Raises:
        UserError: something is wrong, or not stated anywhere; says how to state it.
    """
    where = str(artifact.path) if artifact.path else None
    about, _ = gather(artifact.manifest.metadata, None, request.preprocess)
    task = _task(request.task or about.task or artifact.manifest.model.task, where)
    if about.preprocessing is None:
        raise UserError(
            "neither the artifact nor an option says how images are prepared, and a guess may cost accuracy.",
            where=where,
            advice="Give --preprocess mobilevit, imagenet, inception, a TOML file, or resize=288,crop=256,order=BGR.",
        )
    _, height, width = image_input(artifact)
    about.preprocessing.for_size(height, width)
    data, metric = set_up(
        task,
        request.folder,
        artifact.resolution.outputs,
        about,
        _labels(about, request.labels),
        classes=request.classes,
        where=where,
        labels_from=str(request.labels) if request.labels else where,
    )
    origin = "the artifact" if request.preprocess is None else f"--preprocess {request.preprocess}"
    if isinstance(request.preprocess, Preprocessing):
        origin = "the call"
    detection = about.detection if task == "detection" else None
    return DatasetCheck(artifact, request, task, detection, data, metric, about.preprocessing, origin)


def check_dataset(
    artifact: Artifact,
    session: Session,
    model: Model,
    request: Request,
    *,
    journal: Path | None = None,
    resume: bool = False,
    sheet: Path | None = None,
    progress: Progress | None = None,
) -> DatasetResult:
    """Accuracy of an artifact and of its reference on labelled images: :func:`plan_check`, then run."""
    plan = plan_check(artifact, request)
    return plan.run(session, model, journal=journal, resume=resume, sheet=sheet, progress=progress)


def _task(name: str, where: str | None) -> Task:
    for task in get_args(Task):
        if name == task or TASKS.get(name) == task:
            return cast("Task", task)
    raise UserError(
        f"data sets are for classification, detection and segmentation, and the task is {name}.",
        where=where,
        advice="If the model does one of them, say so with --task cls, --task det or --task seg.",
    )


def _labels(about: Metadata, path: Path | None) -> Labels | None:
    if path is not None:
        return read_labels(path)
    return _with_synsets(about.labels) if about.labels else None


def _with_synsets(names: tuple[str, ...]) -> Labels:
    """The labels; if they are those that edgevit itself gives ImageNet's classes, with their synsets."""
    from edgevit import zoo

    imagenet = read_labels(Path(zoo.__file__).parent / "labels" / "imagenet.txt")
    background = names[: -len(imagenet.names)]
    if imagenet.synsets and names == (*background, *imagenet.names):
        return Labels(names, (*background, *imagenet.synsets))
    return Labels(names)
