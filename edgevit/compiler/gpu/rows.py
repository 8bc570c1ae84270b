"""Rows in a group's shared memory, normalised there."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder, cover, div, mod, within
from edgevit.compiler.kernels.builder import Expr


class SharedRows:
    """Consecutive rows of a matrix, held by a group.

    All methods must be reached by every thread of the group.

    Args:
        builder: kernel under construction.
        count: rows.
        width: elements of a row.
        lanes: of vectors along a row; divides the width.
    """

    def __init__(self, builder: ThreadBuilder, count: int, width: int, lanes: int) -> None:
        self._b = builder
        self.count, self.width, self._lanes = count, width, lanes
        self.buffer = builder.shared(count * width, "rows")
        block_x, block_y, _ = builder.launch.block
        self._threads = block_x * block_y
        assert count <= self._threads, "a row has no thread"
        self._thread = builder.bind(builder.thread(1) * block_x + builder.thread(0), "thread")
        # Threads that share a row; a power of two, so that their sums are a tree's.
        self._parts = 1
        while self._parts * 2 * count <= self._threads and self._parts * 2 <= width // lanes:
            self._parts *= 2

    def read(self, source: Any, first: Expr, rows: int) -> None:
        """Bring rows from ``first`` on; those behind the last of ``rows`` become zeros."""
        b, lanes, vectors = self._b, self._lanes, self.width // self._lanes
        total = self.count * vectors
        with b.loop(cover(total, self._threads), "copy") as step:
            index = b.bind(step * self._threads + self._thread, "index")
            with b.inside(within((index, total, cover(total, self._threads) * self._threads))):
                at = b.bind(first * self.width + index * lanes, "at")
                if rows % self.count:
                    row = first + div(index, vectors)
                    # Both branches are computed by some compilers: what is read must exist either way.
                    at = tirx.min(at, (rows - 1) * self.width + self.width - lanes)
                    value = tirx.Select(row < rows, b.load(source, at, lanes), b.constant(0.0, lanes=lanes))
                else:
                    value = b.load(source, at, lanes)
                b.store(self.buffer, index * lanes, value, lanes)
        b.barrier()

    def normalise(self, epsilon: float, *, centred: bool) -> None:
        """Divide every row by its standard deviation, after subtracting its mean; or by its root mean square."""
        b = self._b
        partial = b.shared(self._threads, "partial")
        working = within((self._thread, self.count * self._parts, self._threads))
        row = b.bind(div(self._thread, self._parts) * self.width, "row")
        part = b.bind(mod(self._thread, self._parts), "part")
        mean: Expr = b.constant(0.0)
        if centred:
            mean = b.bind(self._mean(partial, working, row, part, lambda x: x), "mean")
            b.barrier()
        zero_mean = mean
        variance = self._mean(
            partial, working, row, part, lambda x: (x - self._splat(zero_mean)) * (x - self._splat(zero_mean))
        )
        factor = b.bind(b.constant(1.0) / tirx.sqrt(variance + b.constant(epsilon)), "factor")
        with b.inside(working), self._own(part) as k:
            value = b.load(self.buffer, row + k, self._lanes)
            b.store(self.buffer, row + k, (value - self._splat(mean)) * self._splat(factor), self._lanes)
        b.barrier()

    def _splat(self, value: Expr) -> Expr:
        return self._b.splat(value, self._lanes)

    def _own(self, part: Expr) -> Any:
        """Loop over the first elements of the vectors of a row that are this thread's."""
        return _Strided(self._b, self.width // self._lanes, self._parts, part, self._lanes)

    def _mean(self, partial: Any, working: Expr | None, row: Expr, part: Expr, of: Any) -> Expr:
        """Mean over a row of a function of its elements, in every thread of the row."""
        b, lanes = self._b, self._lanes
        sums = b.registers(lanes, name="sums")
        b.store(sums, 0, b.constant(0.0, lanes=lanes), lanes)
        with b.inside(working), self._own(part) as k:
            value = b.bind(b.load(self.buffer, row + k, lanes))
            b.store(sums, 0, b.load(sums, 0, lanes) + of(value), lanes)
        total = b.bind(b.load(sums, 0, lanes))
        scalar = b.lane(total, 0, lanes)
        for lane in range(1, lanes):
            scalar = scalar + b.lane(total, lane, lanes)
        b.store(partial, self._thread, scalar)
        b.barrier()
        first = self._thread - part
        if working is not None:
            # Threads without a row read another's sums: what lies behind them was never written.
            first = tirx.min(first, (self.count - 1) * self._parts)
        first = b.bind(first, "first_part")
        result = b.load(partial, first)
        for other in range(1, self._parts):
            result = result + b.load(partial, first + other)
        return result * b.constant(1.0 / self.width)


class _Strided:
    """Context of a loop whose steps are shared by neighbouring threads."""

    def __init__(self, builder: ThreadBuilder, count: int, parts: int, part: Expr, lanes: int) -> None:
        self._b, self._count, self._parts, self._part, self._lanes = builder, count, parts, part, lanes

    def __enter__(self) -> Expr:
        b = self._b
        mine = div(self._count - self._part + self._parts - 1, self._parts) if self._parts > 1 else self._count
        self._loop = b.loop(mine, "own")
        step = self._loop.__enter__()
        return b.bind((step * self._parts + self._part) * self._lanes, "k")

    def __exit__(self, *error: Any) -> None:
        self._loop.__exit__(*error)
