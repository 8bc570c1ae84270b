"""Measure what trained models recognise, before and after compiling: ``python docs/recognition.py``.

Prints Markdown: the accuracy of the models that ship, of others where their data are given, on this machine and under
QEMU; then how a planted fault shows. Every artifact is judged over RPC by ``edgevit check --dataset``'s own code.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgevit.accuracy.check_dataset import DatasetResult
    from edgevit.artifact import Artifact
    from edgevit.model import Model
    from edgevit.zoo.catalogue import Built

HEADER = (
    "| model | data | where | images | figure | ONNX Runtime | artifact | artifact's 95 % interval | differs |\n"
    "|---|---|---|---:|---|---:|---:|---|---|"
)
FAULTS = (
    "| weights | top-1 | of the reference's | floor of 98 % | right only: reference, artifact | McNemar's p |\n"
    "|---|---:|---:|---|---|---:|"
)
BOARD = "arm64-linux"


@dataclass(frozen=True)
class Case:
    """A model, and labelled images for it.

    Attributes:
        name: of the model.
        data: what the images are, in words.
        build: the model.
        folder: of the images.
        classes: how COCO's categories are matched.
    """

    name: str
    data: str
    build: Callable[[], Built]
    folder: Path
    classes: str = "name"


def main(
    images: Annotated[int, typer.Option(min=1, help="Scenes of each task on this machine.")] = 600,
    board_images: Annotated[int, typer.Option(min=0, help="Images of each case under QEMU; 0 for none.")] = 48,
    flowers: Annotated[Path | None, typer.Option(help="Photographs, a folder for each class.")] = None,
    flower_weights: Annotated[Path, typer.Option(help="Of the classifier of photographs.")] = Path(__file__).parents[1]
    / "recipes"
    / "trained"
    / "flowers.safetensors",
    coco: Annotated[Path | None, typer.Option(help="images, instances.json and masks of COCO.")] = None,
    bits: Annotated[str, typer.Option(help="Of the rounded weights, joined by commas.")] = "6,5,4,3,2",
) -> None:
    """A table of accuracies, and a table of planted faults."""
    with tempfile.TemporaryDirectory(prefix="edgevit-recognition-") as temporary:
        folder = Path(temporary)
        print(HEADER, flush=True)
        cases = [*_scenes(folder, images), *_photographs(flowers, flower_weights), *_coco(coco, folder)]
        for case in cases:
            model = _load(case.build(), folder / f"{case.name}.onnx")
            for target, limit in (("host", None), (BOARD, board_images)):
                if limit == 0:
                    continue
                for row in _rows(case, _judge(case, model, target, limit), target):
                    print(row, flush=True)
        print("\n" + FAULTS, flush=True)
        for row in _faults(cases[0], [int(each) for each in bits.split(",")], folder):
            print(row, flush=True)


def _scenes(folder: Path, images: int) -> Iterator[Case]:
    """The models that ship, on scenes that their training never saw."""
    from functools import partial

    from edgevit.data import write
    from edgevit.zoo.trained import PLANS, make_trained

    for task, name in PLANS.items():
        data = folder / f"{name}-test"
        write(data, task, "test", images)
        yield Case(name, "drawn scenes, test", partial(make_trained, task), data)


def _photographs(folder: Path | None, weights: Path) -> Iterator[Case]:
    if folder is None:
        return
    from functools import partial

    from edgevit.zoo.catalogue import make

    facts = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    options: dict[str, Any] = {"image_size": facts["image_size"], "weights": weights, "labels": facts["labels"]}
    yield Case("flowers", "flower photographs, val", partial(make, facts["model"], **options), folder)


def _coco(folder: Path | None, aside: Path) -> Iterator[Case]:
    """Models with random weights: they find nothing, and every step of the way is taken."""
    if folder is None:
        return
    from functools import partial

    from edgevit.zoo.catalogue import make

    yield Case("det, untrained", "128 photographs of COCO", partial(make, "mobilevit-xxs", task="det"), folder)
    masks = aside / "coco-masks"
    masks.mkdir()
    for name in ("images", "masks"):
        (masks / name).symlink_to((folder / name).resolve())
    # The masks have numbers of their own; the model knows the first of them.
    names = [f"value {index}" for index in range(255)]
    (masks / "classes.txt").write_text("\n".join(names), encoding="utf-8")
    options = {"task": "seg", "classes": 81, "labels": names[:81], "image_size": 320}
    yield Case("seg, untrained", "masks of COCO", partial(make, "mobilevit-xxs", **options), masks)


def _load(built: Built, path: Path) -> Model:
    import edgevit

    path.write_bytes(built.proto.SerializeToString())
    return edgevit.load(path)


def _judge(case: Case, model: Model, target: str, limit: int | None) -> DatasetResult:
    import edgevit

    return _on(case, model, edgevit.compile(model, target, verify=False), target, limit)


def _on(case: Case, model: Model, artifact: Artifact, target: str, limit: int | None) -> DatasetResult:
    import edgevit
    from edgevit.accuracy.check_dataset import Request, check_dataset
    from edgevit.targets import get_target

    request = Request(case.folder, limit=limit, floor=0, classes=case.classes)
    session = edgevit.connect() if target == "host" else edgevit.connect(emulate=get_target(target))
    with session:
        return check_dataset(artifact, session, model, request)


def _rows(case: Case, result: DatasetResult, target: str) -> Iterator[str]:
    """One for each figure of the task."""
    where = "this machine" if target == "host" else f"{target}, QEMU"
    for figure, reference, artifact, low, high, difference in _figures(result):
        interval = f"{100 * low:.1f} – {100 * high:.1f}" if low is not None and high is not None else "–"
        yield (
            f"| {case.name} | {case.data} | {where} | {result.run.images} | {figure} | {100 * reference:.2f} "
            f"| {100 * artifact:.2f} | {interval} | {difference} |"
        )


Figure = tuple[str, float, float, float | None, float | None, str]
"""Name; the reference's, the artifact's; the artifact's interval; how they differ."""


