"""Pooling and resizing on emulated GPUs against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgevit.compiler.gpu import pool, resize
from edgevit.compiler.kernels.resize import COORDINATES, ROUNDINGS
from tests.compiler.single_node import nhwc, run_operator, scale_and_add
from tests.gpu.gpu_kernels import DEVICES, LANGUAGES, Case, check, draw, make_case

# height, width, channels, kernel, stride, pads (top, left, bottom, right), dilation, ceil mode
WINDOWS = [
    (28, 28, 16, 3, 2, (1, 1, 1, 1), 1, 0),
    (15, 7, 6, 3, 1, (1, 1, 1, 1), 1, 0),
    (7, 7, 3, 5, 2, (2, 1, 1, 2), 1, 1),
    (15, 16, 24, 3, 2, (0, 0, 1, 1), 1, 1),
    (20, 20, 7, 3, 1, (2, 2, 2, 2), 2, 0),
    (14, 14, 96, 14, 1, (0, 0, 0, 0), 1, 0),
]
KINDS = [("max", False), ("average", False), ("average", True)]
# height, width, channels, output height, output width
SIZES = [(7, 7, 20, 14, 14), (16, 15, 3, 50, 51), (15, 14, 6, 7, 20), (5, 1, 7, 1, 4)]


def pooling(case: Any, kind: str, *, include: bool) -> Case:
    height, width, channels, kernel, stride, pads, dilation, ceil = case
    x = draw(2, channels, height, width)
    window = {"strides": (stride, stride), "pads": pads, "dilations": (dilation, dilation)}
    only: dict[str, Any] = {"count_include_pad": int(include)} if kind == "average" else {}
    op = "MaxPool" if kind == "max" else "AveragePool"
    expected = nhwc(run_operator(op, x, kernel_shape=(kernel, kernel), ceil_mode=ceil, **window, **only))
    attrs: dict[str, Any] = {"kind": kind, "kernel": (kernel, kernel), "count_include_pad": include, **window}
    return make_case("pool", [nhwc(x)], expected, **attrs)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_pooling(device: tuple[str, str]) -> None:
    check(pool, [pooling(case, kind, include=include) for case in WINDOWS for kind, include in KINDS], device)


@pytest.mark.parametrize("kernel", [3, 14])
def test_epilogue_of_pooling(kernel: int) -> None:
    x = draw(1, 20, 14, 14)
    plain = nhwc(run_operator("AveragePool", x, kernel_shape=(kernel, kernel)))
    factor, addend = draw(20), draw(*plain.shape)
    program = scale_and_add(plain.shape, factor.shape, addend.shape)
    attrs: dict[str, Any] = {
        "kind": "average",
        "kernel": (kernel, kernel),
        "strides": (1, 1),
        "pads": (0, 0, 0, 0),
        "dilations": (1, 1),
    }
    case = make_case(
        "pool", [nhwc(x), factor, addend], np.maximum(plain * factor + addend, 0), **attrs, epilogue=program
    )
    check(pool, [case], DEVICES[1])


def resizing(case: Any, mode: str, rounding: str, coordinates: str) -> Case:
    height, width, channels, *size = case
    x = draw(1, channels, height, width)
    attrs: dict[str, Any] = {"mode": mode, "nearest_mode": rounding}
    sizes = np.array([1, channels, *size], np.int64)
    expected = run_operator("Resize", x, [None, None, sizes], coordinate_transformation_mode=coordinates, **attrs)
    scales = size[0] / height, size[1] / width
    return make_case("resize", [nhwc(x)], nhwc(expected), **attrs, coordinates=coordinates, scales=scales)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_bilinear(device: tuple[str, str]) -> None:
    check(resize, [resizing(case, "linear", "floor", c) for case in SIZES for c in COORDINATES], device)


@pytest.mark.parametrize("device", LANGUAGES, ids=str)
def test_nearest_neighbour(device: tuple[str, str]) -> None:
    # half_pixel_symmetric's ties fall on either side, depending on how its offset was rounded.
    systems = [c for c in COORDINATES if c != "half_pixel_symmetric"]
    cases = [
        resizing(SIZES[(i + j) % 4], "nearest", r, c) for i, c in enumerate(systems) for j, r in enumerate(ROUNDINGS)
    ]
    check(resize, cases, device)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_epilogue_of_resizing(mode: str) -> None:
    x = draw(1, 6, 7, 7)
    plain = nhwc(run_operator("Resize", x, [None, np.array([1, 1, 2, 2], np.float32)], mode=mode))
    factor, addend = draw(6), draw(*plain.shape)
    program = scale_and_add(plain.shape, factor.shape, addend.shape)
    expected = np.maximum(plain * factor + addend, 0)
    case = make_case("resize", [nhwc(x), factor, addend], expected, mode=mode, scales=(2, 2), epilogue=program)
    check(resize, [case], DEVICES[0])
