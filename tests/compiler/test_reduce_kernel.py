"""Reductions against ONNX Runtime, over every order of kept and reduced axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_runner import run_kernel
from single_node import draw, make_node, run_operator, scale_and_add, some_choices

from edgevit.compiler.kernels import reduce
from edgevit.targets import get_target

HOST = get_target("host")
OPERATORS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "l2": "ReduceL2",
}
CASES = [
    ((1, 7, 7, 100), (1, 2)),
    ((2, 14, 15, 24), (1, 2)),
    ((1, 64, 96, 32), (1, 2)),
    ((2, 100, 100, 7), (1, 2)),
    ((1, 1, 1, 96), (1, 2)),
    ((5, 7, 20), (2,)),
    ((300, 144), (1,)),
    ((300, 144), (0,)),
    ((9, 130, 3), (1,)),
    ((4, 33), (1,)),
    ((3, 1000), (1,)),
    ((3, 4, 5, 6, 7), (1, 3)),
    ((3, 4, 5, 6, 7), (0, 2, 4)),
    ((70, 1, 130), (0, 2)),
    ((16, 3), (0, 1)),
    ((1, 1, 7), (0,)),
    ((1, 1), (0, 1)),
]


def run(workload: reduce.Workload, choice: dict[str, int], *arrays: np.ndarray) -> np.ndarray:
    return run_kernel(reduce.emit(workload, HOST, choice, "kernel"), arrays, workload.output_shape)


@pytest.mark.parametrize("kind", OPERATORS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_onnx_runtime(case: Any, kind: str) -> None:
    shape, axes = case
    x = draw(*shape)
    if kind == "prod":
        x = np.exp(0.02 * x)
    keepdims = len(axes) < len(shape)
    expected = run_operator(OPERATORS[kind], x, [np.array(axes, np.int64)], keepdims=int(keepdims))
    workload = reduce.claim(make_node("reduce", [x], expected.shape, kind=kind, axes=axes, keepdims=keepdims))
    assert workload is not None
    assert workload.output_shape == expected.shape
    # Rounding is relative to the terms: their sum may cancel to nearly nothing.
    scale = 1e-5 * np.maximum(1, np.abs(expected))
    if kind in ("sum", "mean"):
        scale = 1e-6 * getattr(np, kind)(np.abs(x), axis=axes, keepdims=keepdims)
    extra = some_choices(reduce.space(workload, HOST), 2) if kind == "sum" else []
    for choice in [reduce.analytic_default(workload, HOST), *extra]:
        assert np.all(np.abs(run(workload, choice, x) - expected) <= scale), choice


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize(
    ("shape", "axes", "scale"),
    [
        ((2, 14, 14, 24), (1, 2), (24,)),
        ((2, 14, 15, 24), (3,), (14, 15)),
        ((3, 9, 6, 20), (1,), (6, 1)),
        ((128, 128, 32), (0, 1), (32,)),
    ],
)
def test_epilogue(shape: tuple[int, ...], axes: tuple[int, ...], scale: tuple[int, ...], keepdims: bool) -> None:
    x = draw(*shape)
    plain = run_operator("ReduceMean", x, [np.array(axes, np.int64)], keepdims=int(keepdims))
    if keepdims and axes[-1] == len(shape) - 1:
        scale = (*scale, 1)
    factor, shift = draw(*scale), draw(*plain.shape)
    expected = np.maximum(plain * factor + shift, 0)
    program = scale_and_add(plain.shape, factor.shape, shift.shape)
    attrs = {"kind": "mean", "axes": axes, "keepdims": keepdims, "epilogue": program}
    workload = reduce.claim(make_node("reduce", [x, factor, shift], plain.shape, **attrs))
    assert workload is not None
    result = run(workload, reduce.analytic_default(workload, HOST), x, factor, shift)
    assert np.abs(result - expected).max() <= 1e-5


def test_long_sums_stay_accurate() -> None:
    x = draw(1, 256, 256, 8) + 1
    workload = reduce.Workload("mean", x.shape, (1, 2), True)
    result = run(workload, reduce.analytic_default(workload, HOST), x)
    assert np.abs(result - x.astype(np.float64).mean((1, 2), keepdims=True)).max() <= 2e-6


def test_other_types_are_refused() -> None:
    node = make_node("reduce", [draw(4, 4)], (4, 1), kind="sum", axes=(1,), keepdims=True)
    node.input(0).dtype = "int64"
    assert reduce.claim(node) is None
