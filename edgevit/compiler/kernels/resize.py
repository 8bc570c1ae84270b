"""Resizing of NHWC images: nearest neighbour and bilinear.

Source positions are computed in single precision in the order of ONNX Runtime's arithmetic, so that ties fall the
same way. Each task fills tables of source columns once for its rows. Bilinear output rows come from one
interpolated input row, kept in scratch, where that is less work than four reads per result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.operands import NO_EPILOGUE, float_epilogue, operand_arguments, operand_bytes
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "resize"
VERSION = 1

COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")

_SERIAL_ELEMENTS = 20_000


@dataclass(frozen=True)
class Workload:
    """One resize.

    Attributes:
        shape: of the input, NHWC.
        size: output height and width.
        mode: ``nearest`` or ``linear``.
        coordinates: ONNX's coordinate_transformation_mode.
        rounding: ONNX's nearest_mode; ignored by ``linear``.
        scales: vertical, horizontal.
        epilogue: operand 0 is the resized value.
    """

    shape: tuple[int, int, int, int]
    size: tuple[int, int]
    mode: str
    coordinates: str
    rounding: str
    scales: tuple[float, float]
    epilogue: Pointwise = NO_EPILOGUE

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """NHWC."""
        return self.shape[0], *self.size, self.shape[3]

    @property
    def flops(self) -> int:
        """Three linear interpolations of three operations each per result; none for ``nearest``."""
        return 9 * prod(self.output_shape) if self.mode == "linear" else 0

    @property
    def bytes(self) -> int:
        """Input, operands and output, once each."""
        return 4 * (prod(self.shape) + prod(self.output_shape)) + operand_bytes(self.epilogue)


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``resize`` node."""
    if node.op != "resize" or node.attrs["mode"] not in ("nearest", "linear"):
        return None
    epilogue, shape, output = float_epilogue(node), node.input(0).shape, node.output.shape
    coordinates = node.attrs.get("coordinates", "half_pixel")
    rounding = node.attrs.get("nearest_mode", "round_prefer_floor")
    if epilogue is None or coordinates not in COORDINATES or rounding not in ROUNDINGS:
        return None
    if (shape[0], shape[3]) != (output[0], output[3]):
        return None
    vertical, horizontal = (float(scale) for scale in node.attrs["scales"])
    size = output[1], output[2]
    return Workload(
        (shape[0], shape[1], shape[2], shape[3]),
        size,
        node.attrs["mode"],
        coordinates,
        rounding,
        (vertical, horizontal),
        epilogue,
    )


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Choices of a kernel.

    ``rows``: output rows of a task. ``line``: whether bilinear rows go through an interpolated input row.
    """
    rows = tuple(count for count in (1, 2, 4, 8, 16, 32) if count <= workload.size[0])
    return {"rows": rows, "line": (0, 1) if workload.mode == "linear" else (0,)}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Several tasks a core; an interpolated row where the input row is not the longer one."""
    height, width = workload.size
    tasks = 4 * target.cores
    rows = max((count for count in (1, 2, 4, 8, 16) if workload.shape[0] * height >= tasks * count), default=1)
    line = workload.mode == "linear" and workload.shape[2] <= width
    return {"rows": rows, "line": int(line)}


