"""The models of the zoo by name, built for a task, with what they say of themselves stored in the file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import UserError
from edgevit.zoo.arguments import ImageSize

if TYPE_CHECKING:
    import onnx

    from edgevit.model.metadata import Metadata

Patches = tuple[int, int, int]
Builder = Callable[..., "onnx.ModelProto"]


@dataclass(frozen=True)
class Task:
    """What a model is published for.

    Attributes:
        image_size: height and width of the input in pixels.
        classes: the background counted where the head has one.
    """

    image_size: int
    classes: int


@dataclass(frozen=True)
class Entry:
    """A model of the zoo.

    Attributes:
        name: in the catalogue.
        title: as its authors call it.
        architecture: module of the zoo that builds it.
        variant: what that module calls it.
        tasks: by name: ``cls``, ``det``, ``seg``.
        patches: whether their size can be chosen.
        dynamic: whether the image size can be left open, by its architecture.
    """

    name: str
    title: str
    architecture: str
    variant: str
    tasks: Mapping[str, Task]
    patches: bool = False
    dynamic: bool = True


_MOBILEVIT_TASKS = {"cls": Task(256, 1000), "det": Task(320, 81), "seg": Task(512, 21)}
_ENTRIES = (
    *(
        Entry(f"mobilevit-{variant}", f"MobileViT-{variant.upper()}", "mobilevit", variant, _MOBILEVIT_TASKS, True)
        for variant in ("xxs", "xs", "s")
    ),
    *(
        Entry(f"mobilevitv2-{width}", f"MobileViTv2-{width}", "mobilevit_v2", width, {"cls": Task(256, 1000)})
        for width in ("0.5", "0.75", "1.0", "1.25", "1.5", "1.75", "2.0")
    ),
    Entry("mobilenetv2", "MobileNetV2 1.0", "mobilenet_v2", "1.0", {"cls": Task(224, 1000)}),
    # Positions are a parameter of the image size.
    Entry("deit-tiny", "DeiT-tiny", "deit", "tiny", {"cls": Task(224, 1000)}, dynamic=False),
    Entry("pit-ti", "PiT-Ti", "pit", "ti", {"cls": Task(224, 1000)}, dynamic=False),
)
CATALOGUE: Mapping[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every model, by name."""


@dataclass(frozen=True)
class Built:
    """A model as :func:`make` returns it.

    Attributes:
        proto: the model, with its metadata.
        entry: what it is.
        task: ``cls``, ``det`` or ``seg``.
        image_size: height and width of the input in pixels; of a model of open size, those it was built at.
        classes: the background counted where the head has one.
        patches: as they were given.
        dynamic: whether the image size is open.
        about: the metadata.
        source: whose names the weights had; None for seeded ones.
    """

    proto: onnx.ModelProto
    entry: Entry
    task: str
    image_size: tuple[int, int]
    classes: int
    patches: Patches | None
    dynamic: bool
    about: Metadata
    source: str | None

    @property
    def is_published(self) -> bool:
        """Whether it has the size, the classes and the patches that the papers' figures are of."""
        task = self.entry.tasks[self.task]
        same_size = self.image_size == (task.image_size, task.image_size)
        return same_size and self.classes == task.classes and self.patches in (None, (2, 2, 2))


