"""Convolutions and matrix products against ONNX Runtime, over shapes with every kind of edge."""

from dataclasses import replace
from itertools import product

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from kernel_runner import run_kernel
from onnx import helper, numpy_helper

from edgevit.compiler.kernels import conv, matmul
from edgevit.compiler.kernels.tile import best_tile, pack_panels, split_columns
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.targets import get_target

HOST = get_target("host")
TOLERANCE = 2e-6


def expected(sources, weight, workload: conv.Workload) -> np.ndarray:
    """ONNX Runtime's result, NHWC."""
    x = np.concatenate(sources, axis=3).transpose(0, 3, 1, 2)
    node = helper.make_node(
        "Conv",
        ["x", "w"],
        ["y"],
        strides=workload.strides,
        pads=workload.pads,
        dilations=workload.dilations,
        group=workload.groups,
    )
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


def draw(workload: conv.Workload, seed: int = 0):
    """Sources and OIHW weights."""
    rng = np.random.default_rng(seed)
    shape = (workload.batch, workload.height, workload.width)
    sources = [rng.standard_normal((*shape, c)).astype(np.float32) for c in workload.sources]
    weight = rng.standard_normal((workload.channels, workload.depth // workload.groups, *workload.kernel))
    return sources, weight.astype(np.float32)


def run(workload: conv.Workload, sources, weight, choice=None, operands=()) -> np.ndarray:
    choice = choice or conv.analytic_default(workload, HOST)
    packed = conv.pack(workload, HOST, choice, [weight])
    kernel = conv.emit(workload, HOST, choice, "kernel")
    return run_kernel(kernel, [*sources, *packed, *operands], workload.output)


def workload(height, width, sources, channels, kernel=1, stride=1, pads=0, dilation=1, groups=1, batch=1):
    pads = (pads,) * 4 if isinstance(pads, int) else pads
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    return conv.Workload(
        batch, height, width, sources, channels, kernel, (stride,) * 2, pads, (dilation,) * 2, groups, None
    )


CASES = {
    "product": workload(1, 64, (16,), 32),
    "product with row and column tails": workload(1, 49, (20,), 21),
    "one row, as a classifier": workload(1, 1, (64,), 100),
    "one by one over an image": workload(14, 14, (24,), 36),
    "strided one by one": workload(16, 15, (32,), 100, stride=2),
    "three by three": workload(16, 16, (32,), 32, kernel=3, pads=1),
    "first layer of an image network": workload(32, 30, (3,), 16, kernel=3, stride=2, pads=1),
    "even kernel, no padding": workload(32, 32, (3,), 24, kernel=4, stride=4),
    "concatenated sources": workload(9, 11, (16, 7), 21, kernel=3, pads=1),
    "three sources, one by one": workload(8, 8, (16, 5, 3), 40),
    "dilated": workload(20, 18, (16,), 48, kernel=3, pads=2, dilation=2),
    "dilated beyond the image": workload(7, 7, (8,), 16, kernel=3, pads=12, dilation=12),
    "grouped": workload(10, 12, (32,), 64, kernel=3, pads=1, groups=4),
    "grouped without padding": workload(6, 6, (24,), 24, groups=3),
    "asymmetric padding and kernel": workload(17, 16, (8,), 12, kernel=(5, 3), pads=(0, 1, 2, 0)),
    "batch": workload(8, 9, (8,), 17, kernel=3, stride=2, pads=1, batch=3),
    "single channel in and out": workload(5, 5, (1,), 1, kernel=3, pads=1),
}


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_onnx_runtime(name):
    sources, weight = draw(CASES[name])
    result, reference = run(CASES[name], sources, weight), expected(sources, weight, CASES[name])
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("name", ["product with row and column tails", "concatenated sources", "grouped"])
def test_every_corner_of_the_space_is_valid(name):
    """Choices are valid by construction: any combination computes the same."""
    case = CASES[name]
    space = conv.space(case, HOST)
    corners = list(product(*[(values[0], values[len(values) // 2], values[-1]) for values in space.values()]))
    sources, weight = draw(case)
    reference = expected(sources, weight, case)
    for corner in corners[:: max(1, len(corners) // 12)]:
        result = run(case, sources, weight, dict(zip(space, corner, strict=True)))
        assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max(), corner


@pytest.mark.parametrize("channels", [32, 21])
def test_epilogue_with_bias_activation_and_residual(channels):
    case = workload(9, 7, (16,), channels, kernel=3, pads=1)
    program = Pointwise(
        (Operand(case.output), Operand((channels,)), Operand(case.output)),
        (Term("add", (0, 1)), Term("silu", (3,)), Term("add", (4, 2))),
    )
    sources, weight = draw(case)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(channels).astype(np.float32)
    residual = rng.standard_normal(case.output).astype(np.float32)
    result = run(replace(case, epilogue=program), sources, weight, operands=(bias, residual))
    biased = expected(sources, weight, case).astype(np.float64) + bias
    reference = biased / (1 + np.exp(-biased)) + residual
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    ("left", "right", "rows", "depth", "columns"),
    [((3,), (3,), 17, 20, 21), ((2, 3), (1, 3), 8, 16, 49), ((), (), 5, 7, 3), ((4, 1), (1, 2), 16, 33, 64)],
)
def test_products_of_two_inputs(left, right, rows, depth, columns, transpose):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((*left, rows, depth)).astype(np.float32)
    b = rng.standard_normal((*right, depth, columns)).astype(np.float32)
    reference = a.astype(np.float64) @ b
    batch = reference.shape[:-2]
    case = matmul.Workload(batch, left, right, rows, depth, columns, transpose, None)
    stored = np.swapaxes(b, -1, -2) if transpose else b
    kernel = matmul.emit(case, HOST, matmul.analytic_default(case, HOST), "kernel")
    result = run_kernel(kernel, [a, np.ascontiguousarray(stored)], reference.shape)
    assert np.abs(result - reference).max() <= TOLERANCE * np.abs(reference).max()


def test_column_vectors_cover_every_column_once():
    for count, lanes, vectors in product((1, 5, 16, 21, 24, 36, 100, 1000), (4, 8, 16), (1, 2, 3)):
        panels = split_columns(count, lanes, vectors)
        assert [panel.start for panel in panels] == list(np.cumsum([0, *[p.count for p in panels[:-1]]]))
        assert sum(panel.count for panel in panels) == count
        assert all(v <= w <= lanes for panel in panels for v, w in zip(panel.valid, panel.lanes, strict=True))
        matrix = np.arange(2 * count, dtype=np.float32).reshape(2, count)
        assert pack_panels(matrix, panels).sum() == matrix.sum()


def test_tiles_fit_the_register_file():
    for name in ("rpi3", "rpi5", "armv7", "x86-64-v3", "apple-silicon"):
        target = get_target(name)
        for rows_in, columns in product((1, 7, 49, 64, 1024), (8, 24, 36, 144, 1000)):
            rows, vectors = best_tile(rows_in, columns, target)
            assert rows * vectors + vectors + 1 <= target.vector.registers
