"""Resizing against ONNX Runtime, in all its coordinate systems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from kernel_runner import run_kernel
from single_node import draw, make_node, nhwc, run_operator, scale_and_add, some_choices

from edgevit.compiler.kernels import resize
from edgevit.targets import get_target

HOST = get_target("host")

# height, width, channels, output height, output width
CASES = [(7, 7, 20, 14, 14), (16, 15, 3, 100, 51), (15, 14, 24, 7, 20), (8, 8, 21, 64, 64), (5, 1, 7, 1, 4)]
MODES = [("linear", "floor"), *(("nearest", rounding) for rounding in resize.ROUNDINGS)]


def decided(size: int, resized: int) -> np.ndarray:
    """Output positions whose source does not lie on a tie of any rounding.

    Single precision puts half_pixel_symmetric's ties on either side, depending on how its offset was rounded.
    """
    twice = 2 * ((np.arange(resized) + 0.5) * size / resized - 0.5)
    return np.flatnonzero(np.abs(twice - np.round(twice)) > 1e-5)


@pytest.mark.parametrize(("mode", "rounding"), MODES)
@pytest.mark.parametrize("coordinates", resize.COORDINATES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_onnx_runtime(case: Any, coordinates: str, mode: str, rounding: str) -> None:
    height, width, channels, *size = case
    x = draw(2, channels, height, width)
    scales = size[0] / height, size[1] / width
    attrs = {"mode": mode, "nearest_mode": rounding}
    sizes = np.array([2, channels, *size], np.int64)
    expected = nhwc(run_operator("Resize", x, [None, None, sizes], coordinate_transformation_mode=coordinates, **attrs))
    node = make_node("resize", [nhwc(x)], expected.shape, coordinates=coordinates, scales=scales, **attrs)
    workload = resize.claim(node)
    assert workload is not None
    for choice in [resize.analytic_default(workload, HOST), *some_choices(resize.space(workload, HOST), 1)]:
        result = run_kernel(resize.emit(workload, HOST, choice, "kernel"), [nhwc(x)], expected.shape)
        error = np.abs(result - expected)
        if (mode, coordinates) == ("nearest", "half_pixel_symmetric"):
            error = error[:, decided(height, size[0])][:, :, decided(width, size[1])]
        assert error.max(initial=0) <= 2e-5 * max(1, np.abs(expected).max()), choice


@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "asymmetric"])
@pytest.mark.parametrize("scales", [(1.9, 0.73), (3.3, 1.27)])
def test_scales_that_give_no_whole_size(coordinates: str, scales: tuple[float, float]) -> None:
    x = draw(1, 16, 14, 15)
    scale = np.array([1, 1, *scales], np.float32)
    given = run_operator("Resize", x, [None, scale], coordinate_transformation_mode=coordinates, mode="linear")
    expected = nhwc(given)
    node = make_node("resize", [nhwc(x)], expected.shape, mode="linear", coordinates=coordinates, scales=scales)
    workload = resize.claim(node)
    assert workload is not None
    func = resize.emit(workload, HOST, resize.analytic_default(workload, HOST), "kernel")
    assert np.abs(run_kernel(func, [nhwc(x)], expected.shape) - expected).max() <= 2e-5


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_epilogue(mode: str) -> None:
    x = draw(1, 20, 7, 7)
    plain = nhwc(run_operator("Resize", x, [None, np.array([1, 1, 2, 2], np.float32)], mode=mode))
    scale, shift = draw(20), draw(*plain.shape)
    expected = np.maximum(plain * scale + shift, 0)
    program = scale_and_add(plain.shape, scale.shape, shift.shape)
    node = make_node("resize", [nhwc(x), scale, shift], plain.shape, mode=mode, scales=(2, 2), epilogue=program)
    workload = resize.claim(node)
    assert workload is not None
    func = resize.emit(workload, HOST, resize.analytic_default(workload, HOST), "kernel")
    assert np.abs(run_kernel(func, [nhwc(x), scale, shift], plain.shape) - expected).max() <= 1e-5


def test_what_it_does_not_know_is_refused() -> None:
    attrs = {"scales": (2.0, 2.0), "coordinates": "half_pixel"}
    assert resize.claim(make_node("resize", [draw(1, 4, 4, 8)], (1, 8, 8, 8), mode="cubic", **attrs)) is None
    attrs["coordinates"] = "tf_crop_and_resize"
    assert resize.claim(make_node("resize", [draw(1, 4, 4, 8)], (1, 8, 8, 8), mode="linear", **attrs)) is None
