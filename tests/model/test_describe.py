"""Figures of the report against ones computed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_graphs import conv_model, model, node, value

from edgevit.model import ModelReport, describe, from_proto, load


def report(proto: onnx.ModelProto) -> ModelReport:
    return describe(from_proto(proto, audit=False))


def test_report_of_a_small_network() -> None:
    made = report(conv_model())
    assert made.task == "classification"
    assert made.operators == {"Conv": 1, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1}
    assert made.parameters == 6 * 3 * 9 + 6 + 6 * 5
    assert made.macs == 8 * 8 * 6 * 3 * 9 + 6 * 5
    assert made.initializer_bytes == 4 * made.parameters
    assert made.activation_bytes == 4 * (2 * 6 * 64 + 6 + 6 + 5)
    assert made.compilable
    assert "host" in made.suggested_targets
    assert json.loads(made.model_dump_json())["inputs"] == [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}]


def weights(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


MACS = {
    # Output 1x6x8x8, each element from 4 input channels and 3x3 pixels.
    "conv": (
        node("Conv", ["x", "w"], ["y"], pads=[1] * 4),
        [1, 4, 8, 8],
        weights(6, 4, 3, 3),
        6 * 64 * 4 * 9,
    ),
    "grouped": (
        node("Conv", ["x", "w"], ["y"], pads=[1] * 4, group=2),
        [1, 4, 8, 8],
        weights(6, 2, 3, 3),
        6 * 64 * 2 * 9,
    ),
    "depthwise": (
        node("Conv", ["x", "w"], ["y"], pads=[1] * 4, group=4, strides=[2, 2]),
        [1, 4, 8, 8],
        weights(4, 1, 3, 3),
        4 * 16 * 9,
    ),
    "conv of one axis": (node("Conv", ["x", "w"], ["y"]), [2, 4, 10], weights(5, 4, 3), 2 * 5 * 8 * 4 * 3),
    # Every one of 4x8x8 input elements is scattered over 3 channels of 2x2.
    "transposed": (
        node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
        [1, 4, 8, 8],
        weights(4, 3, 2, 2),
        4 * 64 * 3 * 4,
    ),
    "gemm": (node("Gemm", ["x", "w"], ["y"]), [3, 4], weights(4, 5), 3 * 4 * 5),
    "gemm transposed": (
        node("Gemm", ["x", "w"], ["y"], transA=1, transB=1),
        [4, 3],
        weights(5, 4),
        3 * 4 * 5,
    ),
    "matmul over tokens": (node("MatMul", ["x", "w"], ["y"]), [4, 16, 8], weights(8, 24), 4 * 16 * 8 * 24),
    "attention scores": (node("MatMul", ["x", "x"], ["y"]), [2, 4, 7, 7], None, 2 * 4 * 7 * 7 * 7),
    "vector": (node("MatMul", ["x", "w"], ["y"]), [3, 4], weights(4), 3 * 4),
    "not counted": (node("Softmax", ["x"], ["y"]), [3, 4], None, 0),
}


@pytest.mark.parametrize("case", MACS)
def test_macs(case: str) -> None:
    operation, shape, weight, macs = MACS[case]
    proto = model(
        [operation],
        [value("x", shape)],
        [value("y", None)],
        {} if weight is None else {"w": weight},
    )
    assert report(proto).macs == macs


def test_shared_weights_count_once_and_equal_weights_twice() -> None:
    shared = model(
        [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w"], ["y"])], constants={"w": weights(4, 4)}
    )
    assert report(shared).parameters == 16
    equal = model(
        [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "v"], ["y"])],
        constants={"w": weights(4, 4), "v": weights(4, 4)},
    )
    assert report(equal).parameters == 32


def test_shapes_and_scalars_are_not_parameters() -> None:
    proto = model(
        [node("Reshape", ["x", "s"], ["a"]), node("Mul", ["a", "two"], ["y"])],
        outputs=[value("y", [4])],
        constants={"s": np.array([4], np.int64), "two": np.float32(2)},
    )
    assert report(proto).parameters == 0


def test_quantised_weights_are_parameters() -> None:
    proto = model(
        [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("MatMul", ["x", "w"], ["y"])],
        constants={"q": np.ones((4, 4), np.int8), "s": np.float32(0.1), "z": np.int8(0)},
    )
    assert report(proto).parameters == 16


@pytest.mark.parametrize(
    ("inputs", "outputs", "task"),
    [
        ([[1, 3, 64, 64]], [[1, 10]], "classification"),
        ([[1, 3, 64, 64]], [[1, 21, 64, 64]], "segmentation"),
        ([[1, 3, 64, 64]], [[1, 3000, 81], [1, 3000, 4]], "detection"),
        ([[1, 3, 64, 64]], [[1, 84, 8400]], "detection"),
        ([[1, 3, 64, 64]], [[1, 10], [1, 10]], "unknown"),
        ([[1, 3, 64, 64]], [[1, 1]], "unknown"),
        ([[1, 3, 64, 64]], [[1, 32, 1, 1]], "unknown"),
        ([[1, 128]], [[1, 10]], "unknown"),
    ],
)
def test_task_guess(inputs: Sequence[list[int]], outputs: Sequence[list[int]], task: str) -> None:
    names = [f"y{index}" for index in range(len(outputs))]
    constants = {f"{name}_shape": np.array(shape, np.int64) for name, shape in zip(names, outputs, strict=True)}
    proto = model(
        [
            node("ReduceMean", ["x0"], ["m"], keepdims=0),
            *(node("Expand", ["m", f"{name}_shape"], [name]) for name in names),
        ],
        [value(f"x{index}", shape) for index, shape in enumerate(inputs)],
        [value(name, shape) for name, shape in zip(names, outputs, strict=True)],
        constants,
    )
    assert report(proto).task == task


def test_unsupported_operators_are_listed_by_node() -> None:
    proto = model(
        [
            node("Frobnicate", ["x"], ["a"], name="one"),
            node("Mine", ["a"], ["b"], name="two", domain="com.example"),
            node("Relu", ["b"], ["y"]),
        ],
        domains={"com.example": 1},
    )
    made = report(proto)
    assert [(found.node, found.operator) for found in made.unsupported] == [
        ("one", "Frobnicate"),
        ("two", "com.example::Mine"),
    ]
    assert not made.compilable
    assert made.suggested_targets == ()


def test_what_macs_leave_out_is_noted() -> None:
    proto = model(
        [node("Einsum", ["x", "w"], ["y"], equation="ij,jk->ik")],
        constants={"w": weights(4, 4)},
    )
    made = report(proto)
    if made.operators.get("Einsum"):
        assert any("Einsum" in note for note in made.notes)


def test_integer_inputs() -> None:
    proto = model(
        [node("Gather", ["table", "x"], ["y"])],
        [value("x", [1, 7], TensorProto.INT64)],
        [value("y", [1, 7, 4])],
        {"table": weights(100, 4)},
    )
    made = report(proto)
    assert made.parameters == 400
    assert made.inputs[0].dtype == "int64"


@pytest.mark.parametrize(
    ("name", "parameters", "macs"), [("xxs", 1.3e6, 0.4e9), ("xs", 2.3e6, 1.0e9), ("s", 5.6e6, 2.0e9)]
)
def test_public_exports_have_the_published_figures(
    shared_models: Path, name: str, parameters: float, macs: float
) -> None:
    made = describe(load(shared_models / f"mobilevit_{name}.onnx"))
    assert made.task == "classification"
    assert made.parameters == pytest.approx(parameters, rel=0.05)
    assert made.macs == pytest.approx(macs, rel=0.05)
