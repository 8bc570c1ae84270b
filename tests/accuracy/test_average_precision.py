"""Detection: pycocotools' own figures, hand-made cases, and what data sets in COCO's format may hold."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgevit.accuracy.average_precision import Curve, Found, curve, summary, weighted_precision
from edgevit.accuracy.check_dataset import Request, check_dataset
from edgevit.accuracy.dataset_coco import Boxes, open_coco
from edgevit.accuracy.detection import DetectionMetric, DetectionScores
from edgevit.accuracy.view import View
from edgevit.artifact import Artifact
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.model import Model
from tests.accuracy.tiny_models import LABELS, about, broken, detector_proto, scene

Array = np.ndarray[Any, np.dtype[Any]]


def drawn(seed: int, images: int = 40, classes: int = 3, *, ties: bool = True) -> tuple[list[Boxes], list[Found]]:
    """Objects of all sizes, some of them crowds, and detections that are near some of them."""
    generator = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        count = int(generator.integers(0, 6))
        corners = np.concatenate([generator.uniform(0, 300, (count, 2)), generator.uniform(8, 200, (count, 2))], axis=1)
        kinds = generator.integers(0, classes, count)
        crowds = generator.random(count) < 0.15
        truths.append(Boxes(None, corners, kinds, corners[:, 2] * corners[:, 3] * 0.8, crowds))
        near = np.repeat(corners, 3, axis=0) + generator.normal(0, 12, (3 * count, 4))
        stray = generator.uniform(5, 200, (int(generator.integers(0, 8)), 4))
        places = np.concatenate([near, stray]).clip(min=1)
        scores = generator.random(len(places))
        if ties:
            scores = np.ceil(scores * 12) / 12
        found.append(
            Found(places, scores, np.concatenate([np.repeat(kinds, 3), generator.integers(0, classes, len(stray))]))
        )
    return truths, found


def at_one_go(truths: list[Boxes], found: list[Found], classes: int) -> list[float]:
    """The twelve figures as pycocotools' users get them, over all classes together."""
    images = [{"id": place, "width": 500, "height": 500} for place in range(len(truths))]
    real = [
        {"image_id": place, "category_id": int(kind), "bbox": box.tolist(), "area": float(area), "iscrowd": int(crowd)}
        for place, there in enumerate(truths)
        for box, kind, area, crowd in zip(there.corners, there.classes, there.areas, there.crowds, strict=True)
    ]
    said = [
        {"image_id": place, "category_id": int(kind), "bbox": box.tolist(), "score": float(score)}
        for place, seen in enumerate(found)
        for box, score, kind in zip(seen.corners, seen.scores, seen.classes, strict=True)
    ]
    held = COCO()
    held.dataset = {
        "images": images,
        "categories": [{"id": index} for index in range(classes)],
        "annotations": [{"id": number, **entry} for number, entry in enumerate(real, 1)],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        held.createIndex()
        judge = COCOeval(held, held.loadRes(said), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return [float(value) for value in judge.stats]


def curves(truths: list[Boxes], found: list[Found], classes: int) -> dict[int, Curve]:
    return {index: curve(truths, found, index) for index in range(classes)}


@pytest.mark.parametrize("seed", range(3))
def test_class_by_class_gives_what_pycocotools_gives_at_one_go(seed: int) -> None:
    truths, found = drawn(seed)
    stats = at_one_go(truths, found, 3)
    figures = summary(curves(truths, found, 3))
    ours = [figures[name] for name in ("map", "map50", "map75", "small", "medium", "large", "recall")]
    np.testing.assert_allclose(ours, [*stats[:6], stats[8]], rtol=1e-12)
    assert 0.05 < stats[0] < 0.95


@pytest.mark.parametrize("seed", range(3))
def test_weights_of_one_give_the_same_figures_and_weights_repeat_images(seed: int) -> None:
    truths, found = drawn(seed, images=15, ties=False)
    weights = np.random.default_rng(seed).integers(0, 3, (4, 15))
    for index, one in curves(truths, found, 3).items():
        whole = weighted_precision(one, np.ones((1, 15), np.int64))[0]
        np.testing.assert_allclose(whole, one.precision[:, 0], rtol=1e-12)
        drawn_again = weighted_precision(one, weights)
        for row, values in zip(weights, drawn_again, strict=True):
            order = np.repeat(np.arange(15), row)
            again = curve([truths[place] for place in order], [found[place] for place in order], index)
            np.testing.assert_allclose(values, again.precision[:, 0], rtol=1e-9)


def boxes(*rows: tuple[float, float, float, float], kinds: list[int] | None = None) -> Boxes:
    corners = np.array(rows, np.float64).reshape(-1, 4)
    count = len(corners)
    return Boxes(None, corners, np.array(kinds or [1] * count), corners[:, 2] * corners[:, 3], np.zeros(count, bool))


def seen(*rows: tuple[float, float, float, float], scores: list[float]) -> Found:
    return Found(np.array(rows, np.float64).reshape(-1, 4), np.array(scores), np.ones(len(scores), np.int64))


def test_a_case_by_hand() -> None:
    """Right, wrong, right: precision 1 up to recall 1/2, 2/3 up to recall 1; 51 and 50 of the 101 recalls."""
    truths = [boxes((0, 0, 10, 10), (50, 50, 10, 10))]
    found = [seen((0, 0, 10, 10), (80, 80, 10, 10), (50, 50, 10, 10), scores=[0.9, 0.8, 0.7])]
    figures = summary({1: curve(truths, found, 1)})
    assert figures["map50"] == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert figures["recall"] == 1
    assert figures["medium"] is None


def test_overlap_decides_at_which_thresholds_a_box_counts() -> None:
    """Shifted by a quarter: intersection 75 of a union of 125 is 0.6."""
    one = curve([boxes((0, 0, 10, 10))], [seen((2.5, 0, 10, 10), scores=[0.5])], 1)
    assert one.precision[:, 0].tolist() == pytest.approx([1.0] * 3 + [0.0] * 7)


def test_the_example_of_torchmetrics() -> None:
    """One box of 348 x 244 pixels, shifted by 44: the figures with which TorchMetrics explains its mAP."""
    figures = summary({1: curve([boxes((214, 41, 348, 244))], [seen((258, 41, 348, 244), scores=[0.536])], 1)})
    assert [figures[name] for name in ("map", "map50", "map75", "large")] == pytest.approx([0.6, 1, 1, 0.6])
    assert figures["small"] is figures["medium"] is None


def test_nothing_found_and_nothing_there() -> None:
    assert curve([boxes((0, 0, 9, 9))], [seen(scores=[])], 1).precision[:, 0].max() == 0
    nothing = curve([boxes()], [seen((0, 0, 9, 9), scores=[0.5])], 1)
    assert (nothing.precision == -1).all()
    assert np.isnan(weighted_precision(nothing, np.ones((1, 1), np.int64))).all()


# From outputs to objects


def test_boxes_go_back_to_the_pictures_pixels() -> None:
    """With a crop in the middle, shares of the input are shares of the part that was cut out."""
    coding = about("detection").detection
    assert coding
    metric = DetectionMetric(("boxes", "scores"), coding, LABELS)
    outputs = {
        "boxes": np.array([[[0, 0, 0.5, 1], [np.nan, 0, 1, 1]]], np.float32),
        "scores": np.array([[[0, 0.9, 0.1, 0], [0, 0.1, 0.8, 0]]], np.float32),
    }
    stated = about("detection").preprocessing
    assert stated
    cropped = stated.model_copy(update={"resize": 64, "crop": 32})
    truth = Boxes((200, 100), np.array([[75.0, 25, 25, 50]]), np.array([1]), np.array([1250.0]), np.array([False]))
    record = metric.judge(metric.load(truth, (200, 100)), View.of((200, 100), cropped), outputs, outputs)
    metric.add(truth, json.loads(json.dumps(record)))
    result = metric.result()
    # The box is exact; the one that is no number counts for neither.
    assert result.reference.map.value == result.artifact.map.value == pytest.approx(1)
    assert metric.disagreement(record) == 0
    with pytest.raises(UserError, match="the image has 200x100 pixels, its annotations say 100x200"):
        metric.load(truth, (100, 200))


# Data sets


def coco_folder(root: Path, scenes: int = 6, **changes: Any) -> Path:
    (root / "images").mkdir(parents=True)
    content: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        # Neither in the model's order nor with its numbers.
        "categories": [{"id": 30, "name": "Blue"}, {"id": 7, "name": "red"}, {"id": 9, "name": "green"}],
    }
    numbers = {1: 7, 2: 9, 3: 30}
    for index in range(scenes):
        picture, objects, _ = scene(index)
        picture.save(root / "images" / f"{index}.png")
        content["images"].append({"id": 100 + index, "file_name": f"{index}.png", "width": 96, "height": 64})
        for kind, box in objects:
            entry = {"id": len(content["annotations"]), "image_id": 100 + index, "category_id": numbers[kind]}
            content["annotations"].append({**entry, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    (root / "instances.json").write_text(json.dumps({**content, **changes}))
    return root


def test_a_detector_that_is_right(detector: tuple[Artifact, Model], in_process: Session, tmp_path: Path) -> None:
    result = check_dataset(detector[0], in_process, detector[1], Request(coco_folder(tmp_path / "data")))
    assert isinstance(result.scores, DetectionScores)
    assert result.scores.reference.map.value > 0.99
    assert result.scores.objects == 24
    assert {each.name: each.count for each in result.scores.classes}.keys() == {"red", "green", "blue"}
    assert result.verdict.passed
    assert result.scores.difference.value == 0


def test_a_detector_whose_boxes_are_off(detector: tuple[Artifact, Model], in_process: Session, tmp_path: Path) -> None:
    """A quarter of a cell along both axes: overlap 0.39."""
    wrong = broken(detector_proto(shift=0.25), detector[0], tmp_path / "wrong.edgevit")
    sheet = tmp_path / "sheet.png"
    data = coco_folder(tmp_path / "data")
    result = check_dataset(wrong, in_process, detector[1], Request(data), sheet=sheet)
    assert isinstance(result.scores, DetectionScores)
    assert result.scores.artifact.map50.value < 0.1
    assert result.scores.difference.high is not None
    assert result.scores.difference.high < -0.5
    assert result.verdict.failures[0].startswith("mAP is 0.0")
    with Image.open(sheet) as image:
        assert image.width > 3 * 100


@pytest.mark.parametrize("where", ["folder", "file", "published"])
def test_where_the_images_are(tmp_path: Path, where: str) -> None:
    data = path = coco_folder(tmp_path / "data", 2)
    if where == "file":
        path = data / "instances.json"
    elif where == "published":
        (data / "annotations").mkdir()
        path = (data / "instances.json").rename(data / "annotations" / "instances_val2017.json")
        (data / "images").rename(data / "val2017")
    opened = open_coco(path, labels=LABELS, classes=4, background=0)
    assert all(sample.path.is_file() for sample in opened.samples)
    assert opened.classes == {"Blue": 3, "red": 1, "green": 2}
    assert opened.samples[0].truth.classes.tolist() == [kind for kind, _ in scene(0)[1]]


def test_categories_by_order(tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "data", 2)
    opened = open_coco(data, labels=None, classes=4, background=0, by_order=True)
    assert opened.classes == {"red": 1, "green": 2, "Blue": 3}
    with pytest.raises(UserError, match="3 categories, and the model 4 classes beside the background"):
        open_coco(data, labels=None, classes=5, background=0, by_order=True)


def test_categories_the_model_does_not_know_are_left_out_and_named(tmp_path: Path) -> None:
    data = coco_folder(tmp_path / "data", 4)
    opened = open_coco(data, labels=("none", "red", "green", "sky"), classes=4, background=0)
    assert opened.classes == {"red": 1, "green": 2}
    assert opened.notes[0].startswith("categories that are no label of the model, left out with ")
    assert "'Blue'" in opened.notes[0]
    with pytest.raises(UserError, match="none of its categories is a label of the model"):
        open_coco(data, labels=("none", "sky"), classes=2, background=0)
    with pytest.raises(UserError, match=r"nothing says what the model's classes are called.*--classes order"):
        open_coco(data, labels=None, classes=4, background=0)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"annotations": None}, "no list 'annotations'"),
        ({"images": []}, "names no images"),
        ({"images": [{"id": 100}]}, "no file_name"),
        ({"images": [{"id": "a", "file_name": "a.png"}]}, "no number 'id'"),
        ({"annotations": [{"id": 1, "image_id": 100, "category_id": 7, "bbox": [1, 2, 3]}]}, "no box of four numbers"),
        ({"annotations": [{"id": 1, "image_id": 100, "category_id": 7, "bbox": [1, 2, 3, "4"]}]}, "no box of four"),
    ],
)
def test_what_is_not_coco(tmp_path: Path, changes: dict[str, Any], found: str) -> None:
    data = coco_folder(tmp_path / "data", 1, **changes)
    with pytest.raises(UserError, match=found):
        open_coco(data, labels=LABELS, classes=4, background=0)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"instances\.json: cannot read the annotations"):
        open_coco(tmp_path, labels=LABELS, classes=4, background=0)
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        open_coco(tmp_path, labels=LABELS, classes=4, background=0)


