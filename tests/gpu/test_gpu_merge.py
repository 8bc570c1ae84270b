"""What merging leaves of a graph, and that it computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgevit.accuracy.check import check
from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.emulate import connect_emulated
from edgevit.model import Model, from_proto

WIDTH, CHANNELS = 32, 24


def model(
    shape: tuple[int, ...], nodes: list[Any], constants_int: dict[str, list[int]] | None = None, **constants: Any
) -> Model:
    """A graph from ``x`` to ``y``, and to ``z`` if there is one, of float32 tensors."""
    names = [name for name in ("y", "z") if any(name in node.output for node in nodes)]
    integers = [numpy_helper.from_array(np.array(data, np.int64), name) for name, data in (constants_int or {}).items()]
    graph = helper.make_graph(
        nodes,
        "merge",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names],
        [*integers, *(numpy_helper.from_array(np.asarray(data, np.float32), name) for name, data in constants.items())],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return from_proto(onnx.shape_inference.infer_shapes(proto))


def compiled_right(source: Model, precision: str = "fp32") -> Artifact:
    """The artifact for an iPhone, executed and compared with ONNX Runtime."""
    artifact = compile_model(source, "metal-ios", precision="fp32" if precision == "fp32" else "fp16", verify=False)
    with connect_emulated(artifact.manifest.target) as session:
        assert check(artifact, session, source, seeds=(0,), calls=2).passed
    return artifact


def normalised(draw: np.random.Generator, *, bias: bool = True) -> tuple[Any, dict[str, Any]]:
    names = ["x", "scale", "shift"] if bias else ["x", "scale"]
    constants = {"scale": draw.standard_normal(WIDTH)} | ({"shift": draw.standard_normal(WIDTH)} if bias else {})
    return helper.make_node("LayerNormalization", names, ["n"], axis=-1), constants


@pytest.mark.parametrize("bias", [True, False], ids=["factors and addends", "factors"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_product_takes_in_its_normalisation(bias: bool, precision: str) -> None:
    draw = np.random.default_rng(0)
    norm, constants = normalised(draw, bias=bias)
    source = model(
        (1, 9, WIDTH),
        [norm, helper.make_node("MatMul", ["n", "w"], ["p"]), helper.make_node("Relu", ["p"], ["y"])],
        w=draw.standard_normal((WIDTH, CHANNELS)) / 5,
        **constants,
    )
    artifact = compiled_right(source, precision)
    assert artifact.manifest.kernels == {"product": 1}
    assert len(artifact.resolution.launches) == 1


def test_a_normalisation_that_others_read_stays() -> None:
    draw = np.random.default_rng(1)
    norm, constants = normalised(draw)
    source = model(
        (1, 9, WIDTH),
        [norm, helper.make_node("MatMul", ["n", "w"], ["p"]), helper.make_node("Add", ["p", "n"], ["y"])],
        w=draw.standard_normal((WIDTH, WIDTH)) / 5,
        **constants,
    )
    assert "normalise" in compiled_right(source).manifest.kernels


def test_rows_too_long_for_local_memory_are_normalised_apart() -> None:
    draw = np.random.default_rng(2)
    source = model(
        (1, 3, 4096),
        [
            helper.make_node("LayerNormalization", ["x", "scale"], ["n"], axis=-1),
            helper.make_node("MatMul", ["n", "w"], ["y"]),
        ],
        scale=draw.standard_normal(4096),
        w=draw.standard_normal((4096, 8)) / 64,
    )
    assert compiled_right(source).manifest.kernels == {"normalise": 1, "product": 1}


@pytest.mark.parametrize(("channels", "launches"), [(3, 1), (8, 2)], ids=["RGB", "many channels"])
def test_a_convolution_reads_few_planes_as_they_lie(channels: int, launches: int) -> None:
    draw = np.random.default_rng(3)
    source = model(
        (1, channels, 12, 10),
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 4, strides=[2, 2]),
            helper.make_node("GlobalAveragePool", ["c"], ["y"]),
        ],
        w=draw.standard_normal((16, channels, 3, 3)) / 5,
    )
    artifact = compiled_right(source)
    assert len(artifact.resolution.launches) == launches + 1


def separable(channels: int, expanded: int, stride: int, *, others: bool = False) -> Model:
    """A depthwise convolution with SiLU, a product and, at stride 1, a residual."""
    draw = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["e", "d"], ["c"], pads=[1] * 4, strides=[stride] * 2, group=expanded),
        helper.make_node("Sigmoid", ["c"], ["s"]),
        helper.make_node("Mul", ["c", "s"], ["a"]),
        helper.make_node("Conv", ["a", "p", "b"], ["r" if stride == 1 or others else "y"]),
    ]
    if others:
        nodes += [helper.make_node("Conv", ["a", "q"], ["t"]), helper.make_node("Add", ["r", "t"], ["y"])]
    elif stride == 1:
        nodes.append(helper.make_node("Add", ["r", "x"], ["y"]))
    return model(
        (1, channels, 11, 9),
        [helper.make_node("Conv", ["x", "w"], ["e"]), *nodes],
        w=draw.standard_normal((expanded, channels, 1, 1)) / 4,
        d=draw.standard_normal((expanded, 1, 3, 3)) / 2,
        p=draw.standard_normal((channels, expanded, 1, 1)) / expanded**0.5,
        b=draw.standard_normal(channels),
        **({"q": draw.standard_normal((channels, expanded, 1, 1)) / expanded**0.5} if others else {}),
    )


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("channels", "expanded"), [(16, 64), (6, 10), (5, 7), (40, 512)])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_product_takes_in_its_depthwise_convolution(
    channels: int, expanded: int, stride: int, precision: str
) -> None:
    kernels = compiled_right(separable(channels, expanded, stride), precision).manifest.kernels
    assert kernels["separable"] == 1
    assert "depthwise" not in kernels


def test_a_depthwise_convolution_stays_where_its_result_is_read_twice_or_too_wide() -> None:
    assert "depthwise" in compiled_right(separable(8, 32, 1, others=True)).manifest.kernels
    assert "depthwise" in compiled_right(separable(8, 2048, 2)).manifest.kernels


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_value_that_is_reshaped_for_an_output_and_read_by_a_product(precision: str) -> None:
    draw = np.random.default_rng(5)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Reshape", ["p", "shape"], ["r"]),
        helper.make_node("Softmax", ["r"], ["z"], axis=-1),
        helper.make_node("MatMul", ["p", "v"], ["y"]),
    ]
    constants = {"w": draw.standard_normal((WIDTH, CHANNELS)) / 5, "v": draw.standard_normal((CHANNELS, CHANNELS)) / 5}
    source = model((1, 9, WIDTH), nodes, constants_int={"shape": [3, 3 * CHANNELS]}, **constants)
    compiled_right(source, precision)
