"""Winograd convolutions against ONNX Runtime, and their transforms against the definition."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from kernel_runner import run_kernel
from onnx import helper, numpy_helper

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import claim, winograd
from edgevit.compiler.kernels.conv import Workload
from edgevit.compiler.kernels.winograd_transform import POINTS, transform
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.targets import get_target

HOST = get_target("host")
TOLERANCE = 5e-6


def workload(height, width, sources, channels, pads=(1, 1, 1, 1), batch=1) -> Workload:
    return Workload(batch, height, width, sources, channels, (3, 3), (1, 1), pads, (1, 1), 1, None)


def draw(case: Workload):
    """Sources and OIHW weights."""
    rng = np.random.default_rng(0)
    shape = (case.batch, case.height, case.width)
    sources = [rng.standard_normal((*shape, c)).astype(np.float32) for c in case.sources]
    return sources, rng.standard_normal((case.channels, case.depth, 3, 3)).astype(np.float32)


def expected(sources, weight, case: Workload) -> np.ndarray:
    """ONNX Runtime's result, NHWC."""
    x = np.concatenate(sources, axis=3).transpose(0, 3, 1, 2)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=case.pads)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0].transpose(0, 2, 3, 1)


def run(case: Workload, sources, weight, choice, operands=()) -> np.ndarray:
    import tvm

    packed = winograd.pack(case, HOST, choice, [weight])
    with tvm.target.Target(HOST.tvm_target()):
        kernel = winograd.emit(case, HOST, choice, "kernel")
    return run_kernel(kernel, [*sources, *packed, *operands], case.output)


CASES = {
    "whole tiles": workload(16, 16, (32,), 32),
    "neither side a multiple of a tile": workload(15, 13, (16,), 48),
    "one output beyond whole tiles": workload(9, 17, (24,), 32),
    "concatenated sources, odd channels": workload(8, 11, (16, 7), 21),
    "three sources": workload(6, 8, (16, 5, 3), 40),
    "no padding": workload(14, 11, (16,), 16, pads=(0, 0, 0, 0)),
    "more padding than taps": workload(6, 7, (16,), 16, pads=(4, 2, 0, 5)),
    "batch": workload(8, 9, (8,), 17, batch=3),
    "smaller than a tile": workload(1, 3, (4,), 5),
    "single channel in and out": workload(5, 5, (1,), 1),
}


@pytest.mark.parametrize("size", POINTS)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name, size):
    case = CASES[name]
    sources, weight = draw(case)
    choice = winograd.analytic_default(case, HOST) | {"size": size}
    reference = expected(sources, weight, case)
    assert np.abs(run(case, sources, weight, choice) - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("name", ["neither side a multiple of a tile", "concatenated sources, odd channels"])
def test_every_corner_of_the_space_is_valid(name):
    """Choices are valid by construction: any combination computes the same."""
    case = CASES[name]
    space = winograd.space(case, HOST)
    corners = list(product(*[(values[0], values[len(values) // 2], values[-1]) for values in space.values()]))
    sources, weight = draw(case)
    reference = expected(sources, weight, case)
    for corner in corners[:: len(corners) // 12 - 1]:
        result = run(case, sources, weight, dict(zip(space, corner, strict=True)))
        assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max(), corner


@pytest.mark.parametrize("size", POINTS)
@pytest.mark.parametrize("channels", [32, 21])
def test_epilogue_with_bias_activation_and_residual(channels, size):
    case = workload(9, 7, (16,), channels)
    program = Pointwise(
        (Operand(case.output), Operand((channels,)), Operand(case.output)),
        (Term("add", (0, 1)), Term("silu", (3,)), Term("add", (4, 2))),
    )
    sources, weight = draw(case)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(channels).astype(np.float32)
    residual = rng.standard_normal(case.output).astype(np.float32)
    choice = winograd.analytic_default(case, HOST) | {"size": size}
    result = run(replace(case, epilogue=program), sources, weight, choice, (bias, residual))
    biased = expected(sources, weight, case).astype(np.float64) + bias
    reference = biased / (1 + np.exp(-biased)) + residual
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("size", POINTS)
def test_transforms_are_exact_in_exact_arithmetic(size):
    """One dimension: size outputs of three taps over size + 2 inputs."""
    rng = np.random.default_rng(2)
    inputs, taps = rng.standard_normal(size + 2), rng.standard_normal(3)
    t = transform(size)
    result = t.outputs @ ((t.inputs @ inputs) * (t.weights @ taps))
    np.testing.assert_allclose(result, np.correlate(inputs, taps, "valid"), rtol=0, atol=1e-13)


def node(height=16, channels=32, depth=32, dtype="float32", kernel=3, **attrs) -> Node:
    x = Tensor("x", (1, height, height, depth), dtype)
    weight = np.zeros((channels, depth // attrs.get("groups", 1), kernel, kernel), dtype)
    defaults = {"strides": (1, 1), "pads": (kernel // 2,) * 4, "dilations": (1, 1)}
    constant = Tensor("w", weight.shape, dtype, weight)
    return Node("conv", [x, constant], [Tensor("y", (1, height, height, channels), dtype)], defaults | attrs)


def test_claims_convolutions_that_gain():
    family, case = claim(node())
    assert family is winograd
    assert case.flops == 2 * 16 * 16 * 32 * 32 * 9


@pytest.mark.parametrize(
    "other",
    [
        node(kernel=5),
        node(kernel=1),
        node(strides=(2, 2)),
        node(dilations=(2, 2), pads=(2, 2, 2, 2)),
        node(groups=2),
        node(dtype="float16"),
        node(depth=3),
        node(channels=8),
        node(height=4),
    ],
)
def test_leaves_others_alone(other):
    assert winograd.claim(other) is None
