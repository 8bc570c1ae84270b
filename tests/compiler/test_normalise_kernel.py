"""The kernels of layer_norm and rms_norm against numpy in float64."""

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import normalise
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel

HOST = get_target("host")
EPSILON = 1e-5


def reference(x: np.ndarray, scale: np.ndarray | None, bias: np.ndarray | None, centred: bool = True) -> np.ndarray:
    x = x.astype(np.float64)
    if centred:
        x = x - x.mean(-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
    return y * (1.0 if scale is None else scale) + (0.0 if bias is None else bias)


def norm(shape: tuple[int, ...], *factors: Tensor | None, op: str = "layer_norm", **attrs: Any) -> Node:
    return Node(op, [Tensor("x", shape), *factors], [Tensor("y", shape)], {"epsilon": EPSILON} | attrs)


def run(node: Node, arrays: list[np.ndarray], rows: int | None = None) -> np.ndarray:
    workload = normalise.claim(node)
    assert workload is not None
    choice = normalise.analytic_default(workload, HOST) if rows is None else {"rows": rows}
    assert choice["rows"] in normalise.space(workload, HOST)["rows"]
    return run_kernel(normalise.emit(workload, HOST, choice, "normalise"), arrays, workload.shape)


def made(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.5, 2, shape).astype(np.float32)


@pytest.mark.parametrize("width", [1, 5, 24, 36, 64, 80, 96, 120, 144, 192, 240, 320, 768, 1001])
def test_every_width(width: int) -> None:
    x, scale, bias = made(2, 7, width), made(width, seed=1), made(width, seed=2)
    vectors = [Tensor("scale", (width,)), Tensor("bias", (width,))]
    result = run(norm(x.shape, *vectors), [x, scale, bias])
    np.testing.assert_allclose(result, reference(x, scale, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [60, 1000])
@pytest.mark.parametrize(("with_scale", "with_bias"), [(True, False), (False, True), (False, False)])
def test_factors_may_be_absent(width: int, with_scale: bool, with_bias: bool) -> None:
    x = made(5, width)
    scale = made(width, seed=1) if with_scale else None
    bias = made(width, seed=2) if with_bias else None
    vectors = [None if vector is None else Tensor("v", (width,)) for vector in (scale, bias)]
    result = run(norm(x.shape, *vectors), [array for array in (x, scale, bias) if array is not None])
    np.testing.assert_allclose(result, reference(x, scale, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [60, 1000])
def test_rms_norm(width: int) -> None:
    x, scale = made(3, width), made(width, seed=1)
    result = run(norm(x.shape, Tensor("scale", (width,)), op="rms_norm"), [x, scale])
    np.testing.assert_allclose(result, reference(x, scale, None, centred=False), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_side_by_side_and_a_rest(rows: int) -> None:
    x = made(197, 96)
    np.testing.assert_allclose(run(norm(x.shape), [x], rows), reference(x, None, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [144, 1000])
def test_a_large_mean_does_not_drown_the_variance(width: int) -> None:
    x = made(4, width) + np.float32(4096)
    np.testing.assert_allclose(run(norm(x.shape), [x]), reference(x, None, None), atol=2e-3)


def test_many_rows_over_threads() -> None:
    x = made(1025, 100)
    np.testing.assert_allclose(run(norm(x.shape), [x]), reference(x, None, None), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [40, 1000])
def test_epilogue_with_operands_that_broadcast(width: int) -> None:
    shape, per_row = (2, 3, width), (2, 1, 1)
    x, residual, gate = made(*shape), made(*shape, seed=3), made(*per_row, seed=4)
    program = Pointwise((Operand(shape), Operand(shape), Operand(per_row)), (Term("add", (0, 1)), Term("mul", (3, 2))))
    node = norm(shape, None, None, Tensor("residual", shape), Tensor("gate", per_row), epilogue=program)
    expected = (reference(x, None, None) + residual) * gate
    np.testing.assert_allclose(run(node, [x, residual, gate]), expected, rtol=1e-5, atol=2e-5)


def test_what_is_not_claimed() -> None:
    assert normalise.claim(norm((2, 8), Tensor("scale", (1,)))) is None
    half = Node("layer_norm", [Tensor("x", (2, 8), "float16")], [Tensor("y", (2, 8), "float16")], {"epsilon": EPSILON})
    assert normalise.claim(half) is None
