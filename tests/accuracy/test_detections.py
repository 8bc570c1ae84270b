"""Objects from boxes and scores, against ONNX Runtime's NonMaxSuppression."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgevit.accuracy.detections import detect, suppress
from edgevit.errors import UserError
from edgevit.model.metadata import AnchorLevel, Detection

Array = np.ndarray[Any, np.dtype[Any]]

ANCHORS = (AnchorLevel(height=1, width=1, sizes=((1, 1),)),)


def coding(**changes: Any) -> Detection:
    return Detection(anchors=ANCHORS, **changes)


def random_boxes(rng: np.random.Generator, count: int) -> Array:
    """Boxes that overlap a lot, some of them reaching out of the image."""
    centers, sizes = rng.uniform(0, 1, (count, 2)), rng.uniform(0.05, 0.6, (count, 2))
    return np.concatenate([centers - sizes / 2, centers + sizes / 2], axis=1).astype(np.float32)


def onnx_suppression(boxes: Array, scores: Array, iou: float, least: float) -> dict[int, list[int]]:
    """Indices that ONNX Runtime keeps of each class; boxes (1, N, 4), scores (1, classes, N)."""
    names = ["boxes", "scores", "max", "iou", "least"]
    node = helper.make_node("NonMaxSuppression", names, ["kept"])
    inputs = [
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, boxes.shape),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, scores.shape),
    ]
    constants = [
        helper.make_tensor("max", TensorProto.INT64, [1], [boxes.shape[1]]),
        helper.make_tensor("iou", TensorProto.FLOAT, [1], [iou]),
        helper.make_tensor("least", TensorProto.FLOAT, [1], [least]),
    ]
    kept = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    graph = helper.make_graph([node], "nms", inputs, [kept], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    result: dict[int, list[int]] = {}
    for _, label, index in np.asarray(session.run(None, {"boxes": boxes, "scores": scores})[0]):
        result.setdefault(int(label), []).append(int(index))
    return result


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_suppression_keeps_what_onnxruntime_keeps(seed: int, iou: float) -> None:
    rng = np.random.default_rng(seed)
    boxes, scores = random_boxes(rng, 300), rng.random(300, np.float32)
    want = onnx_suppression(boxes[None], scores[None, None], iou, 0.0)[0]
    assert suppress(boxes, scores, iou).tolist() == want
    assert 1 <= len(want) < 300


@pytest.mark.parametrize("background", [0, 2, None])
def test_objects_of_a_batch_are_those_of_onnxruntime(background: int | None) -> None:
    rng = np.random.default_rng(7)
    boxes = np.stack([random_boxes(rng, 120) for _ in range(2)])
    scores = rng.dirichlet([0.3] * 5, (2, 120)).astype(np.float32)
    settings = coding(background=background, score_threshold=0.25, iou_threshold=0.4, max_objects=1000, top_k=1000)
    for found, b, s in zip(detect(boxes, scores, settings), boxes, scores, strict=True):
        kept = onnx_suppression(b[None], s.T[None].copy(), 0.4, 0.25)
        pairs = [(s[i, c], c, i) for c, indices in kept.items() if c != background for i in indices]
        pairs.sort(reverse=True)
        assert found.classes.tolist() == [c for _, c, _ in pairs]
        np.testing.assert_array_equal(found.scores, [score for score, _, _ in pairs])
        np.testing.assert_array_equal(found.boxes, b[[i for _, _, i in pairs]].clip(0, 1))
        assert found.boxes.dtype == found.scores.dtype == np.float32
        assert found.classes.dtype == np.int64


def test_objects_of_an_ssdlite_head_are_those_of_onnxruntime() -> None:
    """Its own raw outputs on a picture: boxes and scores as ONNX Runtime computes them, then suppressed by both."""
    from edgevit.zoo.catalogue import build

    proto = build("mobilevit-xxs", task="det", image_size=96, classes=6)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    image = np.random.default_rng(4).random((1, 3, 96, 96), np.float32)
    boxes, scores = (np.asarray(out) for out in session.run(["boxes", "scores"], {"pixel_values": image}))
    settings = coding(score_threshold=0.18, iou_threshold=0.45, top_k=10_000, max_objects=10_000)
    [found] = detect(boxes, scores, settings)
    kept = onnx_suppression(boxes, scores.transpose(0, 2, 1).copy(), 0.45, 0.18)
    pairs = {(c, i) for c, indices in kept.items() if c != 0 for i in indices}
    assert len(found.scores) == len(pairs) > 50
    np.testing.assert_array_equal(np.sort(found.scores), np.sort([scores[0, i, c] for c, i in pairs]))
    ours = {(int(c), *box) for c, box in zip(found.classes, found.boxes.tolist(), strict=True)}
    assert ours == {(c, *boxes[0, i].clip(0, 1).tolist()) for c, i in pairs}


def test_the_surest_objects_of_all_classes_are_kept() -> None:
    rng = np.random.default_rng(3)
    boxes, scores = random_boxes(rng, 200)[None], rng.random((1, 200, 4), np.float32)
    [everything] = detect(boxes, scores, coding(max_objects=1000))
    [some] = detect(boxes, scores, coding(max_objects=7))
    assert len(everything.scores) > 7
    np.testing.assert_array_equal(some.boxes, everything.boxes[:7])
    np.testing.assert_array_equal(some.classes, everything.classes[:7])
    assert (np.diff(everything.scores) <= 0).all()


def test_candidates_of_a_class_are_limited_before_suppression() -> None:
    # The second box of class 1 would survive, but is not among the two surest: the third overlaps the first.
    boxes = np.asarray([[[0, 0, 0.5, 0.5], [0.6, 0.6, 1, 1], [0, 0, 0.5, 0.49]]], np.float32)
    scores = np.asarray([[[0, 0.9], [0, 0.3], [0, 0.8]]], np.float32)
    assert detect(boxes, scores, coding(top_k=2))[0].scores.tolist() == pytest.approx([0.9])
    assert detect(boxes, scores, coding(top_k=3))[0].scores.tolist() == pytest.approx([0.9, 0.3])


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.tile(np.asarray([0.1, 0.1, 0.4, 0.4], np.float32), (1, 2, 1))
    scores = np.asarray([[[0.0, 0.9, 0.2], [0.0, 0.1, 0.8]]], np.float32)
    [found] = detect(boxes, scores, coding(score_threshold=0.15))
    assert found.classes.tolist() == [1, 2]


def test_equal_scores_keep_the_order_of_the_outputs() -> None:
    boxes = np.asarray([[[0.5, 0.5, 1, 1], [0, 0, 0.4, 0.4]]], np.float32)
    scores = np.full((1, 2, 3), 0.5, np.float32)
    [found] = detect(boxes, scores, coding())
    assert found.classes.tolist() == [1, 2, 1, 2]
    np.testing.assert_array_equal(found.boxes[0], boxes[0, 0])


@pytest.mark.parametrize("count", [0, 5])
def test_nothing_is_found_where_nothing_scores(count: int) -> None:
    [found] = detect(np.zeros((1, count, 4), np.float32), np.zeros((1, count, 3), np.float32), coding())
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == found.classes.shape == (0,)


def test_boxes_without_area_do_not_overlap() -> None:
    boxes = np.asarray([[0.2, 0.2, 0.2, 0.2]] * 2, np.float32)
    assert suppress(boxes, np.asarray([0.4, 0.6], np.float32), 0.5).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("boxes", "scores"), [((1, 3, 4), (1, 2, 5)), ((1, 3, 5), (1, 3, 2)), ((3, 4), (3, 2)), ((2, 3, 4), (1, 3, 2))]
)
def test_outputs_that_do_not_belong_together_are_refused(boxes: tuple[int, ...], scores: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="no detector's outputs"):
        detect(np.zeros(boxes, np.float32), np.zeros(scores, np.float32), coding())
