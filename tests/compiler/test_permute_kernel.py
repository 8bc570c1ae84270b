"""Permutations against numpy."""

import numpy as np
import pytest

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import permute
from edgevit.target_schema import Vector
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel


def check(view: tuple[int, ...], perm: tuple[int, ...], dtype: str = "float32", bits: int | None = None) -> None:
    target = get_target("host")
    if bits is not None:
        target = target.model_copy(update={"vector": Vector(bits=bits, registers=16)})  # type: ignore[arg-type]
    x = (np.random.default_rng(0).standard_normal(view) * 50).astype(dtype)
    expected = x.transpose(perm)
    attrs = {"view": view, "perm": perm}
    workload = permute.claim(Node("permute", [Tensor("x", view, dtype)], [Tensor("y", expected.shape, dtype)], attrs))
    assert workload is not None
    function = permute.emit(workload, target, permute.analytic_default(workload, target), "k")
    np.testing.assert_array_equal(run_kernel(function, [x], expected.shape, dtype, target), expected)


@pytest.mark.parametrize("bits", [None, 128])
@pytest.mark.parametrize(
    ("view", "perm"),
    [
        ((3, 64, 64), (1, 2, 0)),
        ((64, 64, 3), (2, 0, 1)),
        ((64, 31, 33), (1, 2, 0)),
        ((31, 33, 70), (2, 0, 1)),
        ((96, 8, 8), (1, 2, 0)),
        ((9, 17), (1, 0)),
        ((2, 2), (1, 0)),
        ((200, 130), (1, 0)),
        ((2, 3, 4, 5, 6), (4, 2, 0, 3, 1)),
        ((2, 3, 4, 5, 6), (1, 0, 3, 2, 4)),
        ((1, 8, 2, 8, 2, 24), (0, 2, 4, 1, 3, 5)),
        ((40, 3, 4, 16), (1, 2, 3, 0)),
        ((1, 3, 1, 4), (3, 2, 1, 0)),
        ((5,), (0,)),
        ((1, 1), (1, 0)),
    ],
)
def test_permutations(view: tuple[int, ...], perm: tuple[int, ...], bits: int | None) -> None:
    check(view, perm, bits=bits)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "int64", "bool", "uint8"])
def test_types(dtype: str) -> None:
    check((5, 37, 50), (1, 2, 0), dtype)
    check((37, 3, 40), (1, 0, 2), dtype)


def test_foreign_nodes_are_left_to_others() -> None:
    x, y = Tensor("x", (2, 3), "complex64"), Tensor("y", (3, 2), "complex64")
    assert permute.claim(Node("permute", [x], [y], {"view": (2, 3), "perm": (1, 0)})) is None
    assert permute.claim(Node("Transpose", [Tensor("x", (2, 3))], [Tensor("y", (3, 2))])) is None
