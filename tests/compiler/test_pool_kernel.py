"""Pooling against ONNX Runtime, over shapes with every kind of edge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_runner import run_kernel
from single_node import draw, make_node, nhwc, run_operator, scale_and_add, some_choices

from edgevit.compiler.kernels import pool
from edgevit.targets import get_target

HOST = get_target("host")

# height, width, channels, kernel, stride, pads (top, left, bottom, right), dilation
CASES = [
    (112, 112, 64, 3, 2, (1, 1, 1, 1), 1),
    (14, 14, 16, 3, 2, (1, 1, 1, 1), 1),
    (15, 7, 20, 3, 1, (1, 1, 1, 1), 1),
    (7, 7, 3, 5, 2, (2, 1, 1, 2), 1),
    (16, 16, 100, 2, 2, (0, 0, 0, 0), 1),
    (15, 16, 24, 3, 2, (0, 0, 1, 1), 1),
    (20, 20, 7, 3, 1, (2, 2, 2, 2), 2),
    (1, 16, 32, 3, 1, (1, 1, 1, 1), 1),
    (14, 14, 32, 7, 7, (0, 0, 0, 0), 1),
    (56, 14, 144, 13, 1, (6, 6, 6, 6), 1),
    (14, 14, 96, 14, 1, (0, 0, 0, 0), 1),
    (40, 40, 8, 20, 20, (0, 0, 0, 0), 1),
    (19, 17, 8, 18, 3, (5, 5, 6, 6), 1),
]
KINDS = [("max", False, 0), ("max", False, 1), ("average", False, 0), ("average", True, 0), ("average", True, 1)]


@pytest.mark.parametrize(("kind", "include", "ceil"), KINDS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_onnx_runtime(case: Any, kind: str, include: bool, ceil: int) -> None:
    height, width, channels, kernel, stride, pads, dilation = case
    x = draw(2, channels, height, width)
    window = {"strides": (stride, stride), "pads": pads, "dilations": (dilation, dilation)}
    onnx_only = {"count_include_pad": int(include)} if kind == "average" else {}
    op = "MaxPool" if kind == "max" else "AveragePool"
    expected = nhwc(run_operator(op, x, kernel_shape=(kernel, kernel), ceil_mode=ceil, **window, **onnx_only))
    attrs = {"kind": kind, "kernel": (kernel, kernel), "count_include_pad": include, **window}
    workload = pool.claim(make_node("pool", [nhwc(x)], expected.shape, **attrs))
    assert workload is not None
    for choice in [pool.analytic_default(workload, HOST), *some_choices(pool.space(workload, HOST), 1)]:
        result = run_kernel(pool.emit(workload, HOST, choice, "kernel"), [nhwc(x)], expected.shape)
        assert np.abs(result - expected).max() <= 1e-5, choice


@pytest.mark.parametrize("kernel", [3, 14])
def test_epilogue(kernel: int) -> None:
    x = draw(1, 20, 14, 14)
    plain = nhwc(run_operator("AveragePool", x, kernel_shape=(kernel, kernel)))
    scale, shift = draw(20), draw(*plain.shape)
    expected = np.maximum(plain * scale + shift, 0)
    program = scale_and_add(plain.shape, scale.shape, shift.shape)
    attrs = {"kind": "average", "kernel": (kernel, kernel), "strides": (1, 1), "pads": (0, 0, 0, 0)}
    node = make_node("pool", [nhwc(x), scale, shift], plain.shape, **attrs, dilations=(1, 1), epilogue=program)
    workload = pool.claim(node)
    assert workload is not None
    func = pool.emit(workload, HOST, pool.analytic_default(workload, HOST), "kernel")
    assert np.abs(run_kernel(func, [nhwc(x), scale, shift], plain.shape) - expected).max() <= 1e-5


def test_other_kinds_and_types_are_refused() -> None:
    attrs = {"kernel": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
    assert pool.claim(make_node("pool", [draw(1, 4, 4, 8)], (1, 2, 2, 8), kind="l2", **attrs)) is None
    node = make_node("pool", [draw(1, 4, 4, 8)], (1, 2, 2, 8), kind="max", **attrs)
    node.input(0).dtype = node.output.dtype = "uint8"
    assert pool.claim(node) is None