def test_strays_and_missing_images_are_counted(
    detector: tuple[Artifact, Model], in_process: Session, tmp_path: Path
) -> None:
    data = coco_folder(tmp_path / "data")
    content = json.loads((data / "instances.json").read_text())
    content["annotations"] += [
        {"id": 900, "image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1]},
        {"id": 901, "image_id": 100, "category_id": 8, "bbox": [0, 0, 1, 1]},
    ]
    (data / "instances.json").write_text(json.dumps(content))
    (data / "images" / "1.png").unlink()
    Image.new("RGB", (50, 50)).save(data / "images" / "2.png")
    result = check_dataset(detector[0], in_process, detector[1], Request(data))
    assert result.notes == ("annotations of no image or category, left out: 2",)
    reasons = {image.name: image.reason for image in result.run.unreadable}
    assert "No such file" in reasons["1.png"]
    assert "annotations say 64x96" in reasons["2.png"]
    assert result.run.images == 4


def test_photographs_of_coco(coco128: Path, in_process: Session, tmp_path: Path) -> None:
    """A detector with seeded weights finds nothing, in 80 classes; reference and artifact agree on that."""
    from edgevit.compiler.compile import compile_model
    from edgevit.model import load
    from edgevit.zoo.catalogue import build

    path = tmp_path / "detector.onnx"
    path.write_bytes(build("mobilevit-xxs", task="det", image_size=64).SerializeToString())
    model = load(path)
    artifact = compile_model(model, "host", verify=False)
    # Its scores are all near 1/81.
    result = check_dataset(artifact, in_process, model, Request(coco128, limit=16))
    assert isinstance(result.scores, DetectionScores)
    assert (result.classes, result.available, result.run.images) == (80, 128, 16)
    assert result.scores.reference.map.value < 0.05
    assert abs(result.scores.difference.value) < 0.01
