"""Concatenation, slicing, padding and gathering against numpy."""

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import copy, gather
from edgevit.target_schema import Target, Vector
from edgevit.targets import get_target
from tests.compiler.kernel_runner import run_kernel


@pytest.fixture(params=[None, 128])
def target(request: pytest.FixtureRequest) -> Target:
    host = get_target("host")
    return host if request.param is None else host.model_copy(update={"vector": Vector(bits=128, registers=16)})


def numbers(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 50).astype(dtype)


def run(family: Any, op: str, arrays: list[np.ndarray], shape: tuple[int, ...], target: Target, **attrs: Any) -> Any:
    dtype = str(arrays[0].dtype)
    inputs = [Tensor(f"x{i}", array.shape, str(array.dtype)) for i, array in enumerate(arrays)]
    workload = family.claim(Node(op, list(inputs), [Tensor("y", shape, dtype)], attrs))
    assert workload is not None
    function = family.emit(workload, target, family.analytic_default(workload, target), "k")
    return run_kernel(function, arrays, shape, dtype, target)


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [
        (((5, 7, 3), (5, 7, 9)), 2),
        (((2, 7, 300), (2, 90, 300)), 1),
        (((1, 197, 1), (2, 197, 1), (1, 197, 1)), 0),
        (((1, 30, 30, 24), (1, 30, 30, 33)), -1),
        (((3, 1), (3, 1)), 1),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bool"])
def test_concat(shapes: tuple[tuple[int, ...], ...], axis: int, dtype: str, target: Target) -> None:
    arrays = [numbers(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]
    expected = np.concatenate(arrays, axis=axis)
    np.testing.assert_array_equal(run(copy, "concat", arrays, expected.shape, target, axis=axis), expected)


@pytest.mark.parametrize(
    ("shape", "slices"),
    [
        ((1, 16, 16, 24), (slice(None), slice(1, None, 2), slice(0, None, 2), slice(None))),
        ((1, 40, 40, 24), (slice(None), slice(None), slice(None), slice(5, 15))),
        ((50, 77), (slice(None), slice(None, None, -1))),
        ((50, 77), (slice(None, None, -2), slice(None, None, -3))),
        ((9, 77), (slice(None, None, -1), slice(None, None, -1))),
        ((50, 385), (slice(None), slice(1, None, 2))),
        ((3, 20001), (slice(1, 3), slice(1, None))),
        ((4, 5), (slice(2, 3), slice(1, 2))),
    ],
)
def test_slice(shape: tuple[int, ...], slices: tuple[slice, ...], target: Target) -> None:
    x = numbers(*shape)
    expected = x[slices]
    bounds = [part.indices(extent) for part, extent in zip(slices, shape, strict=True)]
    starts, steps = tuple(b[0] for b in bounds), tuple(b[2] for b in bounds)
    result = run(copy, "slice", [x], expected.shape, target, starts=starts, steps=steps)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@pytest.mark.parametrize(
    ("shape", "widths"),
    [
        ((1, 30, 35, 24), ((0, 0), (1, 2), (2, 1), (0, 0))),
        ((3, 9, 10), ((0, 0), (0, 3), (3, 0))),
        ((300, 100), ((1, 0), (0, 0))),
        ((2, 3, 4), ((1, 1), (2, 0), (3, 3))),
        ((7, 3), ((0, 0), (0, 0))),
    ],
)
def test_pad(shape: tuple[int, ...], widths: tuple[tuple[int, int], ...], mode: Any, target: Target) -> None:
    x = numbers(*shape)
    expected = np.pad(x, widths, mode, **({"constant_values": -np.inf} if mode == "constant" else {}))
    before = tuple(width[0] for width in widths)
    result = run(copy, "pad", [x], expected.shape, target, before=before, value=-np.inf, mode=mode)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(("dtype", "value"), [("bool", 1.0), ("float16", 0.1), ("int64", -7.0), ("uint8", 200.0)])
def test_pad_value_in_other_types(dtype: str, value: float, target: Target) -> None:
    x = np.abs(numbers(4, 9)).astype(dtype)
    expected = np.pad(x, ((1, 1), (0, 40)), constant_values=np.asarray(value).astype(dtype))
    result = run(copy, "pad", [x], expected.shape, target, before=(1, 0), value=value, mode="constant")
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("kind", ["int32", "int64"])
@pytest.mark.parametrize(
    ("shape", "axis", "indices"),
    [((7, 5), 0, (3, 2)), ((7, 5, 33), 1, (4,)), ((4, 9), -1, (11,)), ((200, 513), 0, (64,)), ((9,), 0, ())],
)
def test_gather(shape: tuple[int, ...], axis: int, indices: tuple[int, ...], kind: str, target: Target) -> None:
    x = numbers(*shape)
    chosen = np.asarray(np.random.default_rng(1).integers(-shape[axis], shape[axis], indices)).astype(kind)
    expected = x.take(chosen, axis=axis)
    np.testing.assert_array_equal(run(gather, "gather", [x, chosen], expected.shape, target, axis=axis), expected)


def test_gather_moves_indices_out_of_range_to_the_nearest(target: Target) -> None:
    x, chosen = numbers(5, 3), np.asarray([-9, 4, 5, 2**40, -(2**40)])
    expected = x[[0, 4, 4, 4, 0]]
    np.testing.assert_array_equal(run(gather, "gather", [x, chosen], (5, 3), target, axis=0), expected)


def test_foreign_nodes_are_left_to_others() -> None:
    strange = Tensor("x", (4,), "complex64")
    assert copy.claim(Node("concat", [strange, strange], [Tensor("y", (8,), "complex64")], {"axis": 0})) is None
    x, y = Tensor("x", (4,)), Tensor("y", (6,))
    assert copy.claim(Node("pad", [x], [y], {"before": (1,), "value": 0.0, "mode": "wrap"})) is None
    assert gather.claim(Node("gather", [x, Tensor("i", (2,), "float32")], [Tensor("y", (2,))], {"axis": 0})) is None
