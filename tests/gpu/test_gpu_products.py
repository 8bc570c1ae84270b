"""Convolutions, products, normalised products and depthwise convolutions, against ONNX Runtime and numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from tests.gpu.executing import DEVICES, ERRORS, run_node, tensor

Array = NDArray[Any]


def constant(data: Array) -> Tensor:
    return Tensor("constant", data.shape, str(data.dtype), data)


def onnx_convolution(x: Array, weight: Array, bias: Array, **attributes: Any) -> Array:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": x})[0]
    return result


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize(
    ("sources", "channels", "size", "kernel", "stride", "pad", "groups", "planar"),
    [
        ((16,), 32, (64, 64), 1, 1, 0, 1, False),
        ((3,), 16, (31, 33), 3, 2, 1, 1, True),
        ((48, 48), 48, (8, 8), 3, 1, 1, 1, False),
        ((20,), 21, (7, 9), 3, 1, 1, 1, False),
        ((16,), 8, (9, 9), 3, 1, 1, 2, False),
        ((32,), 32, (33, 31), 3, 1, 1, 32, False),
        ((30,), 30, (12, 10), 5, 2, 2, 30, False),
    ],
    ids=["1x1", "planes", "concatenated", "odd channels", "groups", "depthwise", "depthwise stride 2"],
)
@pytest.mark.parametrize(("target", "stored"), DEVICES)
def test_convolution_with_bias_silu_and_residual(
    target: str,
    sources: tuple[int, ...],
    channels: int,
    size: tuple[int, int],
    kernel: int,
    stride: int,
    pad: int,
    groups: int,
    planar: bool,
    stored: str,
) -> None:
    draw = np.random.default_rng(0)
    depth = sum(sources)
    x = draw.standard_normal((1, depth, *size), np.float32)
    fan = depth // groups * kernel * kernel
    weight = draw.standard_normal((channels, depth // groups, kernel, kernel), np.float32) / np.float32(fan**0.5)
    bias = draw.standard_normal(channels, np.float32)
    plain = onnx_convolution(x, weight, bias, strides=[stride] * 2, pads=[pad] * 4, group=groups)
    expected = silu(plain.transpose(0, 2, 3, 1))
    residual = draw.standard_normal(expected.shape, np.float32)
    shape = expected.shape
    program = Pointwise(
        (Operand(shape), Operand((channels,)), Operand(shape)),
        (Term("add", (0, 1)), Term("silu", (3,)), Term("add", (4, 2))),
    )
    attributes = {"strides": (stride, stride), "pads": (pad,) * 4, "dilations": (1, 1), "epilogue": program}
    bounds = np.cumsum(sources)[:-1]
    images = [x] if planar else np.split(x.transpose(0, 2, 3, 1), bounds, axis=-1)
    inputs = [*(tensor(image.shape) for image in images), constant(weight), constant(bias), tensor(shape)]
    if groups == depth:
        node = Node("depthwise", inputs, [tensor(shape)], attributes)
    else:
        attributes |= {"sources": len(sources), "groups": groups, "planar": planar}
        node = Node("conv", inputs, [tensor(shape)], attributes)
    (actual,) = run_node(node, [*images, weight, bias, residual], target, stored)
    assert np.abs(actual - (expected + residual)).max() < ERRORS[stored]


@pytest.mark.parametrize(
    ("rows", "depth", "channels"), [(1, 320, 1000), (64, 192, 96), (7, 30, 21)], ids=["one row", "square", "odd"]
)
@pytest.mark.parametrize(("target", "stored"), DEVICES)
def test_product_with_a_matrix(target: str, rows: int, depth: int, channels: int, stored: str) -> None:
    draw = np.random.default_rng(1)
    x = draw.standard_normal((rows, depth), np.float32)
    weight = draw.standard_normal((depth, channels), np.float32) / np.float32(depth**0.5)
    node = Node("linear", [tensor(x.shape), constant(weight)], [tensor((rows, channels))])
    (actual,) = run_node(node, [x, weight], target, stored)
    assert np.abs(actual - x.astype(np.float64) @ weight).max() < ERRORS[stored]


@pytest.mark.parametrize(
    ("rows", "depth", "channels"),
    [(256, 64, 192), (16, 96, 288), (49, 180, 60), (7, 30, 21), (300, 64, 3)],
    ids=["many rows", "split channels", "45 vectors", "odd", "few channels"],
)
@pytest.mark.parametrize("centred", [True, False], ids=["layer norm", "rms norm"])
@pytest.mark.parametrize(("target", "stored"), DEVICES)
def test_product_of_normalised_rows(
    target: str, centred: bool, rows: int, depth: int, channels: int, stored: str
) -> None:
    draw = np.random.default_rng(2)
    # Far from zero: a difference of two large sums would show.
    x = draw.standard_normal((rows, depth), np.float32) + 8 * centred
    weight = draw.standard_normal((depth, channels), np.float32) / np.float32(depth**0.5)
    exact = x.astype(stored).astype(np.float64)
    middle = exact.mean(axis=1, keepdims=True) if centred else 0.0
    deviation = np.sqrt(((exact - middle) ** 2).mean(axis=1, keepdims=True) + 1e-5)
    node = Node(
        "linear", [tensor(x.shape), constant(weight)], [tensor((rows, channels))], {"norm": 1e-5, "centred": centred}
    )
    (actual,) = run_node(node, [x, weight], target, stored)
    assert np.abs(actual - (exact - middle) / deviation @ weight).max() < ERRORS[stored]


@pytest.mark.parametrize("shape", [(1, 64, 96), (3, 7, 30), (2, 5, 5, 192)])
@pytest.mark.parametrize(("target", "stored"), DEVICES)
def test_layer_norm_alone(target: str, shape: tuple[int, ...], stored: str) -> None:
    draw = np.random.default_rng(3)
    x = draw.standard_normal(shape, np.float32) * 3
    scale, bias = draw.standard_normal((2, shape[-1]), np.float32)
    exact = x.astype(stored).astype(np.float64)
    deviation = np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-5)
    expected = (exact - exact.mean(axis=-1, keepdims=True)) / deviation * scale + bias
    node = Node("layer_norm", [tensor(shape), constant(scale), constant(bias)], [tensor(shape)], {"epsilon": 1e-5})
    (actual,) = run_node(node, [x, scale, bias], target, stored)
    assert np.abs(actual - expected).max() < 2 * ERRORS[stored]