def tasks(workload: Workload, _target: Target, choice: Choice) -> int:
    """Parts that the threads share: strips of output rows."""
    return int(workload.shape[0]) * -(-workload.size[0] // choice["rows"])


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments input, epilogue operands, output."""
    builder = KernelBuilder(name)
    source = builder.argument("source", prod(workload.shape))
    operands = operand_arguments(builder, workload.epilogue)
    output = builder.argument("output", prod(workload.output_shape))
    epilogue = Epilogue(builder, workload.epilogue, operands, workload.output_shape, peel_bias=False)
    _Resize(builder, workload, target, choice, source, epilogue, output).emit()
    return builder.finish()


def source_position(index: Expr, size: int, resized: int, scale: float, coordinates: str) -> Expr:
    """Where output element ``index`` lies on an input axis, before it is clamped.

    Args:
        index: output position, int32.
        size: input extent.
        resized: output extent.
        scale: output over input, as the model has it.
        coordinates: one of ``COORDINATES``; formulas of ONNX's Resize operator.
    """
    place, factor = index.astype("float32"), tirx.const(float(np.float32(scale)), "float32")
    if coordinates == "align_corners":
        if resized == 1:
            return tirx.const(0.0, "float32")
        return place * tirx.const(size - 1.0, "float32") / tirx.const(resized - 1.0, "float32")
    if coordinates == "asymmetric":
        return place / factor
    if coordinates == "pytorch_half_pixel" and resized == 1:
        return tirx.const(0.0, "float32")
    half = tirx.const(0.5, "float32")
    if coordinates != "half_pixel_symmetric":
        return (place + half) / factor - half
    # A fractional output size would not be the integral one; the difference is shared by both ends.
    adjustment = np.float32(resized) / (np.float32(scale) * np.float32(size))
    offset = np.float32(size) / np.float32(2) * (np.float32(1) - adjustment)
    return tirx.const(float(offset), "float32") + (place + half) / factor - half


class _Resize:
    def __init__(
        self,
        builder: KernelBuilder,
        workload: Workload,
        target: Target,
        choice: Choice,
        source: Any,
        epilogue: Epilogue,
        output: Any,
    ) -> None:
        self._builder = builder
        self._workload = workload
        self._choice = choice
        self._source = source
        self._epilogue = epilogue
        self._output = output
        self._channels = workload.shape[3]
        self._lanes = min(target.vector.lanes(32), 1 << (self._channels.bit_length() - 1))

    def emit(self) -> None:
        builder, work = self._builder, self._workload
        batch, height = work.shape[0], work.size[0]
        groups = -(-height // self._choice["rows"])
        spread = builder.parallel if prod(work.output_shape) > _SERIAL_ELEMENTS else builder.loop
        with spread(batch * groups, "task") as task:
            image = builder.bind(tirx.truncdiv(task, groups), "image")
            first = builder.bind(tirx.truncmod(task, groups) * self._choice["rows"], "first")
            rows: Expr = self._choice["rows"]
            if height % self._choice["rows"]:
                rows = minimum(height - first, rows)
            if work.mode == "nearest":
                self._nearest(image, first, rows)
            else:
                self._linear(image, first, rows)

    def _position(self, axis: int, index: Expr) -> Expr:
        work = self._workload
        return source_position(index, work.shape[1 + axis], work.size[axis], work.scales[axis], work.coordinates)

    # Nearest neighbour

    def _nearest(self, image: Expr, first: Expr, rows: Expr) -> None:
        builder, work, channels = self._builder, self._workload, self._channels
        table = builder.scratch(work.size[1], "int32", "columns")
        with builder.loop(work.size[1], "column") as column:
            builder.store(table, column, self._nearest_index(1, column) * channels)
        with builder.loop(rows, "row") as step:
            row = builder.bind(first + step, "row")
            line = (image * work.shape[1] + self._nearest_index(0, row)) * (work.shape[2] * channels)
            line = builder.bind(line, "line")
            with builder.loop(work.size[1], "column") as column:
                place = builder.bind(line + builder.load(table, column), "place")
                with self._vectors() as channel:
                    value = builder.load(self._source, place + channel, self._lanes)
                    self._store(value, (image, row, column, channel))

    def _nearest_index(self, axis: int, index: Expr) -> Expr:
        place, half = self._position(axis, index), tirx.const(0.5, "float32")
        rounded = {
            "floor": lambda: tirx.floor(place),
            "ceil": lambda: tirx.ceil(place),
            "round_prefer_floor": lambda: tirx.ceil(place - half),
            "round_prefer_ceil": lambda: tirx.floor(place + half),
        }[self._workload.rounding]()
        last = self._workload.shape[1 + axis] - 1
        return self._builder.bind(tirx.max(minimum(rounded.astype("int32"), last), 0), "nearest")

    # Bilinear

    def _linear(self, image: Expr, first: Expr, rows: Expr) -> None:
        builder, work, channels = self._builder, self._workload, self._channels
        width = work.size[1]
        left, right = (builder.scratch(width, "int32", name) for name in ("left", "right"))
        shares = builder.scratch(width, "float32", "shares")
        with builder.loop(width, "column") as column:
            low, high, share = self._neighbours(1, column)
            builder.store(left, column, low * channels)
            builder.store(right, column, high * channels)
            builder.store(shares, column, share)
        line = builder.scratch(work.shape[2] * channels, name="line") if self._choice["line"] else None
        with builder.loop(rows, "row") as step:
            row = builder.bind(first + step, "row")
            low, high, share = self._neighbours(0, row)
            above, below = (
                builder.bind((image * work.shape[1] + index) * (work.shape[2] * channels), "line")
                for index in (low, high)
            )
            if line is not None:
                self._interpolate_line(line, above, below, share)
            with builder.loop(width, "column") as column:
                ends = [builder.bind(builder.load(table, column), "end") for table in (left, right)]
                weight = builder.splat(builder.bind(builder.load(shares, column), "share"), self._lanes)
                with self._vectors() as channel:
                    if line is not None:
                        near, far = (builder.load(line, end + channel, self._lanes) for end in ends)
                    else:
                        near, far = (self._between(above, below, end + channel, share) for end in ends)
                    self._store(self._mix(near, far, weight), (image, row, column, channel))

    def _neighbours(self, axis: int, index: Expr) -> tuple[Expr, Expr, Expr]:
        """Input positions before and after an output position, and the share of the latter."""
        builder, last = self._builder, self._workload.shape[1 + axis] - 1
        place = tirx.max(self._position(axis, index), tirx.const(0.0, "float32"))
        place = builder.bind(minimum(place, tirx.const(float(last), "float32")), "position")
        low = builder.bind(minimum(place.astype("int32"), last), "low")
        share = builder.bind(place - low.astype("float32"), "share")
        return low, builder.bind(minimum(low + 1, last), "high"), share

    def _interpolate_line(self, line: Any, above: Expr, below: Expr, share: Expr) -> None:
        builder, length = self._builder, self._workload.shape[2] * self._channels
        lanes = self._lanes
        weight = builder.bind(builder.splat(share, lanes), "share")
        with builder.loop(-(-length // lanes), "piece") as piece:
            place = builder.bind(minimum(piece * lanes, length - lanes) if length % lanes else piece * lanes, "place")
            near, far = (builder.load(self._source, start + place, lanes) for start in (above, below))
            builder.store(line, place, self._mix(near, far, weight), lanes)

    def _between(self, above: Expr, below: Expr, offset: Expr, share: Expr) -> Expr:
        near, far = (self._builder.load(self._source, start + offset, self._lanes) for start in (above, below))
        return self._mix(near, far, self._builder.splat(share, self._lanes))

    def _mix(self, near: Expr, far: Expr, share: Expr) -> Expr:
        near = self._builder.bind(near, "near")
        return self._builder.bind(near + (far - near) * share, "mixed")

    @contextmanager
    def _vectors(self) -> Iterator[Expr]:
        """First channels of the vectors of one pixel; the last overlaps its neighbour if they do not fit."""
        channels, lanes = self._channels, self._lanes
        with self._builder.loop(-(-channels // lanes), "vector") as vector:
            start = vector * lanes
            yield self._builder.bind(minimum(start, channels - lanes) if channels % lanes else start, "channel")

    def _store(self, value: Expr, coords: tuple[Expr, Expr, Expr, Expr]) -> None:
        image, row, column, channel = coords
        height, width = self._workload.size
        place = ((image * height + row) * width + column) * self._channels + channel
        result = self._epilogue.finish(value, coords, self._lanes, self._lanes)
        self._builder.store(self._output, place, result, self._lanes)