def _figures(result: DatasetResult) -> Iterator[Figure]:
    from edgevit.accuracy.classification import ClassificationScores
    from edgevit.accuracy.detection import DetectionScores

    scores = result.scores
    both = (scores.reference, scores.artifact)
    if isinstance(scores, ClassificationScores):
        ours = scores.artifact.top1
        differing = scores.agreement.of - scores.agreement.count
        yield "top-1", scores.reference.top1.value, ours.value, ours.low, ours.high, f"{differing} images"
        return
    names = (("mAP", "map"), ("mAP@50", "map50")) if isinstance(scores, DetectionScores) else (("mIoU", "miou"),)
    for name, field in names:
        theirs, own = (getattr(side, field) for side in both)
        yield name, theirs.value, own.value, own.low, own.high, f"{100 * (own.value - theirs.value):+.3f} points"


def _faults(case: Case, bits: Sequence[int], folder: Path) -> Iterator[str]:
    """Artifacts whose weights were rounded on the way, judged as if they had been compiled from the right model."""
    import edgevit
    from edgevit.accuracy.classification import ClassificationScores
    from edgevit.accuracy.floors import FLOORS

    model = _load(case.build(), folder / "right.onnx")
    right = edgevit.compile(model, "host", verify=False)
    artifacts = {"as they are": right}
    artifacts |= {f"rounded to {each} bits": _rounded(case.build(), each, right, folder) for each in bits}
    for name, artifact in artifacts.items():
        scores = _on(case, model, artifact, "host", None).scores
        assert isinstance(scores, ClassificationScores)
        kept = scores.score.artifact / scores.score.reference
        test = scores.difference
        verdict = "passed" if kept >= FLOORS["classification"] else "failed"
        yield (
            f"| {name} | {scores.score.artifact:.1%} | {kept:.1%} | {verdict} "
            f"| {test.reference_only}, {test.artifact_only} | {test.p_value:.2g} |"
        )


def _rounded(built: Built, bits: int, right: Artifact, folder: Path) -> Artifact:
    """The artifact of the model with rounded weights, which says that it is the right one's."""
    from onnx import numpy_helper

    import edgevit

    for tensor in built.proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(round_to(array, bits), tensor.name))
    other = edgevit.compile(_load(built, folder / "rounded.onnx"), "host", verify=False)
    return replace(other, manifest=other.manifest.model_copy(update={"model": right.manifest.model}))


def round_to(array: NDArray[np.generic], bits: int) -> NDArray[np.generic]:
    """The nearest multiples of a step that is each output channel's own, symmetric around zero."""
    import numpy as np

    axes = tuple(range(1, array.ndim))
    step = np.abs(array).max(axes, keepdims=True) / (2 ** (bits - 1) - 1)
    step = np.where(step > 0, step, 1)
    result: NDArray[np.generic] = (np.round(array / step) * step).astype(array.dtype)
    return result


if __name__ == "__main__":
    typer.run(main)
