"""Depthwise convolution against ONNX Runtime, over shapes with every kind of edge."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from kernel_runner import run_kernel
from single_node import draw, make_node, nhwc, run_operator, some_choices

from edgevit.compiler.entry import build_module, kernel_entry
from edgevit.compiler.kernels import depthwise
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.targets import get_target

HOST = get_target("host")
FMA = re.compile(r"vfn?madd|fmla")

# height, width, channels, kernel, stride, pads (top, left, bottom, right), dilation
CASES = [
    (16, 16, 16, 3, 1, (1, 1, 1, 1), 1),
    (15, 14, 24, 3, 2, (1, 1, 1, 1), 1),
    (14, 15, 32, 3, 2, (0, 0, 1, 1), 1),
    (56, 7, 64, 3, 1, (1, 1, 1, 1), 1),
    (7, 7, 96, 3, 1, (1, 1, 1, 1), 1),
    (7, 112, 144, 3, 1, (1, 1, 1, 1), 1),
    (112, 16, 3, 3, 2, (1, 1, 1, 1), 1),
    (14, 14, 7, 5, 1, (2, 2, 2, 2), 1),
    (15, 16, 20, 5, 2, (2, 2, 2, 2), 1),
    (14, 7, 100, 7, 1, (3, 3, 3, 3), 1),
    (9, 16, 32, 7, 2, (3, 2, 1, 3), 1),
    (1, 1, 24, 3, 1, (1, 1, 1, 1), 1),
    (1, 16, 16, 3, 1, (1, 1, 1, 1), 1),
    (7, 7, 64, 7, 1, (0, 0, 0, 0), 1),
    (20, 17, 24, 3, 1, (4, 4, 4, 4), 4),
    (8, 8, 32, 3, 1, (12, 12, 12, 12), 12),
    (16, 15, 20, 3, 2, (2, 0, 1, 3), 2),
    (24, 24, 16, 19, 1, (9, 9, 9, 9), 1),
]


def attributes(kernel: int, stride: int, pads: tuple[int, ...], dilation: int) -> dict[str, Any]:
    return {"strides": (stride, stride), "pads": pads, "dilations": (dilation, dilation)}


def run(workload: depthwise.Workload, choice: dict[str, int], x: np.ndarray, constants: list[np.ndarray]) -> np.ndarray:
    assert all(choice[key] in values for key, values in depthwise.space(workload, HOST).items())
    packed = depthwise.pack(workload, HOST, choice, constants)
    kernel = depthwise.emit(workload, HOST, choice, "kernel")
    return run_kernel(kernel, [x, *packed], workload.windows.output_shape)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_onnx_runtime(case: Any) -> None:
    height, width, channels, kernel, *rest = case
    x, weight = draw(2, channels, height, width), draw(channels, 1, kernel, kernel)
    attrs = attributes(kernel, *rest)
    expected = nhwc(run_operator("Conv", x, [weight], group=channels, **attrs))
    workload = depthwise.claim(make_node("depthwise", [nhwc(x), weight], expected.shape, **attrs))
    assert workload is not None
    for choice in [depthwise.analytic_default(workload, HOST), *some_choices(depthwise.space(workload, HOST), 2)]:
        result = run(workload, choice, nhwc(x), [weight])
        assert np.abs(result - expected).max() <= 1e-5 * max(1, np.abs(expected).max()), choice


@pytest.mark.parametrize("channels", [7, 24, 64])
@pytest.mark.parametrize("kernel", [3, 5])
def test_bias_activation_and_residual_are_fused(channels: int, kernel: int) -> None:
    x, weight, bias = draw(1, channels, 14, 15), draw(channels, 1, kernel, kernel), draw(channels)
    attrs = attributes(kernel, 1, (kernel // 2,) * 4, 1)
    plain = nhwc(run_operator("Conv", x, [weight, bias], group=channels, **attrs)).astype(np.float64)
    residual = draw(*plain.shape)
    expected = plain / (1 + np.exp(-plain)) + residual
    epilogue = Pointwise(
        (Operand(plain.shape), Operand((channels,)), Operand(plain.shape)),
        (Term("add", (0, 1)), Term("silu", (3,)), Term("add", (4, 2))),
    )
    node = make_node("depthwise", [nhwc(x), weight, bias, residual], plain.shape, **attrs, epilogue=epilogue)
    workload = depthwise.claim(node)
    assert workload is not None
    for choice in [depthwise.analytic_default(workload, HOST), *some_choices(depthwise.space(workload, HOST), 1)]:
        result = run(workload, choice, nhwc(x), [weight, bias, residual])
        assert np.abs(result - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_channel_multiplier_and_other_types_are_refused() -> None:
    attrs = attributes(3, 1, (1, 1, 1, 1), 1)
    doubled = make_node("depthwise", [draw(1, 8, 8, 4), draw(8, 1, 3, 3)], (1, 8, 8, 8), **attrs)
    assert depthwise.claim(doubled) is None
    whole = make_node("depthwise", [draw(1, 8, 8, 4), draw(4, 1, 3, 3)], (1, 8, 8, 4), **attrs)
    whole.output.dtype = "int32"
    assert depthwise.claim(whole) is None


def test_work_is_counted() -> None:
    attrs = attributes(3, 2, (1, 1, 1, 1), 1)
    node = make_node("depthwise", [draw(1, 8, 8, 4), draw(4, 1, 3, 3)], (1, 4, 4, 4), **attrs)
    workload = depthwise.claim(node)
    assert workload is not None
    assert workload.flops == 2 * 4 * 4 * 4 * 9
    assert workload.bytes == 4 * (8 * 8 * 4 + 36 + 4 * 4 * 4)


@pytest.mark.parametrize("target", ["rpi5", "rpi3", "x86-64-v4"])
@pytest.mark.parametrize("shape", [(60, 60, 64, 3, 1), (56, 56, 64, 3, 2), (28, 28, 64, 5, 1), (28, 28, 64, 7, 1)])
def test_accumulators_stay_in_registers(target: str, shape: tuple[int, ...]) -> None:
    """Whole tiles only: a narrow last tile may be unrolled by LLVM until it spills, which few columns pay for."""
    height, width, channels, kernel, stride = shape
    attrs = attributes(kernel, stride, (kernel // 2,) * 4, 1)
    arrays = [np.empty((1, height, width, channels), np.float32), np.empty((channels, 1, kernel, kernel), np.float32)]
    node = make_node("depthwise", arrays, (1, -(-height // stride), -(-width // stride), channels), **attrs)
    workload, device = depthwise.claim(node), get_target(target)
    assert workload is not None
    func = depthwise.emit(workload, device, depthwise.analytic_default(workload, device), "kernel")
    sizes = [workload.windows.input_size, workload.filter_size, workload.windows.output_size]
    assembly = build_module(kernel_entry(func, [(size, "float32") for size in sizes]), device).mod.inspect_source("asm")
    vector_move = re.compile(r"(ldr|str|ldp|stp|ldur|stur)\s+q.*\[sp|vmov[au]p[sd]\s.*\(%rsp\)")
    blocks = [block for block in re.split(r"^\.L\w+:", assembly, flags=re.MULTILINE) if len(FMA.findall(block)) >= 8]
    assert blocks
    for block in blocks:
        assert len(vector_move.findall(block)) <= 0.02 * len(block.splitlines())
