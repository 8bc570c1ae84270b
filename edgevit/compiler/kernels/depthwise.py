"""Depthwise convolution: every channel with its own small filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.operands import NO_EPILOGUE, float_epilogue, operand_arguments, operand_bytes
from edgevit.compiler.kernels.pointwise_ops import convert, typed
from edgevit.compiler.kernels.window import Axis, Place, Windows, emit_windows, window_default, window_space
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "depthwise"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One depthwise convolution.

    Attributes:
        windows: shapes, strides, padding and dilation.
        epilogue: operand 0 is the sum of products.
    """

    windows: Windows
    epilogue: Pointwise = NO_EPILOGUE

    @property
    def filter_size(self) -> int:
        """Elements of all filters."""
        return self.windows.channels * self.windows.rows.kernel * self.windows.columns.kernel

    @property
    def flops(self) -> int:
        """Two per multiply-add, taps in the padding included."""
        return 2 * self.windows.taps

    @property
    def bytes(self) -> int:
        """Input, filters, operands and output, once each."""
        elements = self.windows.input_size + self.filter_size + self.windows.output_size
        return np.dtype(self.windows.dtype).itemsize * elements + operand_bytes(self.epilogue)


def claim(node: Node) -> Workload | None:
    """Workload of a ``depthwise`` node with one filter per channel; float16 ones have a float32 epilogue."""
    if node.op != "depthwise":
        return None
    dtype = node.input(0).dtype
    epilogue = float_epilogue(node) if dtype == "float32" else _half_epilogue(node)
    batch, height, width, channels = node.input(0).shape
    weight, output = node.input(1), node.output.shape
    if epilogue is None or weight.shape[:2] != (channels, 1) or min(node.attrs["pads"]) < 0:
        return None
    top, left, bottom, right = node.attrs["pads"]
    (vertical, horizontal), (tall, wide) = node.attrs["strides"], node.attrs["dilations"]
    rows = Axis(height, output[1], weight.shape[2], vertical, top, bottom, tall)
    columns = Axis(width, output[2], weight.shape[3], horizontal, left, right, wide)
    return Workload(Windows(batch, channels, rows, columns, dtype), epilogue)


def _half_epilogue(node: Node) -> Pointwise | None:
    epilogue: Pointwise | None = node.attrs.get("epilogue")
    known = node.input(0).dtype == "float16" and epilogue is not None and epilogue.dtype == node.output.dtype
    return epilogue if known else None


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """See :func:`edgevit.compiler.kernels.window.window_space`."""
    return window_space(workload.windows, target)


def analytic_default(workload: Workload, target: Target) -> Choice:
    """See :func:`edgevit.compiler.kernels.window.window_default`."""
    return window_default(workload.windows, target, weights=True)


def pack(
    workload: Workload, target: Target, choice: Choice, constants: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Filters (C, 1, KH, KW) with channels last: (KH, KW, C). Other constants stay as they are."""
    weight, *rest = constants
    return [np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), *rest]


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments input, packed filters, epilogue operands, output."""
    windows = workload.windows
    builder = KernelBuilder(name)
    source = builder.argument("source", windows.input_size, windows.dtype)
    weights = builder.argument("weights", workload.filter_size, windows.dtype)
    operands = operand_arguments(builder, workload.epilogue)
    output = builder.argument("output", windows.output_size, workload.epilogue.dtype)
    # A bias is not rounded to float16.
    peel = windows.dtype == "float32"
    epilogue = Epilogue(builder, workload.epilogue, operands, windows.output_shape, peel_bias=peel)
    emit_windows(builder, windows, target, choice, source, _Convolution(builder, windows, weights, epilogue, output))
    return builder.finish()


class _Convolution:
    """Sum of products, from the bias on."""

    def __init__(self, builder: KernelBuilder, windows: Windows, weights: Any, epilogue: Epilogue, output: Any) -> None:
        self._builder = builder
        self._windows = windows
        self._weights = weights
        self._epilogue = epilogue
        self._output = output

    def start(self, channel: Expr, lanes: int) -> Expr | None:
        return self._epilogue.start(channel, lanes, lanes) if self._epilogue.starts_from_bias else None

    def empty(self, lanes: int) -> Expr:
        return self._builder.constant(0.0, self._windows.dtype, lanes)

    def weight(self, tap: Expr, channel: Expr, lanes: int) -> Expr | None:
        return self._builder.load(self._weights, tap * self._windows.channels + channel, lanes)

    def step(self, accumulator: Expr | None, value: Expr, weight: Expr | None) -> Expr:
        product = value * weight
        return product if accumulator is None else accumulator + product

    def finish(self, accumulator: Expr, place: Place, lanes: int) -> None:
        total = convert(accumulator, typed("float32", lanes))
        result = self._epilogue.finish(total, place.coords, lanes, lanes)
        self._builder.store(self._output, self._windows.output_index(place.coords), result, lanes)
