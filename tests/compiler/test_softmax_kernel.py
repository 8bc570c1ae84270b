"""The softmax kernel against numpy in float64."""

import numpy as np
import pytest

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import softmax
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel

HOST = get_target("host")


def reference(x: np.ndarray, log: bool = False) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        shifted = x.astype(np.float64) - x.max(-1, keepdims=True)
    total = np.exp(shifted).sum(-1, keepdims=True)
    return shifted - np.log(total) if log else np.exp(shifted) / total


def run(x: np.ndarray, log: bool = False, rows: int | None = None) -> np.ndarray:
    node = Node("softmax", [Tensor("x", x.shape)], [Tensor("y", x.shape)], {"log": log})
    workload = softmax.claim(node)
    assert workload is not None
    choice = softmax.analytic_default(workload, HOST) if rows is None else {"rows": rows}
    assert choice["rows"] in softmax.space(workload, HOST)["rows"]
    return run_kernel(softmax.emit(workload, HOST, choice, "softmax"), [x], x.shape)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1000), (4, 64, 49), (3, 197), (7, 21), (2, 5), (9, 1), (3, 640), (40, 16, 49), (5, 1023), (11,)]
)
def test_every_length(shape: tuple[int, ...], log: bool) -> None:
    x = np.random.default_rng(3).normal(0, 3, shape).astype(np.float32)
    np.testing.assert_allclose(run(x, log), reference(x, log), rtol=2e-6, atol=1e-6 if log else 1e-30)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_rows_side_by_side(rows: int) -> None:
    x = np.random.default_rng(4).normal(size=(13, 30)).astype(np.float32)
    np.testing.assert_allclose(run(x, rows=rows), reference(x), rtol=1e-6)


@pytest.mark.parametrize("width", [37, 999])
def test_large_logits_do_not_overflow(width: int) -> None:
    x = np.random.default_rng(5).normal(0, 1e4, (6, width)).astype(np.float32)
    np.testing.assert_allclose(run(x), reference(x), rtol=1e-6, atol=1e-30)
    np.testing.assert_allclose(run(x, log=True), reference(x, log=True), rtol=1e-6)


@pytest.mark.parametrize("width", [37, 999])
def test_masked_elements_get_nothing(width: int) -> None:
    x = np.random.default_rng(6).normal(size=(3, width)).astype(np.float32)
    x[:, ::2] = -np.inf
    np.testing.assert_allclose(run(x), reference(x), rtol=2e-6, atol=1e-30)


@pytest.mark.parametrize("width", [37, 999])
def test_nan_stays_in_its_row(width: int) -> None:
    x = np.random.default_rng(6).normal(size=(3, width)).astype(np.float32)
    x[1, 20] = np.nan
    result = run(x)
    assert np.isnan(result[1]).all()
    np.testing.assert_allclose(result[::2], reference(x[::2]), rtol=2e-6)


def test_other_types_are_not_claimed() -> None:
    node = Node("softmax", [Tensor("x", (2, 3), "float16")], [Tensor("y", (2, 3), "float16")])
    assert softmax.claim(node) is None
