"""float16 models: float32 on targets that would only convert, float16 kernels on those that multiply it."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from kernel_runner import run_kernel
from onnx import TensorProto, helper, numpy_helper

from edgevit.compiler.compile import compile_model
from edgevit.compiler.half import FLOAT, HALF
from edgevit.compiler.kernels import conv, depthwise
from edgevit.compiler.kernels.window import Axis, Windows
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.compiler.prepare import prepare
from edgevit.model import from_proto
from edgevit.targets import get_target

HOST = get_target("host")


def network(dtype: int = TensorProto.FLOAT16) -> onnx.ModelProto:
    """Convolution, activation, residual, depthwise, mean, product, softmax."""
    rng = np.random.default_rng(0)
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {
        "w0": rng.standard_normal((32, 16, 3, 3)) / 12,
        "b0": rng.standard_normal(32),
        "w1": rng.standard_normal((32, 32, 1, 1)) / 6,
        "w2": rng.standard_normal((32, 1, 3, 3)) / 3,
        "w3": rng.standard_normal((32, 10)) / 6,
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
        helper.make_node("Conv", ["d", "w2"], ["e"], pads=[1] * 4, group=32),
        helper.make_node("GlobalAveragePool", ["e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("MatMul", ["g", "w3"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", dtype, (1, 16, 12, 12))],
        [helper.make_tensor_value_info("y", dtype, (1, 10))],
        [numpy_helper.from_array(value.astype(np.float16).astype(kind), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dtypes(target: str) -> dict[str, tuple[str, str]]:
    graph = prepare(from_proto(network()), get_target(target))
    return {node.op: (node.input(0).dtype, node.output.dtype) for node in graph.nodes}


def test_multiplications_stay_half_where_the_target_multiplies_halves():
    found = dtypes("rpi5")
    assert found["depthwise"][0] == HALF
    assert found["conv"] == (HALF, HALF)
    assert found["linear"][0] == HALF
    assert found["softmax"] == (FLOAT, FLOAT)


@pytest.mark.parametrize("target", ["rpi3", "armv7", "x86-64-v3"])
def test_everything_is_float32_where_it_does_not(target):
    found = dtypes(target)
    assert all(found[op] == (FLOAT, FLOAT) for op in ("conv", "depthwise", "linear", "softmax"))


def test_single_precision_models_are_left_alone():
    graph = prepare(from_proto(network(TensorProto.FLOAT)), get_target("rpi5"))
    assert {t.dtype for node in graph.nodes for t in (*node.inputs, *node.outputs) if t is not None} == {FLOAT}


@pytest.mark.parametrize("target", ["host", "rpi5"])
def test_half_precision_network_agrees_with_onnx_runtime(target):
    """The compiler's own check runs the code here, or under QEMU, against ONNX Runtime's float16 results."""
    artifact = compile_model(from_proto(network()), target)
    if artifact.resolution.check.status == "not run":
        pytest.skip(artifact.resolution.check.reason)
    assert artifact.manifest.precision == "fp16"
    assert artifact.resolution.inputs[0].dtype == artifact.resolution.outputs[0].dtype == HALF
    assert artifact.resolution.check.status == "passed"


def expected(x: np.ndarray, weight: np.ndarray, groups: int) -> np.ndarray:
    """The convolution of float16 values, in float32, NHWC."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[weight.shape[2] // 2] * 4, group=groups)
    nchw = x.astype(np.float32).transpose(0, 3, 1, 2)
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, nchw.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": nchw})[0].transpose(0, 2, 3, 1)


def rounding(shape: tuple[int, ...]) -> Pointwise:
    return Pointwise((Operand(shape),), (Term("cast", (0,), (), HALF),))


# Sums of up to 16 products are float16: their errors are a few times the rounding of the result, 2**-11.
HALF_TOLERANCE = 2e-3


@pytest.mark.parametrize(("depth", "kernel"), [(8, 1), (24, 1), (100, 1), (3, 3), (40, 3)])
def test_half_precision_convolution(depth, kernel):
    rng = np.random.default_rng(depth)
    x = rng.standard_normal((1, 9, 10, depth)).astype(np.float16)
    weight = rng.standard_normal((21, depth, kernel, kernel)).astype(np.float16)
    pads, shape = (kernel // 2,) * 4, (1, 9, 10, 21)
    case = conv.Workload(1, 9, 10, (depth,), 21, (kernel,) * 2, (1, 1), pads, (1, 1), 1, rounding(shape), HALF)
    choice = conv.analytic_default(case, HOST)
    (packed,) = conv.pack(case, HOST, choice, [weight])
    result = run_kernel(conv.emit(case, HOST, choice, "kernel"), [x, packed], shape, HALF)
    reference = expected(x, weight, 1)
    assert np.abs(result - reference).max() <= HALF_TOLERANCE * np.abs(reference).max()


def test_half_precision_depthwise():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 12, 12, 20)).astype(np.float16)
    weight = rng.standard_normal((20, 1, 3, 3)).astype(np.float16)
    axis = Axis(12, 12, 3, 1, 1, 1)
    case = depthwise.Workload(Windows(1, 20, axis, axis, HALF), rounding((1, 12, 12, 20)))
    choice = depthwise.analytic_default(case, HOST)
    (packed,) = depthwise.pack(case, HOST, choice, [weight])
    result = run_kernel(depthwise.emit(case, HOST, choice, "kernel"), [x, packed], (1, 12, 12, 20), HALF)
    reference = expected(x, weight, 20)
    assert np.abs(result - reference).max() <= HALF_TOLERANCE * np.abs(reference).max()
