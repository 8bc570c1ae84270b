"""The trained models that ship: what they recognise, by ONNX Runtime alone, and how the zoo gives them out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from edgevit.accuracy.detections import detect
from edgevit.accuracy.images import prepare
from edgevit.cli.zoo import zoo
from edgevit.data import CLASSES, Scene, scene
from edgevit.errors import UserError
from edgevit.zoo import embedded_model, make_trained
from edgevit.zoo.catalogue import Built
from edgevit.zoo.trained import PLANS, facts, weights_file

MOST_BYTES = 5_000_000


def _runner(built: Built) -> Callable[[Scene], list[Any]]:
    """Runs ONNX Runtime on a scene, prepared as the model says."""
    from PIL import Image

    session = onnxruntime.InferenceSession(built.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert built.about.preprocessing

    def run(one: Scene) -> list[Any]:
        tensor = prepare(Image.fromarray(one.image), built.about.preprocessing, *built.image_size)
        return list(session.run(None, {"pixel_values": tensor}))

    return run


def test_the_classifier_recognises_scenes_it_never_saw() -> None:
    built = make_trained("cls")
    run, count = _runner(built), 300
    scenes = [scene("cls", "test", index) for index in range(count)]
    right = sum(int(run(one)[0].argmax()) == one.label for one in scenes)
    # 97 to 98 % of many; three deviations of so few below that.
    assert 0.94 < right / count < 1
    assert built.about.labels == CLASSES


def test_the_detector_finds_objects(tmp_path: Path) -> None:
    built = make_trained("det")
    run, found = _runner(built), []
    known: dict[str, Any] = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": 1 + index, "name": name} for index, name in enumerate(CLASSES)],
    }
    assert built.about.detection
    for index in range(60):
        one = scene("det", "test", index)
        height, width = one.image.shape[:2]
        known["images"].append({"id": index, "height": height, "width": width, "file_name": str(index)})
        for box, kind in zip(one.boxes, one.classes, strict=True):
            left, top, right, bottom = (float(value) for value in box)
            number = 1 + len(known["annotations"])
            extent = [left, top, right - left, bottom - top]
            area = extent[2] * extent[3]
            entry = {"id": number, "image_id": index, "category_id": 1 + int(kind), "iscrowd": 0, "area": area}
            known["annotations"].append({**entry, "bbox": extent})
        boxes, scores = run(one)
        objects = detect(boxes, scores, built.about.detection)[0]
        scale = np.array([width, height, width, height])
        for box, score, kind in zip(objects.boxes * scale, objects.scores, objects.classes, strict=True):
            extent = [*map(float, box[:2]), *map(float, box[2:] - box[:2])]
            found.append({"image_id": index, "category_id": int(kind), "score": float(score), "bbox": extent})
    path = tmp_path / "known.json"
    path.write_text(json.dumps(known))
    truth = COCO(str(path))
    judged = COCOeval(truth, truth.loadRes(found), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[1] > 0.8


def test_the_segmenter_knows_pixels() -> None:
    built = make_trained("seg")
    run, classes = _runner(built), 1 + len(CLASSES)
    confusion = np.zeros((classes, classes), np.int64)
    for index in range(60):
        one = scene("seg", "test", index)
        cells = run(one)[0][0].argmax(0)
        # Every cell's class for the pixels that it covers: coarser than what the metric does.
        rows, columns = (np.arange(side) * cells.shape[axis] // side for axis, side in enumerate(one.mask.shape))
        np.add.at(confusion, (one.mask, cells[rows][:, columns]), 1)
    shared = np.diag(confusion)
    union = confusion.sum(0) + confusion.sum(1) - shared
    assert (shared / union).mean() > 0.6


@pytest.mark.parametrize("task", PLANS)
def test_the_files_are_small_and_say_where_they_are_from(task: str) -> None:
    known = facts(task)
    assert weights_file(task).stat().st_size < MOST_BYTES
    assert known.task == task
    assert known.labels[-len(CLASSES) :] == CLASSES
    assert len(known.labels) == len(CLASSES) + (task != "cls")
    assert known.checked_images >= 200
    assert all(0 < value < 100 for value in known.figures.values())


def test_the_embedded_model_is_the_classifier() -> None:
    assert embedded_model().SerializeToString() == make_trained().proto.SerializeToString()


def test_another_size_and_an_open_one() -> None:
    wide = make_trained("cls", image_size=(128, 192)).proto
    shape = [dim.dim_value for dim in wide.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [1, 3, 128, 192]
    onnx.checker.check_model(make_trained("seg", dynamic=True).proto)
    with pytest.raises(UserError, match="no trained weights"):
        make_trained("pose")


def test_the_command_writes_it_and_says_how_good_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "scenes.onnx"
    zoo("mobilevit-xxs", output=path, trained=True)
    top1 = facts("cls").figures["top1"]
    assert f"trained on drawn scenes at 128x128: top1 {top1:.1f} %" in capsys.readouterr().out
    assert path.read_bytes() == embedded_model().SerializeToString(deterministic=True)
    zoo("mobilevit-xxs", output=path, trained=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["trained"]["figures"]["top1"] == top1


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "mobilevit-xs"}, "no trained weights of mobilevit-xs"),
        ({"classes": 12}, "--classes and --trained contradict"),
        ({"seed": 1}, "--seed and --trained contradict"),
        ({"patches": "2,2,2"}, "--patches and --trained contradict"),
        ({"output": None}, "--trained without --output"),
    ],
)
def test_the_command_refuses_what_the_weights_settle(options: dict[str, Any], match: str, tmp_path: Path) -> None:
    given = {"name": "mobilevit-xxs", "output": tmp_path / "scenes.onnx", **options}
    with pytest.raises(UserError, match=match):
        zoo(trained=True, **given)
    assert not (tmp_path / "scenes.onnx").exists()
