"""Rows of a matrix as vectors, for kernels that reduce every row and then write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil
from typing import Any

from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.lanes import reduce_lanes, split_lanes
from edgevit.target_schema import Target

Map = Callable[[Expr, int, Expr, int], Expr]
"""(vector, number of its row, place of its first element in the row, lanes) to the new vector."""
Combine = Callable[[Expr, Expr], Expr]

_ACCUMULATORS = 4
_SERIAL_ELEMENTS = 20_000


def fits_registers(width: int, rows: int, target: Target, others: int) -> bool:
    """Whether ``rows`` rows of float32 and ``others`` more vectors fit the target's registers."""
    return ceil(width / target.vector.lanes(32)) * rows + others <= target.vector.registers


def for_each_rows(
    builder: KernelBuilder, rows: int, width: int, together: int, write: Callable[[list[Expr]], None]
) -> None:
    """Call ``write`` with ``together`` row numbers at a time, spread over the threads unless the matrix is small."""
    together = min(together, rows)
    whole = rows // together
    with builder.loop(whole, "rows") if rows * width < _SERIAL_ELEMENTS else builder.parallel(whole, "rows") as group:
        first = builder.bind(group * together, "first")
        write([first + row for row in range(together)])
    if rows % together:
        with builder.loop(rows % together, "row", whole * together) as row:
            write([row])


class Rows:
    """Some rows, held in registers or read again for every use.

    Args:
        builder: kernel under construction.
        buffer: the matrix.
        numbers: of the rows.
        width: elements in a row.
        lanes: of a vector.
        held: whether registers hold all of the rows; otherwise there should be one row.
    """

    def __init__(
        self, builder: KernelBuilder, buffer: Any, numbers: Sequence[Expr], width: int, lanes: int, *, held: bool
    ) -> None:
        self._builder = builder
        self._buffer = buffer
        self._starts = [builder.bind(number * width, "start") for number in numbers]
        self._lanes = lanes
        self._pieces = split_lanes(width, lanes)
        self._held = held
        self._pending: list[Map] = []
        if held:
            self._values = [
                [builder.bind(builder.load(buffer, start + place, part)) for place, part in self._pieces]
                for start in self._starts
            ]

    def map(self, change: Map) -> None:
        """Change all vectors; rows that are not held change whenever they are read."""
        if not self._held:
            self._pending.append(change)
            return
        for row, values in enumerate(self._values):
            for index, (place, part) in enumerate(self._pieces):
                values[index] = self._builder.bind(change(values[index], row, place, part))

    def map_once(self, change: Map, output: Any) -> None:
        """Change all vectors; rows that are not held are written to ``output``, and read from there from now on."""
        if self._held:
            self.map(change)
            return
        self.map(change)
        self.store(output)
        self._buffer, self._pending = output, []

    def reduce(self, combine: Combine, initial: float, term: Map | None = None) -> list[Expr]:
        """For every row, ``combine`` over all elements, or over what ``term`` makes of them."""
        return [self._reduce(row, combine, initial, term or (lambda value, *_: value)) for row in range(self._count)]

    def store(self, output: Any) -> None:
        """Write the rows to where they are in ``output``."""
        builder = self._builder
        for row, start in enumerate(self._starts):

            def write(place: Expr, index: int, lanes: int, row: int = row, start: Expr = start) -> None:
                builder.store(output, start + place, self._load(row, place, index, lanes), lanes)

            self._each(write)

    @property
    def _count(self) -> int:
        return len(self._starts)

    def _load(self, row: int, place: Expr, index: int, lanes: int) -> Expr:
        if self._held:
            return self._values[row][index]
        value = self._builder.bind(self._builder.load(self._buffer, self._starts[row] + place, lanes))
        for change in self._pending:
            value = self._builder.bind(change(value, row, place, lanes))
        return value

    def _each(self, use: Callable[[Expr, int, int], None]) -> None:
        """``use(place, index, lanes)`` for all vectors of a row; rows that are not held in a loop."""
        whole = 0 if self._held else len([part for _, part in self._pieces if part == self._lanes])
        whole -= whole % _ACCUMULATORS
        if whole:
            with self._builder.loop(whole // _ACCUMULATORS, "vectors") as group:
                for index in range(_ACCUMULATORS):
                    use((group * _ACCUMULATORS + index) * self._lanes, index, self._lanes)
        for index, (place, part) in enumerate(self._pieces[whole:], start=whole):
            use(place, index, part)

    def _reduce(self, row: int, combine: Combine, initial: float, term: Map) -> Expr:
        builder, lanes = self._builder, self._lanes
        used = min(_ACCUMULATORS, sum(part == lanes for _, part in self._pieces))
        sums = builder.registers(max(used, 1) * lanes, name="sums")
        for index in range(used):
            builder.store(sums, index * lanes, builder.constant(initial, lanes=lanes), lanes)
        narrow: list[tuple[Expr, int]] = []

        def add(place: Expr, index: int, part: int) -> None:
            value = term(self._load(row, place, index, part), row, place, part)
            if part < lanes:
                narrow.append((builder.bind(value), part))
                return
            where = index % _ACCUMULATORS * lanes
            builder.store(sums, where, combine(builder.load(sums, where, lanes), value), lanes)

        self._each(add)
        wide = [(builder.load(sums, index * lanes, lanes), lanes) for index in range(used)]
        return reduce_lanes(builder, wide + narrow, combine)
