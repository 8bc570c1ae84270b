"""Segmentation: label maps against ONNX Runtime's Resize, counts against scikit-learn, and VOC-style data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from sklearn.metrics import confusion_matrix as sklearn_matrix
from sklearn.metrics import jaccard_score

from edgevit.accuracy import view as view_module
from edgevit.accuracy.check_dataset import Request, check_dataset
from edgevit.accuracy.dataset_masks import open_masks
from edgevit.accuracy.images import prepare
from edgevit.accuracy.segmentation import SegmentationMetric, SegmentationScores, confusion_matrix
from edgevit.accuracy.view import View
from edgevit.artifact import Artifact
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.model import Model
from edgevit.model.metadata import Preprocessing
from tests.accuracy.tiny_models import LABELS, broken, scene, segmenter_proto

Array = np.ndarray[Any, np.dtype[Any]]

PLAIN = Preprocessing(channel_order="RGB", scale=1.0)


def onnx_resize(scores: Array, height: int, width: int) -> Array:
    node = helper.make_node(
        "Resize", ["x", "", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode="half_pixel"
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, scores.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, scores.shape[1], height, width])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": scores})[0])


@pytest.mark.parametrize("block", [1 << 22, 300])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (375, 500), (7, 5), (8, 8), (33, 1)])
def test_label_maps_are_those_of_onnxruntimes_resize(
    height: int, width: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(view_module, "_BLOCK", block)
    scores = np.random.default_rng(height).standard_normal((1, 6, 8, 8)).astype(np.float32)
    ours = View((width, height), 0, 0, width, height).label_map(scores[0])
    wide = onnx_resize(scores, height, width)[0]
    best = np.sort(wide, axis=0)
    clear = best[-1] - best[-2] > 1e-4
    assert ours.shape == (height, width)
    assert np.array_equal(ours[clear], wide.argmax(0)[clear])
    assert clear.mean() > 0.99


def test_the_label_map_of_a_deeplab_head_is_that_of_onnxruntime() -> None:
    """Its own raw outputs, enlarged to a picture that has other proportions than the input."""
    from edgevit.zoo.catalogue import build

    proto = build("mobilevit-xxs", task="seg", image_size=96, classes=7)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(4).random((1, 3, 96, 96), np.float32)
    logits = np.asarray(session.run(["logits"], {"pixel_values": image})[0])
    wide = onnx_resize(logits, 123, 211)[0]
    best = np.sort(wide, axis=0)
    clear = best[-1] - best[-2] > 1e-4 * np.abs(wide).max()
    ours = View((211, 123), 0, 0, 211, 123).label_map(logits[0])
    assert np.array_equal(ours[clear], wide.argmax(0)[clear])
    assert clear.mean() > 0.99


def test_scores_that_are_no_numbers_are_no_answer() -> None:
    scores = np.zeros((3, 2, 2), np.float32)
    scores[1, 0, 0] = np.nan
    labels = View((4, 4), 0, 0, 4, 4).label_map(scores)
    assert labels[0, 0] == 3
    assert labels[3, 3] == 0


@pytest.mark.parametrize("size", [(96, 64), (100, 70), (67, 131)])
def test_the_view_is_what_resize_and_crop_left(size: tuple[int, int]) -> None:
    """A picture whose pixels say where they are, prepared, and asked where its middle rows and columns came from."""
    across, down = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    stated = PLAIN.model_copy(update={"resize": 40, "crop": 32})
    pixels = np.stack([across, down, down], axis=-1)
    tensor = prepare(Image.fromarray(pixels.astype(np.uint8)), stated, 32, 32)[0]
    seen = View.of(size, stated)
    places = (np.arange(32) + 0.5) / 32
    np.testing.assert_allclose(tensor[0, 16], seen.left + places * (seen.right - seen.left) - 0.5, atol=1.1)
    np.testing.assert_allclose(tensor[1, :, 16], seen.top + places * (seen.bottom - seen.top) - 0.5, atol=1.1)
    assert seen.rows.stop - seen.rows.start == pytest.approx(seen.bottom - seen.top, abs=1)


def test_without_a_crop_all_of_the_picture_is_seen() -> None:
    seen = View.of((333, 77), PLAIN.model_copy(update={"resize": (32, 32)}))
    assert (seen.rows, seen.columns) == (slice(0, 77), slice(0, 333))


def test_counts_are_scikit_learns() -> None:
    generator = np.random.default_rng(1)
    truth, said = generator.integers(0, 5, (2, 40, 50))
    ours = confusion_matrix(truth, said, 5)
    assert np.array_equal(ours[:, :5], sklearn_matrix(truth.ravel(), said.ravel(), labels=range(5)))
    assert not ours[:, 5].any()


def judged(
    metric: SegmentationMetric, truth: Array, expected: Array, actual: Array, *, classes: int = 5
) -> dict[str, Any]:
    """One image whose scores say exactly these label maps."""
    height, width = truth.shape
    outputs = [
        {"masks": (np.arange(classes)[:, None, None] == labels)[None].astype(np.float32)}
        for labels in (expected, actual)
    ]
    seen = View((width, height), 0, 0, width, height)
    record = json.loads(json.dumps(metric.judge(truth, seen, *outputs)))
    metric.add(None, record)  # type: ignore[arg-type]
    return record


def test_the_mean_is_that_of_scikit_learn() -> None:
    """Over all images together, of the classes that the masks show."""
    generator = np.random.default_rng(2)
    truths = generator.integers(0, 4, (6, 24, 20)).astype(np.uint8)
    truths[generator.random(truths.shape) < 0.1] = 255
    sides = [
        np.where(generator.random(truths.shape) < keep, truths, generator.integers(0, 5, truths.shape))
        for keep in (0.8, 0.6)
    ]
    sides = [np.where(side == 255, 4, side) for side in sides]
    metric = SegmentationMetric("masks", 5, list("abcde"))
    for truth, expected, actual in zip(truths, *sides, strict=True):
        judged(metric, truth, expected, actual)
    result = metric.result()
    counted = truths != 255
    for overlap, side in zip((result.reference, result.artifact), sides, strict=True):
        each = jaccard_score(truths[counted], side[counted], labels=range(4), average=None)
        assert overlap.miou.value == pytest.approx(each.mean(), rel=1e-12)
        assert overlap.pixel_accuracy == pytest.approx((truths == side)[counted].mean())
        assert overlap.miou.low is not None
        assert overlap.miou.high is not None
        assert overlap.miou.low < overlap.miou.value < overlap.miou.high
    assert [each.name for each in result.classes] == list("abcd")
    assert sum(each.count for each in result.classes) == counted.sum() == result.pixels
    assert result.agreement == pytest.approx((sides[0] == sides[1])[counted].mean())
    assert result.difference.high is not None
    assert result.difference.high < 0


def test_a_case_by_hand() -> None:
    """Class 0: 2 of 3 pixels in common, class 1: 1 of 2."""
    metric = SegmentationMetric("masks", 5)
    truth = np.array([[0, 0], [1, 255]], np.uint8)
    record = judged(metric, truth, np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]]))
    result = metric.result()
    assert result.reference.miou.value == 1
    assert result.artifact.miou.value == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert metric.disagreement(record) == pytest.approx(1 / 3)
    assert result.reference.miou.low is None


def test_the_example_of_mean_iou() -> None:
    """The three maps and the figures with which Hugging Face's metric of that name explains itself."""
    metric = SegmentationMetric("masks", 10)
    for truth, said in (
        ([[0, 3], [5, 4], [6, 255]], [[1, 2], [3, 4], [5, 255]]),
        ([[1, 7], [9, 2], [3, 6]], [[2, 7], [9, 2], [3, 6]]),
        ([[1, 2, 2], [8, 2, 1], [3, 255, 1]], [[2, 2, 3], [8, 2, 4], [3, 255, 2]]),
    ):
        judged(metric, np.array(truth, np.uint8), np.array(said), np.array(said), classes=10)
    result = metric.result()
    assert result.artifact.miou.value == pytest.approx(0.4775)
    assert result.artifact.pixel_accuracy == pytest.approx(0.5263157894736842)
    assert [each.artifact for each in result.classes] == pytest.approx([0, 0, 0.375, 0.4, 0.5, 0, 0.5, 1, 1, 1])