def find(name: str) -> Entry:
    """The model of that name.

    Raises:
        UserError: there is none; the advice names the nearest.
    """
    if name in CATALOGUE:
        return CATALOGUE[name]
    near = difflib.get_close_matches(name.lower(), CATALOGUE, n=3, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    raise UserError(f"there is no model {name!r} in the zoo.", advice=f"{meant}'edgevit zoo' lists all.")


def build(
    name: str,
    *,
    task: str = "cls",
    image_size: ImageSize | None = None,
    classes: int | None = None,
    patches: Patches | None = None,
    seed: int = 0,
    dynamic: bool = False,
    weights: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> onnx.ModelProto:
    """A model of the zoo as ONNX, with its metadata.

    Args:
        name: a key of :data:`CATALOGUE`.
        task: ``cls``, classification; ``det``, detection; ``seg``, segmentation.
        image_size: pixels of a square, or height and width; None for the published one.
        classes: number of classes, the background counted where there is one; None for those of ``weights``, else the
            published number.
        patches: side of MobileViT's patches at output strides 8, 16 and 32; None for 2, 2, 2.
        seed: seed of the weights, where none are given.
        dynamic: leave height and width of the input open.
        weights: file of trained weights, as :func:`edgevit.zoo.weights.read_tensors` reads them.
        labels: names of the classes; None for those of ImageNet, COCO or Pascal VOC where the number fits.

    Returns:
        A checked model with input ``pixel_values`` (1, 3, height, width), float32. Outputs are ``logits``, or for
        ``det`` ``boxes`` and ``scores``; the architectures' modules say more. The same arguments give the same bytes.

    Raises:
        UserError: there is no such model, it has no such task, or an argument makes no model.
        ModelError: the weights are not the model's.
    """
    built = make(
        name,
        task=task,
        image_size=image_size,
        classes=classes,
        patches=patches,
        seed=seed,
        dynamic=dynamic,
        weights=weights,
        labels=labels,
    )
    return built.proto


def make(
    name: str,
    *,
    task: str = "cls",
    image_size: ImageSize | None = None,
    classes: int | None = None,
    patches: Patches | None = None,
    seed: int = 0,
    dynamic: bool = False,
    weights: str | Path | None = None,
    labels: Sequence[str] | None = None,
) -> Built:
    """As :func:`build`, with what the arguments left open."""
    from edgevit.model.metadata import attach
    from edgevit.zoo.about import about

    entry = find(name)
    published = _task(entry, task)
    options = _options(entry, task, patches, dynamic=dynamic)
    size = published.image_size if image_size is None else image_size
    extents = (size, size) if isinstance(size, int) else (size[0], size[1])
    tensors: Mapping[str, Any] | None = None
    if weights is not None:
        from edgevit.zoo.weights import builder_options, read_tensors

        tensors = read_tensors(weights)
        options |= builder_options(tensors, architecture=entry.architecture, where=str(weights))
    options["classes"] = classes if classes is not None else options.get("classes", published.classes)
    proto = _builder(entry)(image_size=extents, seed=seed, **options)
    source = _import(proto, tensors, weights)
    names = _labels(labels, options["classes"])
    said = about(entry.architecture, task, extents, options["classes"], source=source, labels=names)
    attach(proto, said)
    return Built(proto, entry, task, extents, options["classes"], patches, dynamic, said, source)


def _task(entry: Entry, task: str) -> Task:
    if task not in entry.tasks:
        heads = [name for name, other in CATALOGUE.items() if task in other.tasks]
        advice = f"Choose from {', '.join(entry.tasks)}."
        if heads:
            advice = f"{', '.join(heads)} have it."
        raise UserError(f"{entry.name} has no task {task!r}.", advice=advice)
    return entry.tasks[task]


def _options(entry: Entry, task: str, patches: Patches | None, *, dynamic: bool) -> dict[str, Any]:
    """What the architecture's builder takes beside image size, classes and seed."""
    options: dict[str, Any] = {}
    if entry.architecture == "mobilevit":
        options["task"] = task
    if patches is not None:
        if not entry.patches:
            raise UserError(f"the patches of {entry.name} are fixed.", advice="Only MobileViT's can be chosen.")
        options["patches"] = patches
    if dynamic:
        if not entry.dynamic:
            raise UserError(
                f"the image size of {entry.name} cannot be left open: its positions belong to one size.",
                advice="Build one model for each size.",
            )
        options["dynamic"] = True
    return options


def _builder(entry: Entry) -> Builder:
    """The function of the entry's module, its variant given."""
    from functools import partial

    if entry.architecture == "mobilevit":
        from edgevit.zoo.mobilevit import build_mobilevit

        return partial(build_mobilevit, entry.variant)
    if entry.architecture == "mobilevit_v2":
        from edgevit.zoo.mobilevit_v2 import build_mobilevit_v2

        return partial(build_mobilevit_v2, float(entry.variant))
    if entry.architecture == "mobilenet_v2":
        from edgevit.zoo.mobilenet_v2 import build_mobilenet_v2

        return partial(build_mobilenet_v2, width=float(entry.variant))
    if entry.architecture == "deit":
        from edgevit.zoo.deit import build_deit

        return partial(build_deit, entry.variant)
    from edgevit.zoo.pit import build_pit

    return partial(build_pit, entry.variant)


def _import(proto: onnx.ModelProto, tensors: Mapping[str, Any] | None, path: str | Path | None) -> str | None:
    """Replace the parameters; whose names they had."""
    if tensors is None:
        return None
    from edgevit.zoo.weights import import_weights

    return import_weights(proto, tensors, where=str(path)).source


def _labels(labels: Sequence[str] | None, classes: int) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if len(labels) != classes:
        raise UserError(
            f"there are {len(labels)} labels for {classes} classes.",
            advice="Give one for each class, the background's first where there is one.",
        )
    return tuple(labels)
