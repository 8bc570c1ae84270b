"""Matrix products of two values that may both change from run to run.

A group computes a tile of the result of one batch element; slices of both operands pass through shared memory, where
every element serves many threads. Elements beyond the matrices count as zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, div, mod, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.flat import coordinates, offsets
from edgevit.compiler.gpu.tiles import wanted_threads
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import matmul
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.matmul import Workload
from edgevit.compiler.kernels.runs import Axis, contiguous_strides
from edgevit.target_schema import Gpu, Target

NAME = "matmul"

_DEPTH = 16
"""Elements of a row, or column, in shared memory at a time."""


def claim(node: Node) -> Workload | None:
    """Workload of a ``matmul`` node."""
    workload = matmul.claim(node)
    return None if workload is None or 0 in (*workload.output, workload.depth) else workload


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: left, right, epilogue operands, output."""
    assert target.gpu is not None
    return _Product(workload, target.gpu, name, storage).function()


class _Product:
    """Writes one matrix product.

    A thread computes some rows, and as many columns; those of neighbouring threads lie side by side.
    """

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.w = w = workload
        self.batch = prod(w.batch)
        self.x, self.y = 16, 8
        while self.x * self.y > gpu.max_threads or self.y > w.rows:
            self.y //= 2
        self.own_rows, self.own_columns = min(4, cover(w.rows, self.y)), min(4, cover(w.columns, self.x))
        while self._threads() < wanted_threads(gpu) and self.own_rows * self.own_columns > 1:
            if self.own_rows >= self.own_columns:
                self.own_rows = cover(self.own_rows, 2)
            else:
                self.own_columns = cover(self.own_columns, 2)
        self.tile_rows, self.tile_columns = self.y * self.own_rows, self.x * self.own_columns
        self.depth = min(_DEPTH, w.depth)
        grid = cover(w.columns, self.tile_columns), cover(w.rows, self.tile_rows), self.batch
        self.b = b = ThreadBuilder(name, Launch(grid, (self.x, self.y, 1)), storage)
        self.left = b.argument("left", prod(w.left) * w.rows * w.depth)
        self.right = b.argument("right", prod(w.right) * w.depth * w.columns)
        self.epilogue = Epilogue(b, w.epilogue, w.output)
        self.output = b.argument("output", prod(w.output), w.epilogue.dtype if w.epilogue else w.dtype)

    def _threads(self) -> int:
        rows, columns = cover(self.w.rows, self.own_rows), cover(self.w.columns, self.own_columns)
        return rows * columns * self.batch

    def function(self) -> Any:
        b, w = self.b, self.w
        rows, columns = (
            b.shared(self.tile_rows * self.depth, "rows"),
            b.shared(self.depth * self.tile_columns, "columns"),
        )
        self.thread = b.bind(b.thread(1) * self.x + b.thread(0), "thread")
        self.row, self.column = (
            b.bind(b.group(1) * self.tile_rows, "row"),
            b.bind(b.group(0) * self.tile_columns, "column"),
        )
        left, right = self._elements()
        count = self.own_rows * self.own_columns
        held = b.registers(count, name="held")
        for register in range(count):
            b.store(held, register, b.constant(0.0))
        with b.loop(cover(w.depth, self.depth), "slice") as number:
            first = b.bind(number * self.depth, "first")
            self._copy_rows(rows, left, first)
            self._copy_columns(columns, right, first)
            b.barrier()
            self._multiply(rows, columns, held)
            b.barrier()
        self._store(held)
        return b.finish()

    def _elements(self) -> tuple[Expr, Expr]:
        """Where the matrices of the group's batch element begin; operands repeat along axes of extent 1."""
        w = self.w
        strides = [
            [
                0 if extent == 1 else stride * size
                for extent, stride in zip(shape, contiguous_strides(shape), strict=True)
            ]
            for shape, size in ((w.left, w.rows * w.depth), (w.right, w.depth * w.columns))
        ]
        axes = [Axis(extent, tuple(steps)) for extent, *steps in zip(w.batch, *strides, strict=True)] or [
            Axis(1, (0, 0))
        ]
        left, right = offsets(self.b, self.b.group(2), axes)
        return left, right

    def _copy_rows(self, shared: Any, start: Expr, first: Expr) -> None:
        """Rows of the left matrix, stored as [row][depth]."""
        w = self.w
        with self._shares(self.tile_rows * self.depth) as index:
            row = self.b.bind(self.row + div(index, self.depth), "r")
            k = self.b.bind(first + mod(index, self.depth), "k")
            self._bring(shared, index, self.left, start, (row, w.rows, self.tile_rows), (k, w.depth), w.depth)

    def _copy_columns(self, shared: Any, start: Expr, first: Expr) -> None:
        """Columns of the right matrix, stored as [depth][column]; threads follow memory as they read."""
        w = self.w
        with self._shares(self.tile_columns * self.depth) as index:
            if w.transpose_b:
                number, step = self.b.bind(div(index, self.depth), "n"), self.b.bind(mod(index, self.depth), "s")
                column, k = self.b.bind(self.column + number, "c"), self.b.bind(first + step, "k")
                to, limits = step * self.tile_columns + number, ((column, w.columns, self.tile_columns), (k, w.depth))
                self._bring(shared, to, self.right, start, *limits, w.depth)
                return
            column = self.b.bind(self.column + mod(index, self.tile_columns), "c")
            k = self.b.bind(first + div(index, self.tile_columns), "k")
            self._bring(shared, index, self.right, start, (column, w.columns, self.tile_columns), (k, w.depth), None)

    def _bring(
        self,
        shared: Any,
        to: Expr,
        source: Any,
        start: Expr,
        line: tuple[Expr, int, int],
        deep: tuple[Expr, int],
        stride: int | None,
    ) -> None:
        """One element, at (line, depth) where ``stride`` lies between lines, else at (depth, line); or zero."""
        b, (number, lines, tile), (k, depth) = self.b, line, deep
        valid = within((number, lines, cover(lines, tile) * tile), (k, depth, cover(depth, self.depth) * self.depth))
        place = number * stride + k if stride else k * lines + number
        with b.inside(valid):
            b.store(shared, to, b.load(source, start + place))
        if valid is not None:
            with b.unless(valid):
                b.store(shared, to, b.constant(0.0))

    def _shares(self, total: int) -> Any:
        return _Shares(self.b, self.thread, self.x * self.y, total)

    def _multiply(self, rows: Any, columns: Any, held: Any) -> None:
        b = self.b
        with b.loop(self.depth, "k") as k:
            left = [
                b.bind(b.load(rows, (b.thread(1) + r * self.y) * self.depth + k), "a") for r in range(self.own_rows)
            ]
            right = [
                b.bind(b.load(columns, k * self.tile_columns + b.thread(0) + c * self.x), "b")
                for c in range(self.own_columns)
            ]
            for r, a in enumerate(left):
                for c, other in enumerate(right):
                    place = r * self.own_columns + c
                    b.store(held, place, b.load(held, place) + a * other)

    def _store(self, held: Any) -> None:
        b, w = self.b, self.w
        place = [b.bind(i) for i in coordinates(b.group(2), w.batch)]
        for r in range(self.own_rows):
            for c in range(self.own_columns):
                row = b.bind(self.row + b.thread(1) + r * self.y, "r")
                column = b.bind(self.column + b.thread(0) + c * self.x, "c")
                covered = (
                    cover(w.rows, self.tile_rows) * self.tile_rows,
                    cover(w.columns, self.tile_columns) * self.tile_columns,
                )
                with b.inside(within((row, w.rows, covered[0]), (column, w.columns, covered[1]))):
                    value = b.bind(b.load(held, r * self.own_columns + c))
                    result = self.epilogue.apply(value, (*place, row, column))
                    b.store(self.output, (b.group(2) * w.rows + row) * w.columns + column, result)


class _Shares:
    """Context of a loop that spreads elements over the threads of a group."""

    def __init__(self, builder: ThreadBuilder, thread: Expr, threads: int, total: int) -> None:
        self._b, self._thread, self._threads, self._total = builder, thread, threads, total

    def __enter__(self) -> Expr:
        b, steps = self._b, cover(self._total, self._threads)
        self._loop = b.loop(steps, "copy")
        index = b.bind(self._loop.__enter__() * self._threads + self._thread, "index")
        self._check = b.inside(within((index, self._total, steps * self._threads)))
        self._check.__enter__()
        return index

    def __exit__(self, *error: Any) -> None:
        self._check.__exit__(*error)
        self._loop.__exit__(*error)