def test_masks_without_a_labelled_pixel() -> None:
    metric = SegmentationMetric("masks", 5)
    judged(metric, np.full((2, 2), 255, np.uint8), np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(UserError, match="no pixel of the masks is labelled"):
        metric.result()


# Data sets


def voc_folder(root: Path, scenes: int = 5, names: tuple[str, str] = ("images", "masks")) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
    for index in range(scenes):
        picture, _, mask = scene(index)
        picture.save(root / names[0] / f"{index}.png")
        image = _palette(mask) if index % 2 else Image.fromarray(mask)
        image.save(root / names[1] / f"{index}.png")
    return root


def _palette(mask: Array) -> Image.Image:
    image = Image.new("P", mask.shape[::-1])
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0, 128])
    image.putdata(mask.ravel().tolist())
    return image


@pytest.mark.parametrize("names", [("images", "masks"), ("JPEGImages", "SegmentationClass")])
def test_a_segmenter_that_is_right(
    segmenter: tuple[Artifact, Model], in_process: Session, tmp_path: Path, names: tuple[str, str]
) -> None:
    """Between two cells, interpolation blurs the border: all but those pixels are right."""
    result = check_dataset(segmenter[0], in_process, segmenter[1], Request(voc_folder(tmp_path / "data", 5, names)))
    assert isinstance(result.scores, SegmentationScores)
    assert result.scores.reference.pixel_accuracy > 0.95
    assert result.scores.artifact.miou.value == pytest.approx(result.scores.reference.miou.value, abs=1e-3)
    assert result.scores.pixels == 5 * 96 * 64
    assert result.verdict.passed
    assert result.verdict.floor == 0.96


