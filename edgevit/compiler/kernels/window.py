"""Sliding windows over NHWC images, channel by channel: the loops that depthwise convolution and pooling share.

A tile is a few neighbouring output pixels times one vector of channels. Every input vector of the tile is loaded
once and serves all the windows that cover it. Padding costs nothing: taps outside the image are left out when the
code is written (columns: the tiles at the left and right edge get code of their own) or by the bounds of the loop
over window rows (top and bottom).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

LONGEST_UNROLLED = 16
"""Windows wider than this are walked by a loop, one output pixel at a time."""

_SERIAL_TAPS = 20_000


@dataclass(frozen=True)
class Axis:
    """Windows along one image axis.

    Attributes:
        size: input extent.
        output: number of windows.
        kernel: taps of a window.
        stride: distance between windows.
        before: padding in front.
        after: padding behind.
        dilation: distance between taps.
    """

    size: int
    output: int
    kernel: int
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1

    def valid(self, window: int, tap: int) -> bool:
        """Whether a tap lies inside the image."""
        return 0 <= window * self.stride - self.before + tap * self.dilation < self.size

    def padded_taps(self, window: int) -> int:
        """Taps inside the padded image; fewer than the kernel has where the last windows stick out."""
        left = self.size + self.after - (window * self.stride - self.before)
        return max(0, min(self.kernel, -(-left // self.dilation)))

    @property
    def interior(self) -> tuple[int, int]:
        """First window with all taps inside the image, and the one after the last such."""
        reach = (self.kernel - 1) * self.dilation
        first = -(-self.before // self.stride)
        last = (self.size - 1 - reach + self.before) // self.stride
        return first, max(first, min(self.output, last + 1))

    def valid_taps(self, builder: KernelBuilder, window: Expr) -> tuple[Expr, Expr]:
        """First tap inside the image, and how many there are, for a window known only at run time."""
        start = window * self.stride - self.before
        first: Expr = tirx.const(0, "int32")
        if self.before > 0:
            first = tirx.max(first, tirx.truncdiv(self.dilation - 1 - start, self.dilation))
        end = minimum(tirx.truncdiv(self.size - start + self.dilation - 1, self.dilation), self.kernel)
        first = builder.bind(first, "first")
        return first, builder.bind(tirx.max(end - first, 0), "taps")

    def padded_taps_of(self, window: Expr) -> Expr:
        """:meth:`padded_taps` of a window known only at run time."""
        left = self.size + self.after + self.before - window * self.stride
        return tirx.max(minimum(tirx.truncdiv(left + self.dilation - 1, self.dilation), self.kernel), 0)


@dataclass(frozen=True)
class Windows:
    """All windows of an NHWC image batch; every channel has its own. ``dtype`` is the image's."""

    batch: int
    channels: int
    rows: Axis
    columns: Axis
    dtype: str = "float32"

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        """NHWC."""
        return self.batch, self.rows.output, self.columns.output, self.channels

    def output_index(self, coords: tuple[Expr, Expr, Expr, Expr]) -> Expr:
        """Position in the output of image, row, column, channel."""
        image, row, column, channel = coords
        return ((image * self.rows.output + row) * self.columns.output + column) * self.channels + channel

    @property
    def taps(self) -> int:
        """Taps of all windows, those in the padding included."""
        return (
            self.batch * self.rows.output * self.columns.output * self.channels * self.rows.kernel * self.columns.kernel
        )

    @property
    def input_size(self) -> int:
        """Elements of the input."""
        return self.batch * self.rows.size * self.columns.size * self.channels

    @property
    def output_size(self) -> int:
        """Elements of the output."""
        return self.batch * self.rows.output * self.columns.output * self.channels


@dataclass(frozen=True)
class Segment:
    """Consecutive column tiles that look alike.

    Attributes:
        start: first output column.
        tiles: how many.
        columns: output columns of one tile.
        valid: per column of a tile, which taps lie inside the image.
        padded: per column, how many taps lie inside the padded image.
    """

    start: int
    tiles: int
    columns: int
    valid: tuple[tuple[bool, ...], ...]
    padded: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """One output vector: indices of image, row, column and first channel, and its window's taps.

    ``taps`` is the number inside the image, ``padded`` inside the padded image; each is rows, columns.
    """

    coords: tuple[Expr, Expr, Expr, Expr]
    taps: tuple[Expr, Expr]
    padded: tuple[Expr, Expr]


