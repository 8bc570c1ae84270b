"""The options of ``edgevit check --dataset``."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.accuracy.check_dataset import Request

Dataset = Annotated[
    Path | None,
    typer.Option(
        "--dataset",
        help="Judge by labelled images instead of random inputs: a folder for each class; images/ and instances.json "
        "(COCO); images/ and masks/ (VOC).",
    ),
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="With --dataset: cls, det or seg, if the model does not say.")
]
LabelFile = Annotated[
    Path | None,
    typer.Option("--labels", help="With --dataset: the model's classes, one a line: name, or synset and name."),
]
ClassesBy = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="name|order",
        help="With --dataset: COCO's categories are the model's classes by name (default) or by order.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="With --dataset: at most so many images; of folders, all classes alike."),
]
Shape = Annotated[
    str | None,
    typer.Option("--shape", help="With --dataset: which of the artifact's input shapes; default: the first."),
]
Floor = Annotated[
    float | None,
    typer.Option(
        "--floor",
        min=0,
        help="With --dataset: exit 1 if the artifact's score is under this share of the reference's; default: 0.98 "
        "for top-1, 0.95 for mAP, 0.96 for mIoU.",
    ),
]
MinTop1 = Annotated[
    float | None,
    typer.Option("--min-top1", min=0, max=1, help="With --dataset: exit 1 under this share, such as 0.685."),
]
MinMap = Annotated[
    float | None, typer.Option("--min-map", min=0, max=1, help="With --dataset: exit 1 if mAP is under this.")
]
MinMiou = Annotated[
    float | None, typer.Option("--min-miou", min=0, max=1, help="With --dataset: exit 1 if mIoU is under this.")
]
ContactSheet = Annotated[
    Path | None,
    typer.Option("--contact-sheet", help="With --dataset: a PNG of the images on which the two differ most."),
]
JournalFile = Annotated[
    Path | None,
    typer.Option(
        "--journal", help="With --dataset: where to note what is done; default: edgevit's cache, until the end."
    ),
]
Resume = Annotated[
    bool | None, typer.Option("--resume", help="With --dataset: go on where a run that was stopped ended.")
]


@dataclass(frozen=True)
class DatasetOptions:
    """The options as given."""

    dataset: Path | None
    preprocess: str | None
    task: str | None
    labels: Path | None
    classes: str | None
    limit: int | None
    shape: str | None
    floor: float | None
    min_top1: float | None
    min_map: float | None
    min_miou: float | None
    contact_sheet: Path | None
    journal: Path | None
    resume: bool | None

    def refuse_stray(self) -> None:
        """Refuse options that mean nothing without a data set.

        Raises:
            UserError: one was given.
        """
        from edgevit.errors import UserError

        for field in fields(self):
            if getattr(self, field.name) is not None:
                raise UserError(
                    f"--{field.name.replace('_', '-')} needs --dataset.", advice="Name the data set's folder."
                )

    def request(self) -> Request:
        """What the check is asked for, but for the least score, which depends on the task.

        Raises:
            UserError: ``--classes`` is neither name nor order.
        """
        from edgevit.accuracy.check_dataset import Request
        from edgevit.errors import UserError

        assert self.dataset is not None
        if self.classes not in (None, "name", "order"):
            raise UserError(
                f"classes cannot be found by {self.classes!r}.", advice="Give --classes name or --classes order."
            )
        return Request(
            folder=self.dataset,
            task=self.task,
            preprocess=self.preprocess,
            labels=self.labels,
            classes="order" if self.classes == "order" else "name",
            limit=self.limit,
            floor=self.floor,
        )

    def least(self, task: str) -> float | None:
        """The absolute floor of the task's score.

        Raises:
            UserError: one of another score was given.
        """
        from edgevit.errors import UserError

        floors = {"classification": "min_top1", "detection": "min_map", "segmentation": "min_miou"}
        for other, name in floors.items():
            if other != task and getattr(self, name) is not None:
                raise UserError(
                    f"--{name.replace('_', '-')} is for {other}, and the task is {task}.",
                    advice=f"Give --{floors[task].replace('_', '-')}.",
                )
        floor: float | None = getattr(self, floors[task])
        return floor
