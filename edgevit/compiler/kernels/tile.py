"""The register tile that convolutions and matrix products share.

A tile computes ``rows`` × ``columns`` results: it keeps one accumulator per row and vector of columns in
registers, and for every step of the reduction loads one vector of weights per column vector and one scalar per
row, which it spreads over the lanes. Where multiply-adds can take a scalar from a vector's lane (64-bit ARM), a
row's elements for several steps are loaded as one vector instead. Weights come packed in panels, so that a step's
vectors lie side by side.

float16 products are summed in float16 over a short stretch only; the sums of stretches are float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder, powers_of_two
from edgevit.compiler.kernels.lanes import take_lanes
from edgevit.compiler.kernels.pointwise_ops import convert, typed
from edgevit.target_schema import Target

# Rounding errors of float16 sums grow with their length; adding a stretch to the float32 sums, which wait in the L1
# cache, costs eight instructions per accumulator. On MobileViT-XXS the logits' largest error is 0.035 to 0.043 with 64
# steps, 0.023 with 32, 0.020 with 16 and 0.013 with 2, which is what storing float16 values costs anyway.
_HALF_STRETCH = 16


@dataclass(frozen=True)
class Columns:
    """How the columns of one panel lie in vectors.

    Attributes:
        lanes: of every vector.
        valid: elements of every vector that are columns; the rest is padding.
        start: first column.
    """

    lanes: tuple[int, ...]
    valid: tuple[int, ...]
    start: int

    @property
    def packed(self) -> int:
        """Elements that one step of the packed panel takes."""
        return sum(self.lanes)

    @property
    def count(self) -> int:
        """Columns."""
        return sum(self.valid)


def split_columns(count: int, lanes: int, vectors: int) -> list[Columns]:
    """Panels of at most ``vectors`` vectors for ``count`` columns.

    All panels but the last are whole. What is left over becomes one narrower vector where a power of two fits it
    exactly, else the next larger one.
    """
    whole, rest = divmod(count, lanes)
    widths = [(lanes, lanes)] * whole
    if rest:
        widths.append((1 << (rest - 1).bit_length(), rest))
    panels, start = [], 0
    for first in range(0, len(widths), vectors):
        part = widths[first : first + vectors]
        panels.append(Columns(tuple(w for w, _ in part), tuple(v for _, v in part), start))
        start += panels[-1].count
    return panels


def pack_panels(matrix: np.ndarray[Any, Any], panels: Sequence[Columns]) -> np.ndarray[Any, Any]:
    """Flat panels of a matrix (steps, columns): panel after panel, step after step, padded with zeros."""
    steps = matrix.shape[0]
    parts = []
    for panel in panels:
        packed = np.zeros((steps, panel.packed), matrix.dtype)
        source, place = panel.start, 0
        for lanes, valid in zip(panel.lanes, panel.valid, strict=True):
            packed[:, place : place + valid] = matrix[:, source : source + valid]
            source, place = source + valid, place + lanes
        parts.append(packed.reshape(-1))
    return np.concatenate(parts)


@dataclass(frozen=True)
class Run:
    """A stretch of the reduction in which both operands advance by one element a step.

    Attributes:
        length: steps.
        row: index in ``buffer`` of row r's first element.
        buffer: the left operand.
        panel: index of the first step's vectors in the packed panel.
    """

    length: int
    row: Callable[[int], Expr]
    buffer: Any
    panel: Expr


class Tile:
    """Accumulators of ``rows`` × ``columns`` results in registers.

    Args:
        builder: kernel under construction; the tile's registers are declared here.
        rows: results in the other direction.
        columns: vectors in a row.
        dtype: of operands; sums are float32.
        steps: of the reduction for which a row's elements are loaded as one vector; see :func:`lane_steps`.
        wide: whether float16 accumulators have float32 sums beside them; see :func:`needs_wide_sums`.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        rows: int,
        columns: Columns,
        dtype: str = "float32",
        steps: int = 1,
        wide: bool = False,
    ) -> None:
        self.rows = rows
        self.columns = columns
        self._builder = builder
        self._dtype = dtype
        self._steps = steps
        self._registers = builder.registers(rows * columns.packed, dtype, "accumulators")
        self._wide = builder.registers(rows * columns.packed, "float32", "sums") if wide else None

    def start(self, value: Callable[[int], Expr]) -> None:
        """Set the sums of column vector v to ``value(v)``, float32, in every row."""
        if self._wide is not None:
            self._fill(self._wide, value)
        else:
            self._fill(self._registers, lambda v: convert(value(v), typed(self._dtype, self.columns.lanes[v])))

    def _fill(self, registers: Any, value: Callable[[int], Expr]) -> None:
        for vector, lanes in enumerate(self.columns.lanes):
            initial = self._builder.bind(value(vector), "start")
            for row in range(self.rows):
                self._builder.store(registers, self._place(row, vector), initial, lanes)

    def accumulate(self, run: Run, weights: Any, unroll: int = 1) -> None:
        """Add the products of one run of the reduction; ``unroll`` loads of a row make one round of the loop."""
        builder = self._builder
        rows = [builder.bind(run.row(row), "row") if self.rows > 1 else run.row(row) for row in range(self.rows)]
        if self._wide is None:
            self._stretch(run, weights, rows, 0, run.length, unroll)
            return
        whole, rest = divmod(run.length, _HALF_STRETCH)
        if whole:
            with builder.loop(whole, "stretch") as stretch:
                self._half_stretch(run, weights, rows, stretch * _HALF_STRETCH, _HALF_STRETCH, unroll)
        if rest:
            self._half_stretch(run, weights, rows, whole * _HALF_STRETCH, rest, unroll)

    def _half_stretch(self, run: Run, weights: Any, rows: list[Expr], first: Expr, length: int, unroll: int) -> None:
        """Sum a stretch in float16, then add it to the float32 sums."""
        builder = self._builder
        self._fill(self._registers, lambda v: builder.constant(0.0, self._dtype, self.columns.lanes[v]))
        self._stretch(run, weights, rows, first, length, unroll)
        for row in range(self.rows):
            for vector, lanes in enumerate(self.columns.lanes):
                place = self._place(row, vector)
                part = convert(builder.load(self._registers, place, lanes), typed("float32", lanes))
                builder.store(self._wide, place, builder.load(self._wide, place, lanes) + part, lanes)

    def _stretch(self, run: Run, weights: Any, rows: list[Expr], first: Expr, length: int, unroll: int) -> None:
        """Steps ``first`` to ``first + length`` of a run."""
        together = unroll * self._steps
        whole = length // together
        with self._builder.loop(whole, "k") as k:
            for step in range(0, together, self._steps):
                self._add(run, weights, rows, first + k * together + step, self._steps)
        for step in range(whole * together, length):
            self._add(run, weights, rows, first + tirx.const(step, "int32"), 1)

    def _add(self, run: Run, weights: Any, rows: list[Expr], k: Expr, steps: int) -> None:
        """Steps ``k`` and up, with one load per row."""
        builder = self._builder
        loaded = [builder.load(run.buffer, row + k, steps) for row in rows]
        if steps > 1:
            loaded = [builder.bind(vector, "steps") for vector in loaded]
        for step in range(steps):
            place, vectors = run.panel + (k + step) * self.columns.packed, []
            for lanes in self.columns.lanes:
                vectors.append(builder.bind(builder.load(weights, place, lanes), "weights"))
                place = place + lanes
            for row in range(self.rows):
                scalar = builder.bind(take_lanes([loaded[row]], [step]) if steps > 1 else loaded[row], "scalar")
                for vector, lanes in enumerate(self.columns.lanes):
                    where = self._place(row, vector)
                    sum_ = builder.load(self._registers, where, lanes) + builder.splat(scalar, lanes) * vectors[vector]
                    builder.store(self._registers, where, sum_, lanes)

    def result(self, row: int, vector: int) -> Expr:
        """Sums of one row and column vector, float32."""
        registers = self._registers if self._wide is None else self._wide
        lanes = self.columns.lanes[vector]
        return convert(self._builder.load(registers, self._place(row, vector), lanes), typed("float32", lanes))

    def _place(self, row: int, vector: int) -> int:
        return row * self.columns.packed + sum(self.columns.lanes[:vector])


