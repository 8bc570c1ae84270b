"""MobileViT's heads for detection and segmentation: published figures, layouts, box coding, open sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import scipy.special

from edgevit.errors import UserError
from edgevit.model import describe, from_proto
from edgevit.model.metadata import AnchorLevel
from edgevit.zoo import ssd
from edgevit.zoo.mobilevit import VARIANTS, build_mobilevit

Array = np.ndarray[Any, np.dtype[Any]]

PUBLISHED = {
    "det": {"xxs": 1.7e6, "xs": 2.7e6, "s": 5.7e6},
    "seg": {"xxs": 1.9e6, "xs": 2.9e6, "s": 6.4e6},
}

PUBLIC_SEGMENTATION = {"xxs": 1_854_853, "xs": 2_944_069, "s": 6_357_941}
"""Parameters of transformers' MobileViTForSemanticSegmentation at output stride 16, 21 classes."""

ANCHORS_PER_CELL = (6, 6, 6, 6, 6, 4)


def run(proto: onnx.ModelProto, x: Array, *outputs: str) -> list[Array]:
    """Outputs of the model, then the named values inside it."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"pixel_values": x})]


def images(height: int, width: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((1, 3, height, width), np.float32)


def parameters(proto: onnx.ModelProto) -> int:
    """What training adjusts: no running statistics, no anchors."""
    return sum(math.prod(t.dims) for t in proto.graph.initializer if t.name.endswith((".weight", ".bias")))


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", PUBLISHED)
def test_published_parameters(task: str, variant: str) -> None:
    published = PUBLISHED[task][variant]
    # Published to one decimal, so known to 0.05 million.
    assert parameters(build_mobilevit(variant, task=task)) == pytest.approx(published, abs=0.05e6 + 0.02 * published)


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_many_parameters_as_a_public_segmentation(variant: str) -> None:
    assert parameters(build_mobilevit(variant, task="seg")) == PUBLIC_SEGMENTATION[variant]


@pytest.mark.parametrize("variant", VARIANTS)
def test_multiply_accumulates_of_the_detector(variant: str) -> None:
    classifier = describe(from_proto(build_mobilevit(variant, image_size=320, classes=1))).macs
    detector = describe(from_proto(build_mobilevit(variant, task="det"))).macs
    middle, last = VARIANTS[variant].channels[3:]
    cells = [400, 100, 25, 9, 4, 1]
    inputs = [512, 256, 256, 128, 128, 64]
    heads = sum(n * c * 85 * a for n, c, a in zip(cells, inputs, ANCHORS_PER_CELL, strict=True))
    windows = sum(9 * n * c for n, c in zip(cells[:5], inputs[:5], strict=True))
    projections = 400 * middle * 512 + 100 * last * 256
    extras = 25 * last * (9 + 256) + 9 * 256 * (9 + 128) + 4 * 128 * (9 + 128) + 128 * 64
    dropped = 100 * last * 4 * last + 4 * last
    assert detector - classifier == heads + windows + projections + extras - dropped


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("task", PUBLISHED)
def test_outputs_are_finite_and_loading_keeps_them(task: str, variant: str) -> None:
    proto = build_mobilevit(variant, task=task, image_size=128)
    loaded = from_proto(proto)
    for value, same in zip(run(proto, images(128, 128)), run(loaded.proto, images(128, 128)), strict=True):
        assert np.isfinite(value).all()
        assert value.std() > 0
        np.testing.assert_allclose(same, value, atol=1e-5 * np.abs(value).max())
    report = describe(loaded)
    assert report.compilable
    assert report.task == {"det": "detection", "seg": "segmentation"}[task]


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_backbone_has_the_same_weights_under_every_head(task: str) -> None:
    def backbone(proto: onnx.ModelProto) -> dict[str, bytes]:
        return {t.name: t.raw_data for t in proto.graph.initializer if t.name.startswith(("stem", "stage"))}

    weights, classification = (
        {name: data for name, data in backbone(build_mobilevit("xxs", task=t)).items() if not name.endswith(".shape")}
        for t in (task, "cls")
    )
    assert weights == classification


@pytest.mark.parametrize(("height", "width", "cells"), [(512, 512, (32, 32)), (100, 200, (7, 13)), (32, 48, (2, 3))])
def test_segmentation_has_a_cell_every_16_pixels(height: int, width: int, cells: tuple[int, int]) -> None:
    proto = build_mobilevit("xxs", task="seg", image_size=(height, width), classes=5)
    assert run(proto, images(height, width))[0].shape == (1, 5, *cells)


def test_segmentation_looks_6_12_and_18_cells_away() -> None:
    reach = {}
    for node in build_mobilevit("xxs", task="seg").graph.node:
        fields = {field.name: onnx.helper.get_attribute_value(field) for field in node.attribute}
        if fields.get("dilations", [1, 1]) != [1, 1]:
            reach[node.name] = (fields["dilations"], fields["pads"], fields["group"])
    assert reach == {f"seg.aspp.rate{rate}.conv": ([rate] * 2, [rate] * 4, 1) for rate in (6, 12, 18)}


def test_every_cell_gets_what_the_whole_image_shows() -> None:
    proto = build_mobilevit("xxs", task="seg", image_size=(96, 160))
    _, pooled, spread = run(proto, images(96, 160), "seg.aspp.pool.relu", "seg.aspp.pool.grow")
    assert pooled.shape == (1, 256, 1, 1)
    np.testing.assert_allclose(spread, np.broadcast_to(pooled, (1, 256, 6, 10)), rtol=1e-6)


def test_anchors_at_the_published_size() -> None:
    levels = ssd.anchors((320, 320))
    assert [(level.height, level.width) for level in levels] == [(n, n) for n in (20, 10, 5, 3, 2, 1)]
    assert tuple(len(level.sizes) for level in levels) == ANCHORS_PER_CELL
    assert sum(level.height * level.width * len(level.sizes) for level in levels) == 3232
    scales = [0.1 + 0.95 * index / 6 for index in range(7)]
    for level, small, large in zip(levels, scales[:-1], scales[1:], strict=True):
        square = math.sqrt(small * large)
        wide = [(small * r**0.5, small / r**0.5) for r in (2, 3)[: (len(level.sizes) - 2) // 2]]
        want = [(small, small), (square, square)]
        for w, h in wide:
            want += [(w, h), (h, w)]
        np.testing.assert_allclose(level.sizes, np.minimum(want, 1), rtol=1e-12)


def test_anchors_of_any_size() -> None:
    levels = ssd.anchors((200, 330))
    assert [(n.height, n.width) for n in levels] == [(13, 21), (7, 11), (4, 6), (2, 3), (1, 2), (1, 1)]
    boxes, scores = run(build_mobilevit("xxs", task="det", image_size=(200, 330), classes=3), images(200, 330))
    count = len(ssd.anchor_boxes(levels))
    assert boxes.shape == (1, count, 4)
    assert scores.shape == (1, count, 3)


def test_anchors_go_row_by_row_and_boxes_within_a_cell_last() -> None:
    level = AnchorLevel(height=2, width=3, sizes=((0.1, 0.2), (0.3, 0.4)))
    boxes = ssd.anchor_boxes([level])
    assert boxes.shape == (12, 4)
    np.testing.assert_allclose(boxes[1], (0.5 / 3, 0.25, 0.3, 0.4))
    np.testing.assert_allclose(boxes[2], (1.5 / 3, 0.25, 0.1, 0.2))
    np.testing.assert_allclose(boxes[11], (2.5 / 3, 0.75, 0.3, 0.4))


def test_predictions_follow_the_order_of_the_anchors() -> None:
    levels = ssd.anchors((320, 320))
    names = [f"det.head{level.name}.predict" for level in ssd.LEVELS]
    *_, raw, a, b, c, d, e, f = run(build_mobilevit("xxs", task="det"), images(320, 320), "det.concat", *names)
    maps = [
        m[0].reshape(len(level.sizes), 85, level.height * level.width)
        for m, level in zip((a, b, c, d, e, f), levels, strict=True)
    ]
    start = 0
    for level, values in zip(levels, maps, strict=True):
        for cell in (0, level.height * level.width - 1):
            for box in range(len(level.sizes)):
                np.testing.assert_array_equal(raw[0, start + cell * len(level.sizes) + box], values[box, :, cell])
        start += level.height * level.width * len(level.sizes)
    assert start == raw.shape[1]


def test_boxes_and_scores_are_decoded_predictions() -> None:
    size = (160, 320)
    proto = build_mobilevit("xs", task="det", image_size=size)
    boxes, scores, raw = run(proto, images(*size), "det.concat")
    raw = raw.astype(np.float64)
    want = []
    index = 0
    for level in ssd.anchors(size):
        for cell in range(level.height * level.width):
            y, x = divmod(cell, level.width)
            for w, h in level.sizes:
                tx, ty, tw, th = raw[0, index, :4]
                cx, cy = (x + 0.5) / level.width + 0.1 * tx * w, (y + 0.5) / level.height + 0.1 * ty * h
                bw, bh = w * math.exp(0.2 * tw), h * math.exp(0.2 * th)
                want.append((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2))
                index += 1
    np.testing.assert_allclose(boxes[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, scipy.special.softmax(raw[..., 4:], axis=-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [(160, 160), (256, 256), (224, 320), (100, 36)])
def test_segmentation_of_open_size(size: tuple[int, int]) -> None:
    static = build_mobilevit("xxs", task="seg", image_size=size)
    want = run(static, images(*size))[0]
    proto = build_mobilevit("xxs", task="seg", dynamic=True)
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in shape] == [1, 21, "logits_height", "logits_width"]
    np.testing.assert_allclose(run(proto, images(*size))[0], want, atol=1e-5 * np.abs(want).max())
    loaded = from_proto(proto, shapes=(1, 3, *size))
    assert loaded.outputs[0].shape == want.shape
    np.testing.assert_allclose(run(loaded.proto, images(*size))[0], want, atol=1e-5 * np.abs(want).max())
    assert not set(operators(loaded.proto)) - set(operators(from_proto(static).proto))


def test_refusals() -> None:
    with pytest.raises(UserError, match="anchors belong to one size"):
        build_mobilevit("xxs", task="det", dynamic=True)
    with pytest.raises(UserError, match="1 classes make no detector"):
        build_mobilevit("xxs", task="det", classes=1)
    with pytest.raises(UserError, match="0 classes make no segmentation"):
        build_mobilevit("xxs", task="seg", classes=0)
    with pytest.raises(UserError, match="no task 'pose'"):
        build_mobilevit("xxs", task="pose")
    with pytest.raises(UserError, match="too small"):
        build_mobilevit("xxs", task="det", image_size=(320, 31))