def test_a_segmenter_that_sees_too_much_background(
    segmenter: tuple[Artifact, Model], in_process: Session, tmp_path: Path
) -> None:
    wrong = broken(segmenter_proto(bias=4), segmenter[0], tmp_path / "wrong.edgevit")
    data = voc_folder(tmp_path / "data")
    sheet = tmp_path / "sheet.png"
    result = check_dataset(wrong, in_process, segmenter[1], Request(data), sheet=sheet)
    assert isinstance(result.scores, SegmentationScores)
    assert result.verdict.failures[0].startswith("mIoU is 0.")
    assert result.scores.difference.high is not None
    assert result.scores.difference.high < 0
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_masks_that_are_left_out_and_named(
    segmenter: tuple[Artifact, Model], in_process: Session, tmp_path: Path
) -> None:
    data = voc_folder(tmp_path / "data", 7)
    (data / "masks" / "0.png").unlink()
    Image.new("L", (10, 10)).save(data / "masks" / "1.png")
    Image.new("RGB", (96, 64)).save(data / "masks" / "2.png")
    Image.new("L", (96, 64), 17).save(data / "masks" / "3.png")
    (data / "masks" / "4.png").write_bytes((data / "masks" / "4.png").read_bytes()[:40])
    Image.fromarray(np.full((64, 96), 1000, np.uint16)).save(data / "masks" / "5.png")
    Image.new("L", (96, 64)).save(data / "masks" / "alone.png")
    result = check_dataset(segmenter[0], in_process, segmenter[1], Request(data))
    reasons = {image.name: image.reason for image in result.run.unreadable}
    assert "the mask has 10x10 pixels, the image 64x96" in reasons["1.png"]
    assert "mode 'RGB'" in reasons["2.png"]
    assert "the mask holds 17, which are no classes of the model and have no name in classes.txt" in reasons["3.png"]
    assert "cannot read the image" in reasons["4.png"]
    assert "mode 'I;16'" in reasons["5.png"]
    assert result.run.images == 1
    assert result.notes == ("images without a mask, left out: 1", "masks without an image, left out: 1")


def test_values_may_have_names(tmp_path: Path) -> None:
    data = voc_folder(tmp_path / "data", 1)
    (data / "classes.txt").write_text("sky\nGreen\nred\n3 blue\n")
    opened = open_masks(data, classes=4, labels=LABELS)
    assert opened.classes == {"Green": 2, "red": 1, "blue": 3}
    assert opened.notes == ("classes that are no label of the model, not counted: 'sky'",)
    mask = scene(0)[2]
    assert np.array_equal(opened.samples[0].truth.read(), np.array([255, 2, 1, 3])[mask])
    with pytest.raises(UserError, match="nothing says what the model's classes are called"):
        open_masks(data, classes=4, labels=None)
    with pytest.raises(UserError, match="none of its names is a label"):
        open_masks(data, classes=2, labels=("cat", "dog"))


def test_folders_that_are_no_masks(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder images or JPEGImages"):
        open_masks(tmp_path, classes=4, labels=LABELS)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match="no image has a mask"):
        open_masks(tmp_path, classes=4, labels=LABELS)
    with pytest.raises(UserError, match="the model has 300 classes"):
        open_masks(tmp_path, classes=300, labels=None)


def test_masks_of_coco(segmenter: tuple[Artifact, Model], in_process: Session, coco128: Path, tmp_path: Path) -> None:
    """A model that knows three colours, on photographs whose masks have numbers of COCO's own."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("images", "masks"):
        (data / name).symlink_to(coco128 / name)
    names = [f"{index} class {index}" for index in range(255)]
    names[:4] = ["0 background", "1 red", "2 green", "3 blue"]
    (data / "classes.txt").write_text("\n".join(names))
    result = check_dataset(segmenter[0], in_process, segmenter[1], Request(data, limit=20))
    assert isinstance(result.scores, SegmentationScores)
    assert result.run.images == 20
    assert result.run.unreadable == ()
    assert result.scores.agreement > 0.999