def load_first(load: Callable[[int, int], Expr], lanes: int, count: int) -> Expr:
    """Vector whose first ``count`` of ``lanes`` elements are read; the others repeat some of those.

    Args:
        load: reads ``width`` elements from offset ``first``: ``load(first, width)``.
        lanes: of the result.
        count: elements that may be read.
    """
    if count == lanes:
        return load(0, lanes)
    parts, first = [], 0
    for width in powers_of_two(count):
        part = load(first, width)
        parts.append(part)
        first += width
    while first < lanes:  # a shuffle may not have more lanes than its operands together
        parts.append(parts[0])
        first += parts[0].ty.dtype.lanes if count > 1 else 1
    order = [min(lane, count - 1) for lane in range(lanes)]
    return tirx.Shuffle(parts, [tirx.const(lane, "int32") for lane in order])


def needs_wide_sums(dtype: str, total: int, run: int) -> bool:
    """Whether a reduction of ``total`` steps, in runs of ``run``, keeps float32 sums beside its accumulators.

    Short runs, as in the first layer of an image network, would add to them too often.
    """
    return dtype == "float16" and (run > _HALF_STRETCH or total > 2 * _HALF_STRETCH)


def lane_steps(target: Target, element_bits: int = 32) -> int:
    """Elements of a row that one load brings in: a vector of them where multiply-adds take lanes, else one."""
    return target.vector.lanes(element_bits) if target.architecture == "aarch64" else 1


