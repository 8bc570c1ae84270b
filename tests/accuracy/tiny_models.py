"""Models of a few weights that see colours: a classifier, a detector and a segmenter, right by construction."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.model import Model, load
from edgevit.model.metadata import AnchorLevel, Detection, Metadata, Preprocessing, attach

Array = np.ndarray[Any, np.dtype[Any]]

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
LABELS = ("background", *COLOURS)
SIDE = 32
CELLS = 8
EXACT = Preprocessing(channel_order="RGB", resize=(SIDE, SIDE))
"""Pixels of 0 to 1, the whole picture squeezed into the input."""

_WEIGHTS = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], np.float32) * 12
_BIAS = np.array([6, 0, 0, 0], np.float32)
"""Black is background, a channel over one half its colour."""


def detector_proto(shift: float = 0.0) -> onnx.ModelProto:
    """A box of a cell's size wherever a cell of 8 x 8 is coloured, moved by ``shift`` cells."""
    rows, columns = np.indices((CELLS, CELLS)).reshape(2, -1)
    corner = np.stack([columns, rows], axis=1) + shift
    grid = np.concatenate([corner, corner + 1], axis=1)[None] / CELLS
    nodes = [
        *_scores(),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
        helper.make_node("MatMul", ["cells", "nothing"], ["still"]),
        helper.make_node("Add", ["still", "grid"], ["boxes"]),
    ]
    weights = {"grid": grid.astype(np.float32), "nothing": np.full((3, 4), 1e-7, np.float32)}
    return _model("detector", nodes, {"boxes": [1, CELLS**2, 4], "scores": [1, CELLS**2, 4]}, weights)


def segmenter_proto(bias: float = 0.0) -> onnx.ModelProto:
    """Logits (1, 4, 8, 8): a colour wherever a cell is coloured; ``bias`` is added to the background's."""
    nodes = [
        *_scores(),
        helper.make_node("Transpose", ["logits"], ["first"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["first", "map"], ["masks"]),
    ]
    weights = {"map": np.array([1, 4, CELLS, CELLS], np.int64)}
    return _model("segmenter", nodes, {"masks": [1, 4, CELLS, CELLS]}, weights, bias)


def classifier_proto(noise: float = 0.0) -> onnx.ModelProto:
    """Logits (1, 4) of the whole picture's mean colour; ``noise`` is the deviation of what is added to its weights."""
    drawn = np.random.default_rng(5).standard_normal(_WEIGHTS.shape).astype(np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]
    return _model("classifier", nodes, {"logits": [1, 4]}, {"matrix": _WEIGHTS + noise * drawn})


def about(task: str) -> Metadata:
    coding = Detection(anchors=(AnchorLevel(height=CELLS, width=CELLS, sizes=((1 / CELLS,) * 2,)),))
    detection = coding if task == "detection" else None
    return Metadata(task=task, labels=LABELS, preprocessing=EXACT, detection=detection)  # type: ignore[arg-type]


def saved(proto: onnx.ModelProto, task: str, folder: Path) -> tuple[Artifact, Model]:
    """The model and its artifact for this machine, as files."""
    attach(proto, about(task))
    path = folder / f"{proto.graph.name}.onnx"
    path.write_bytes(proto.SerializeToString())
    model = load(path)
    return compile_model(model, "host", verify=False).save(path.with_suffix(".edgevit")), model


def broken(proto: onnx.ModelProto, right: Artifact, path: Path) -> Artifact:
    """The artifact of a model of other weights that says it was compiled from the right one's."""
    attach(proto, right.manifest.metadata)
    aside = path.with_suffix(".onnx")
    aside.write_bytes(proto.SerializeToString())
    other = compile_model(load(aside), "host", verify=False)
    aside.unlink()
    manifest = other.manifest.model_copy(update={"model": right.manifest.model})
    return replace(other, manifest=manifest).save(path)


def scene(seed: int, size: tuple[int, int] = (96, 64)) -> tuple[Image.Image, list[tuple[int, list[float]]], Array]:
    """A black picture with squares of one cell: the picture, classes and boxes in pixels, and the mask."""
    generator = np.random.default_rng(seed)
    wide, high = size[0] // CELLS, size[1] // CELLS
    picture, mask = Image.new("RGB", size), np.zeros((size[1], size[0]), np.uint8)
    objects = []
    for place in generator.permutation(CELLS**2)[:4]:
        row, column, kind = place // CELLS, place % CELLS, int(generator.integers(1, 4))
        left, top = int(column * wide), int(row * high)
        picture.paste(COLOURS[LABELS[kind]], (left, top, left + wide, top + high))
        mask[top : top + high, left : left + wide] = kind
        objects.append((kind, [float(left), float(top), float(wide), float(high)]))
    return picture, objects, mask


def _scores() -> list[onnx.NodeProto]:
    """Logits (1, 64, 4) of the cells."""
    return [
        helper.make_node("AveragePool", ["image"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["pooled", "rows"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["cells"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["cells", "matrix"], ["products"]),
        helper.make_node("Add", ["products", "bias"], ["logits"]),
    ]


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    outputs: dict[str, list[int]],
    weights: dict[str, Array],
    bias: float = 0.0,
) -> onnx.ModelProto:
    own = {"matrix": _WEIGHTS, "bias": _BIAS + np.array([bias, 0, 0, 0], np.float32)}
    constants = {**own, "rows": np.array([1, 3, CELLS**2], np.int64), **weights}
    used = {text for node in nodes for text in node.input}
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()],
        [numpy_helper.from_array(value, key) for key, value in constants.items() if key in used],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