class WindowOperation(Protocol):
    """What is done with the taps of a window."""

    def start(self, channel: Expr, lanes: int, /) -> Expr | None:
        """First value of an accumulator; None if the first tap makes it."""
        ...

    def empty(self, lanes: int, /) -> Expr:
        """Accumulator of a window without taps, where :meth:`start` has none."""
        ...

    def weight(self, tap: Expr, channel: Expr, lanes: int, /) -> Expr | None:
        """What tap number ``tap`` (row-major) is multiplied with, if anything."""
        ...

    def step(self, accumulator: Expr | None, value: Expr, weight: Expr | None, /) -> Expr:
        """Accumulator after one more tap."""
        ...

    def finish(self, accumulator: Expr, place: Place, lanes: int, /) -> None:
        """Store the result of a window."""
        ...


def window_space(windows: Windows, target: Target) -> dict[str, tuple[int, ...]]:
    """Choices of :func:`emit_windows`.

    ``columns`` and ``rows``: output pixels of a tile. ``unroll``: whether the window's rows are written out for
    interior tiles, instead of a loop. ``inner``: whether channels run inside the columns of a row, or outside.
    """
    if windows.columns.kernel > LONGEST_UNROLLED:
        return {"columns": (1,), "rows": (1,), "unroll": (0,), "inner": (0, 1)}
    # A tile wider than the registers only spills.
    most = min(windows.columns.output, target.vector.registers // 2)
    columns = tuple(count for count in (1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16) if count <= most)
    small = windows.rows.kernel * windows.columns.kernel <= 25
    unroll = (0, 1) if small else (0,)
    rows = tuple(count for count in (1, 2, 3, 4) if count <= windows.rows.output) if small else (1,)
    return {"columns": columns, "rows": rows, "unroll": unroll, "inner": (0, 1)}


def emit_windows(
    builder: KernelBuilder, windows: Windows, target: Target, choice: Choice, source: Any, operation: WindowOperation
) -> None:
    """Loops over all windows, spread over threads if that is worth it."""
    _Emitter(builder, windows, target, choice, source, operation).emit()


def window_default(windows: Windows, target: Target, weights: bool) -> Choice:
    """Choice for an untuned kernel.

    Small windows are written out, with two output rows at a time where those overlap; ``weights`` says that every
    tap takes a register besides. Larger ones loop over their rows, with as many columns as the registers allow.
    """
    registers, kernel = target.vector.registers, windows.columns.kernel
    if kernel > LONGEST_UNROLLED:
        return {"columns": 1, "rows": 1, "unroll": 0, "inner": 1}
    if windows.rows.kernel * kernel > 9:
        return {"columns": min(14, registers - 4, windows.columns.output), "rows": 1, "unroll": 0, "inner": 1}
    # x86 multiplies by weights in memory at no cost; elsewhere they need registers of their own.
    room = (registers >= 32 and not target.in_order) or target.architecture == "x86_64" or not weights
    overlap = windows.rows.kernel > windows.rows.stride and windows.columns.stride == 1
    if overlap and room and windows.rows.output > 3:
        return {"columns": min(6, windows.columns.output), "rows": 2, "unroll": 1, "inner": 1}
    return {"columns": min(4, windows.columns.output), "rows": 1, "unroll": 1, "inner": 1}


def segments(axis: Axis, columns: int) -> list[Segment]:
    """Output columns in tiles of at most ``columns``, all about the same size, equal neighbours together."""
    columns = -(-axis.output // -(-axis.output // columns))
    found: list[Segment] = []
    for start in range(0, axis.output, columns):
        tile = range(start, min(start + columns, axis.output))
        valid = tuple(tuple(axis.valid(window, tap) for tap in range(axis.kernel)) for window in tile)
        padded = tuple(axis.padded_taps(window) for window in tile)
        last = found[-1] if found else None
        if last and (last.valid, last.padded) == (valid, padded):
            found[-1] = Segment(last.start, last.tiles + 1, len(tile), valid, padded)
        else:
            found.append(Segment(start, 1, len(tile), valid, padded))
    return found


class _Emitter:
    def __init__(
        self, builder: KernelBuilder, windows: Windows, target: Target, choice: Choice, source: Any, op: WindowOperation
    ) -> None:
        self._builder = builder
        self._windows = windows
        self._source = source
        self._op = op
        self._unroll = bool(choice["unroll"])
        self._tile_rows = choice["rows"] if self._unroll else 1
        self._channels_inside = bool(choice["inner"])
        self._looped = windows.columns.kernel > LONGEST_UNROLLED
        self._segments = segments(windows.columns, 1 if self._looped else choice["columns"])
        # A last vector that overlaps its neighbour costs no more than narrower ones would, and no extra code.
        lanes = target.vector.lanes(8 * np.dtype(windows.dtype).itemsize)
        self._lanes = min(lanes, 1 << (windows.channels.bit_length() - 1))
        self._blocks = -(-windows.channels // self._lanes)
        self._row_groups = -(-windows.rows.output // self._tile_rows)
        self._groups = self._channel_groups(target.cores)

    def _channel_groups(self, cores: int) -> int:
        """Parts that the channels are cut into, so that tasks divide well among the cores."""
        for groups in (count for count in range(1, self._blocks + 1) if self._blocks % count == 0):
            tasks = self._windows.batch * groups * self._row_groups
            if tasks / cores >= 0.93 * -(-tasks // cores):
                return groups
        return 1

    def emit(self) -> None:
        builder, windows = self._builder, self._windows
        tasks = windows.batch * self._groups * self._row_groups
        spread = builder.parallel if windows.taps > _SERIAL_TAPS else builder.loop
        with spread(tasks, "task") as task:
            row = builder.bind(tirx.truncmod(task, self._row_groups) * self._tile_rows, "row")
            part = tirx.truncdiv(task, self._row_groups)
            group = builder.bind(tirx.truncmod(part, self._groups), "group")
            image = builder.bind(tirx.truncdiv(part, self._groups), "image")
            self._row_group(image, row, group)

    def _row_group(self, image: Expr, row: Expr, group: Expr) -> None:
        builder, rows = self._builder, self._windows.rows
        first, end = rows.interior if self._unroll else (0, 0)
        if end - first < self._tile_rows:
            self._single_rows(image, row, group)
        elif first == 0 and end == rows.output and end % self._tile_rows == 0:
            self._sweep(image, row, group, None)
        else:
            inside = tirx.all(row >= first, row + self._tile_rows <= end)
            with builder.when(inside):
                self._sweep(image, row, group, None)
            with builder.when(tirx.Not(inside)):
                self._single_rows(image, row, group)

    def _single_rows(self, image: Expr, row: Expr, group: Expr) -> None:
        builder, rows = self._builder, self._windows.rows
        with builder.loop(minimum(rows.output - row, self._tile_rows) if self._tile_rows > 1 else 1, "r") as step:
            here = builder.bind(row + step, "row")
            self._sweep(image, here, group, rows.valid_taps(builder, here))

    def _sweep(self, image: Expr, row: Expr, group: Expr, taps: tuple[Expr, Expr] | None) -> None:
        """All tiles of one row group: ``taps`` are the valid window rows, None if all are."""
        if self._channels_inside:
            for segment, column in self._tiles():
                for channel in self._vectors(group):
                    self._tile(image, row, column, channel, segment, taps, {})
        else:
            for channel in self._vectors(group):
                weights: dict[tuple[int, int], Expr | None] = {}
                if taps is None:
                    kernel = self._windows.rows.kernel, self._windows.columns.kernel
                    for kh in range(kernel[0]):
                        for kw in range(kernel[1]):
                            self._weight(weights, kh, kw, channel)
                for segment, column in self._tiles():
                    self._tile(image, row, column, channel, segment, taps, dict(weights))

    def _tiles(self) -> Iterator[tuple[Segment, Expr]]:
        for segment in self._segments:
            with self._builder.loop(segment.tiles, "tile") as tile:
                yield segment, self._builder.bind(tile * segment.columns + segment.start, "column")

    def _vectors(self, group: Expr) -> Iterator[Expr]:
        per_group = self._blocks // self._groups
        with self._builder.loop(per_group, "block") as block:
            channel = (group * per_group + block) * self._lanes
            if self._windows.channels % self._lanes:
                channel = minimum(channel, self._windows.channels - self._lanes)
            yield self._builder.bind(channel, "channel")

    def _tile(
        self,
        image: Expr,
        row: Expr,
        column: Expr,
        channel: Expr,
        segment: Segment,
        taps: tuple[Expr, Expr] | None,
        weights: dict[tuple[int, int], Expr | None],
    ) -> None:
        rows, columns = self._windows.rows, self._windows.columns
        top = image * rows.size + row * rows.stride - rows.before
        left = column * columns.stride - columns.before
        base = self._builder.bind((top * columns.size + left) * self._windows.channels + channel, "base")
        if taps is None:
            sums = self._unrolled(base, channel, segment, weights)
        elif self._looped:
            sums = self._pixel(base, column, channel, taps)
        else:
            sums = self._row_by_row(base, channel, segment, taps)
        for (r, q), value in sums.items():
            here = row + r
            padded_rows: Expr = rows.kernel if taps is None else rows.padded_taps_of(here)
            inside = sum(segment.valid[q])
            place = Place(
                (image, here, column + q, channel),
                (rows.kernel if taps is None else taps[1], inside),
                (padded_rows, segment.padded[q]),
            )
            self._op.finish(value, place, self._lanes)

    def _weight(self, known: dict[tuple[int, int], Expr | None], kh: int, kw: int, channel: Expr) -> Expr | None:
        if (kh, kw) not in known:
            value = self._op.weight(kh * self._windows.columns.kernel + kw, channel, self._lanes)
            known[kh, kw] = None if value is None else self._builder.bind(value, "weight")
        return known[kh, kw]

    def _load(self, index: Expr) -> Expr:
        return self._builder.bind(self._builder.load(self._source, index, self._lanes), "input")

    def _unrolled(
        self, base: Expr, channel: Expr, segment: Segment, weights: dict[tuple[int, int], Expr | None]
    ) -> dict[tuple[int, int], Expr]:
        """Results of a tile whose window rows all lie inside the image."""
        windows, builder = self._windows, self._builder
        start = self._op.start(channel, self._lanes)
        start = None if start is None else builder.bind(start, "start")
        sums: dict[tuple[int, int], Expr | None] = {
            (r, q): start for r in range(self._tile_rows) for q in range(segment.columns)
        }
        row_uses = _uses(windows.rows, self._tile_rows, None)
        column_uses = _uses(windows.columns, segment.columns, segment.valid)
        for i, in_rows in row_uses.items():
            for j, in_columns in column_uses.items():
                value = self._load(base + (i * windows.columns.size + j) * windows.channels)
                for r, kh in in_rows:
                    for q, kw in in_columns:
                        weight = self._weight(weights, kh, kw, channel)
                        sums[r, q] = builder.bind(self._op.step(sums[r, q], value, weight), "sum")
        return {key: self._op.empty(self._lanes) if value is None else value for key, value in sums.items()}

    def _row_by_row(
        self, base: Expr, channel: Expr, segment: Segment, taps: tuple[Expr, Expr]
    ) -> dict[tuple[int, int], Expr]:
        """Results of a tile of one output row, window row by window row."""
        windows, builder, lanes = self._windows, self._builder, self._lanes
        sums = builder.registers(segment.columns * lanes, windows.dtype, "sums")
        start = builder.bind(self._start(channel), "start")
        for q in range(segment.columns):
            builder.store(sums, q * lanes, start, lanes)
        with builder.loop(taps[1], "kh") as step:
            kh = builder.bind(taps[0] + step, "kh")
            line = builder.bind(base + kh * (windows.rows.dilation * windows.columns.size * windows.channels), "line")
            weights: dict[int, Expr | None] = {}
            for j, in_columns in _uses(windows.columns, segment.columns, segment.valid).items():
                value = self._load(line + j * windows.channels)
                for q, kw in in_columns:
                    if kw not in weights:
                        weight = self._op.weight(kh * windows.columns.kernel + kw, channel, lanes)
                        weights[kw] = None if weight is None else builder.bind(weight, "weight")
                    total = self._op.step(builder.load(sums, q * lanes, lanes), value, weights[kw])
                    builder.store(sums, q * lanes, total, lanes)
        return {(0, q): builder.bind(builder.load(sums, q * lanes, lanes), "sum") for q in range(segment.columns)}

    def _pixel(self, base: Expr, column: Expr, channel: Expr, taps: tuple[Expr, Expr]) -> dict[tuple[int, int], Expr]:
        """Result of one window, tap by tap."""
        windows, builder, lanes = self._windows, self._builder, self._lanes
        sums = builder.registers(lanes, windows.dtype, "sums")
        builder.store(sums, 0, self._start(channel), lanes)
        first, count = windows.columns.valid_taps(builder, column)
        with builder.loop(taps[1], "kh") as i, builder.loop(count, "kw") as j:
            kh, kw = taps[0] + i, first + j
            place = kh * (windows.rows.dilation * windows.columns.size) + kw * windows.columns.dilation
            weight = self._op.weight(kh * windows.columns.kernel + kw, channel, lanes)
            value = self._load(base + place * windows.channels)
            builder.store(sums, 0, self._op.step(builder.load(sums, 0, lanes), value, weight), lanes)
        return {(0, 0): builder.bind(builder.load(sums, 0, lanes), "sum")}

    def _start(self, channel: Expr) -> Expr:
        start = self._op.start(channel, self._lanes)
        return self._op.empty(self._lanes) if start is None else start


def _uses(axis: Axis, windows: int, valid: tuple[tuple[bool, ...], ...] | None) -> dict[int, list[tuple[int, int]]]:
    """For every input position of a tile, in order, the (window, tap) pairs that need it."""
    found: dict[int, list[tuple[int, int]]] = {}
    for window in range(windows):
        for tap in range(axis.kernel):
            if valid is None or valid[window][tap]:
                found.setdefault(window * axis.stride + tap * axis.dilation, []).append((window, tap))
    return dict(sorted(found.items()))