def best_tile(
    row_count: int, column_count: int, target: Target, element_bits: int = 32, *, vectors: int | None = None
) -> tuple[int, int]:
    """Rows and vectors of the tile with the fewest estimated cycles on the target.

    A step costs its multiply-adds or its loads, whichever is more, at two of each per cycle, plus a little for
    the loop; edges that do not fill a tile cost what their own smaller tiles do. ``vectors`` may be given.
    """
    lanes, steps = target.vector.lanes(element_bits), lane_steps(target, element_bits)
    best, best_cost = (1, vectors or 1), float("inf")
    for width in (vectors,) if vectors else range(1, 7):
        for rows in range(1, 17):
            if not _fits(rows, width, steps, target):
                continue
            cost = 0.0
            full, rest = divmod(row_count, rows)
            for panel in split_columns(column_count, lanes, width):
                used = len(panel.lanes)
                cost += full * _step_cycles(rows, used, steps, target)
                cost += _step_cycles(rest, used, steps, target) if rest else 0.0
            if cost < best_cost * 0.999:
                best, best_cost = (rows, width), cost
    return best


def _fits(rows: int, vectors: int, steps: int, target: Target) -> bool:
    """Whether a tile's values fit the registers; on ARM, LLVM's scheduler spills unless it has some to spare."""
    scalars, spare = (rows, 8 if target.in_order else 4) if steps > 1 else (1, 2 if target.architecture == "arm" else 0)
    return rows * vectors + vectors + scalars + spare <= target.vector.registers


def _step_cycles(rows: int, vectors: int, steps: int, target: Target) -> float:
    if target.architecture == "arm":  # one at a time
        return rows * vectors + rows + vectors
    # Fused multiply-add takes four cycles on current cores: fewer than eight accumulators cannot keep two busy.
    multiply = max(rows * vectors, 8) / 2
    loads = (rows / steps + vectors) / 2
    return max(multiply, loads) + 0.15 * loads + 0.5 / steps
