"""How accurate are an artifact and its reference on labelled images?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from edgevit.accuracy.classification import ClassificationMetric, ClassificationScores
from edgevit.accuracy.dataset import ClassFolders, open_class_folders
from edgevit.accuracy.evaluate import Pass, evaluate, image_input
from edgevit.errors import UserError
from edgevit.model.metadata import Metadata, Preprocessing
from edgevit.model.metadata_labels import Labels, check_label_count, class_count, read_labels
from edgevit.model.metadata_sources import gather

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.device.session import Session
    from edgevit.model import Model

TASKS = {"cls": "classification", "det": "detection", "seg": "segmentation"}
"""Short names of tasks."""


class DatasetResult(BaseModel):
    """What :func:`check_dataset` found.

    Attributes:
        dataset: its folder.
        task: what was judged.
        shape: of the artifact's input.
        classes: folders, each a class.
        available: images the data set has; ``run.images`` of them were scored.
        ignored: files that are no images.
        preprocessing: as applied, at the artifact's input size.
        preprocessing_from: who stated it.
        scores: of both executors.
        run: the pass that gave them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    task: Literal["classification"]
    shape: str
    classes: PositiveInt
    available: PositiveInt
    ignored: int
    preprocessing: Preprocessing
    preprocessing_from: str
    scores: ClassificationScores
    run: Pass


@dataclass(frozen=True)
class DatasetCheck:
    """Everything that is settled before a device is asked; :meth:`run` does the rest.

    Attributes:
        artifact: at its selected resolution.
        data: the images, and their classes.
        limit: how many of them to run, from the beginning; None for all.
        output: name of the output that holds a score for each class.
        classes: how many the model knows.
        preprocessing: as stated.
        preprocessing_from: who stated it.
    """

    artifact: Artifact
    data: ClassFolders
    limit: int | None
    output: str
    classes: int
    preprocessing: Preprocessing
    preprocessing_from: str

    def run(self, session: Session, model: Model, *, progress: Callable[[float], None] | None = None) -> DatasetResult:
        """Run both executors over the images; see :func:`~edgevit.accuracy.evaluate.evaluate` for what it raises."""
        metric = ClassificationMetric(self.output, self.classes)
        samples = self.data.samples[: self.limit]
        done = evaluate(self.artifact, session, model, samples, metric, self.preprocessing, progress=progress)
        _, height, width = image_input(self.artifact)
        return DatasetResult(
            dataset=str(self.data.root),
            task="classification",
            shape=self.artifact.resolution.text,
            classes=len(self.data.classes),
            available=len(self.data.samples),
            ignored=self.data.ignored,
            preprocessing=self.preprocessing.for_size(height, width),
            preprocessing_from=self.preprocessing_from,
            scores=metric.result(),
            run=done,
        )


def plan_check(
    artifact: Artifact,
    folder: Path,
    *,
    task: str | None = None,
    preprocess: str | Path | Preprocessing | None = None,
    labels: Path | None = None,
    limit: int | None = None,
) -> DatasetCheck:
    """Settle how an artifact is judged by a data set, without guessing.

    Args:
        artifact: what to check; its metadata says what the arguments leave open.
        folder: of the data set: one folder a class.
        task: ``classification`` or ``cls``, if the artifact does not say.
        preprocess: how images are prepared, if the artifact does not say or is wrong.
        labels: a text file of the model's classes, if the artifact does not say.
        limit: most images to run; None for all.

    Raises:
        UserError: something is wrong, or not stated anywhere; says how to state it.
    """
    where = str(artifact.path) if artifact.path else None
    about, _ = gather(artifact.manifest.metadata, None, preprocess)
    _refuse_other_tasks(task or about.task or artifact.manifest.model.task, where)
    if about.preprocessing is None:
        raise UserError(
            "neither the artifact nor an option says how images are prepared, and a guess may cost accuracy.",
            where=where,
            advice="Give --preprocess mobilevit, imagenet, inception, a TOML file, or resize=288,crop=256,order=BGR.",
        )
    _, height, width = image_input(artifact)
    about.preprocessing.for_size(height, width)
    outputs = artifact.resolution.outputs
    counted = class_count(outputs, "classification")
    if counted is None:
        raise UserError(
            "it has no output, or several, with one score for each class.",
            where=where,
            advice="A classifier has one output of shape 1xC.",
        )
    known = _labels(about, labels)
    if known:
        check_label_count(known.names, outputs, "classification", where=str(labels) if labels else where)
    data = open_class_folders(folder, classes=counted[1], labels=known)
    origin = "the artifact" if preprocess is None else f"--preprocess {preprocess}"
    if isinstance(preprocess, Preprocessing):
        origin = "the call"
    return DatasetCheck(artifact, data, limit, *counted, about.preprocessing, origin)


def check_dataset(
    artifact: Artifact,
    session: Session,
    model: Model,
    folder: Path,
    *,
    task: str | None = None,
    preprocess: str | Path | Preprocessing | None = None,
    labels: Path | None = None,
    limit: int | None = None,
    progress: Callable[[float], None] | None = None,
) -> DatasetResult:
    """Accuracy of an artifact and of its reference on labelled images: :func:`plan_check`, then run."""
    plan = plan_check(artifact, folder, task=task, preprocess=preprocess, labels=labels, limit=limit)
    return plan.run(session, model, progress=progress)


def _refuse_other_tasks(task: str, where: str | None) -> None:
    if TASKS.get(task, task) != "classification":
        raise UserError(
            f"data sets are for classification, and the task is {task}.",
            where=where,
            advice="If the model classifies images, say so with --task cls.",
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
