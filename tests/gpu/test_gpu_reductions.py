"""Softmax and reductions on emulated GPUs against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.gpu import reduce, softmax
from tests.compiler.single_node import run_operator, scale_and_add
from tests.gpu.gpu_kernels import DEVICES, Case, check, draw, make_case

ROWS = [(3, 7), (1, 1000), (4, 64, 64), (5, 1), (2, 1, 4100), (3, 2051), (37, 50)]
OPERATORS = {
    "mean": "ReduceMean",
    "sum": "ReduceSum",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "l2": "ReduceL2",
}
REDUCTIONS = [
    ("mean", (1, 7, 7, 960), (1, 2), True),
    ("mean", (2, 56, 56, 6), (1, 2), False),
    ("mean", (300, 144), (1,), True),
    ("max", (5, 7, 20), (2,), True),
    ("min", (300, 144), (0,), False),
    ("l2", (9, 130, 3), (1,), True),
    ("sum", (4, 33), (0, 1), False),
    ("max", (2, 3, 4, 5, 6), (0, 2, 4), True),
    ("l2", (2, 3, 4, 5, 8), (1, 3), False),
    ("sum", (3, 1, 5), (1,), False),
    ("prod", (2, 3, 8, 1), (1,), True),
    ("sum", (6, 2050), (1,), False),
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_softmax(device: tuple[str, str]) -> None:
    cases = []
    for shape in ROWS:
        x = draw(*shape, scale=3)
        cases.append(make_case("softmax", [x], run_operator("Softmax", x, axis=-1)))
        cases.append(make_case("softmax", [x], run_operator("LogSoftmax", x, axis=-1), log=True))
    masked = draw(3, 40)
    masked[:, ::2] = -np.inf
    cases.append(make_case("softmax", [masked], run_operator("Softmax", masked, axis=-1)))
    check(softmax, cases, device)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_reductions(device: tuple[str, str]) -> None:
    cases = []
    for kind, shape, axes, keepdims in REDUCTIONS:
        x = draw(*shape)
        expected = run_operator(OPERATORS[kind], x, axes=list(axes), keepdims=int(keepdims), opset=11)
        cases.append(make_case("reduce", [x], expected, kind=kind, axes=axes, keepdims=keepdims))
    check(reduce, cases, device)


@pytest.mark.parametrize("device", DEVICES[:2], ids=str)
def test_epilogue_of_a_reduction(device: tuple[str, str]) -> None:
    check(reduce, [_with_epilogue((2, 7, 7, 20), (1, 2)), _with_epilogue((2, 3, 8, 1), (1,))], device)


def _with_epilogue(shape: tuple[int, ...], axes: tuple[int, ...]) -> Case:
    x = draw(*shape)
    plain = run_operator("ReduceMean", x, axes=list(axes), keepdims=1, opset=11)
    factor, addend = draw(shape[-1]), draw(*plain.shape)
    program = scale_and_add(plain.shape, factor.shape, addend.shape)
    expected = np.maximum(plain * factor + addend, 0)
    attrs: dict[str, Any] = {"kind": "mean", "axes": axes, "keepdims": True, "epilogue": program}
    return make_case("reduce", [x, factor, addend], expected, **attrs)
