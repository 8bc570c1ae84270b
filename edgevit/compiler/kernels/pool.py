"""Maximum and average pooling of NHWC images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import reduce
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.operands import NO_EPILOGUE, float_epilogue, operand_arguments, operand_bytes
from edgevit.compiler.kernels.window import Axis, Place, Windows, emit_windows, window_default, window_space
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "pool"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One pooling.

    Attributes:
        kind: ``max`` or ``average``.
        windows: shapes, strides, padding and dilation.
        include_padding: whether an average counts the padding's zeros.
        epilogue: operand 0 is the maximum or average.
    """

    kind: str
    windows: Windows
    include_padding: bool = False
    epilogue: Pointwise = NO_EPILOGUE

    @property
    def flops(self) -> int:
        """One per tap, taps in the padding included."""
        return self.windows.taps

    @property
    def bytes(self) -> int:
        """Input, operands and output, once each."""
        return 4 * (self.windows.input_size + self.windows.output_size) + operand_bytes(self.epilogue)

    @property
    def whole(self) -> reduce.Workload | None:
        """The same as a reduction, if one window covers the whole image."""
        windows = self.windows
        for axis in (windows.rows, windows.columns):
            if (axis.output, axis.kernel, axis.before, axis.padded_taps(0)) != (1, axis.size, 0, axis.kernel):
                return None
        shape = (windows.batch, windows.rows.size, windows.columns.size, windows.channels)
        return reduce.Workload("max" if self.kind == "max" else "mean", shape, (1, 2), True, self.epilogue)


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``pool`` node."""
    if node.op != "pool" or len(node.outputs) > 1 or node.attrs["kind"] not in ("max", "average"):
        return None
    epilogue = float_epilogue(node)
    top, left, bottom, right = node.attrs["pads"]
    if epilogue is None or min(top, left, bottom, right) < 0:
        return None
    batch, height, width, channels = node.input(0).shape
    output, (tall, wide) = node.output.shape, node.attrs["kernel"]
    (down, across), (high, broad) = node.attrs["strides"], node.attrs.get("dilations", (1, 1))
    rows = Axis(height, output[1], tall, down, top, bottom, high)
    columns = Axis(width, output[2], wide, across, left, right, broad)
    include = bool(node.attrs.get("count_include_pad", False))
    return Workload(node.attrs["kind"], Windows(batch, channels, rows, columns), include, epilogue)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Those of a reduction if one window covers the image, else of windows."""
    whole = workload.whole
    return reduce.space(whole, target) if whole else window_space(workload.windows, target)


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Default of a reduction if one window covers the image, else of windows."""
    whole = workload.whole
    return reduce.analytic_default(whole, target) if whole else window_default(workload.windows, target, weights=False)


def tasks(workload: Workload, target: Target, choice: Choice) -> int:
    """Parts that the threads share: those of a reduction, else rows of output."""
    whole = workload.whole
    return reduce.tasks(whole, target, choice) if whole else target.cores * 2


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments input, epilogue operands, output."""
    if workload.whole:
        return reduce.emit(workload.whole, target, choice, name)
    windows = workload.windows
    builder = KernelBuilder(name)
    source = builder.argument("source", windows.input_size)
    operands = operand_arguments(builder, workload.epilogue)
    output = builder.argument("output", windows.output_size)
    epilogue = Epilogue(builder, workload.epilogue, operands, windows.output_shape, peel_bias=False)
    operation = (_Maximum if workload.kind == "max" else _Average)(builder, workload, epilogue, output)
    emit_windows(builder, windows, target, choice, source, operation)
    return builder.finish()


class _Pool:
    """What maximum and average have in common."""

    def __init__(self, builder: KernelBuilder, workload: Workload, epilogue: Epilogue, output: Any) -> None:
        self._builder = builder
        self._workload = workload
        self._epilogue = epilogue
        self._output = output

    def start(self, _channel: Expr, _lanes: int) -> Expr | None:
        return None

    def weight(self, _tap: Expr, _channel: Expr, _lanes: int) -> Expr | None:
        return None

    def _store(self, value: Expr, place: Place, lanes: int) -> None:
        result = self._epilogue.finish(value, place.coords, lanes, lanes)
        self._builder.store(self._output, self._workload.windows.output_index(place.coords), result, lanes)


class _Maximum(_Pool):
    def empty(self, lanes: int) -> Expr:
        return self._builder.constant(float(np.finfo(np.float32).min), lanes=lanes)

    def step(self, accumulator: Expr | None, value: Expr, _weight: Expr | None) -> Expr:
        return value if accumulator is None else tirx.max(accumulator, value)

    def finish(self, accumulator: Expr, place: Place, lanes: int) -> None:
        self._store(accumulator, place, lanes)


class _Average(_Pool):
    def empty(self, lanes: int) -> Expr:
        return self._builder.constant(0.0, lanes=lanes)

    def step(self, accumulator: Expr | None, value: Expr, _weight: Expr | None) -> Expr:
        return value if accumulator is None else accumulator + value

    def finish(self, accumulator: Expr, place: Place, lanes: int) -> None:
        rows, columns = place.padded if self._workload.include_padding else place.taps
        count = rows * columns
        if isinstance(count, int):
            scale = self._builder.constant(1.0 / max(count, 1))
        else:
            scale = tirx.const(1.0, "float32") / tirx.max(count, 1).astype("float32")
        self._store(accumulator * self._builder.splat(self._builder.bind(scale, "scale"), lanes), place, lanes)
