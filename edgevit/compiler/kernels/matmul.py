"""Matrix products of two values that may both change from run to run.

Each task packs the right-hand matrix of one batch element into panels and passes over a block of rows with the
register tile that convolutions use.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.tile import Columns, Run, Tile, best_tile, lane_steps, split_columns
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "matmul"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """What a matrix product computes.

    Attributes:
        batch: leading axes of the result.
        left, right: leading axes of the operands, aligned with ``batch``; extents of 1 are repeated.
        rows, depth, columns: (rows × depth) times (depth × columns).
        transpose_b: the right operand is stored (columns × depth).
        epilogue: applied to the result.
        dtype: of operands and result.
    """

    batch: tuple[int, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    rows: int
    depth: int
    columns: int
    transpose_b: bool
    epilogue: Pointwise | None
    dtype: str = "float32"

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the result."""
        return (*self.batch, self.rows, self.columns)

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * prod(self.output) * self.depth

    @property
    def bytes(self) -> int:
        """Operands and result, each moved once."""
        size = np.dtype(self.dtype).itemsize
        left = prod(self.left) * self.rows * self.depth
        return size * (left + prod(self.right) * self.depth * self.columns + prod(self.output))


def claim(node: Node) -> Workload | None:
    """Workload of a ``matmul`` node."""
    if node.op != "matmul" or any(t.dtype != "float32" for t in (node.input(0), node.input(1), node.output)):
        return None
    a, b, shape = node.input(0).shape, node.input(1).shape, node.output.shape
    if len(a) < 2 or len(b) < 2:
        return None
    transpose = bool(node.attrs.get("transpose_b", False))
    batch = shape[:-2]
    left, right = ((1,) * (len(batch) + 2 - len(s)) + s[:-2] for s in (a, b))
    columns = b[-2] if transpose else b[-1]
    return Workload(batch, left, right, a[-2], a[-1], columns, transpose, node.attrs.get("epilogue"), node.output.dtype)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Tile rows and vectors, and blocks of rows per batch element."""
    return {
        "rows": tuple(range(1, min(16, target.vector.registers // 2))),
        "vectors": (1, 2, 3, 4),
        "blocks": (1, 2, 4, 8),
    }


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Fewest estimated cycles for the tile; enough blocks of rows to keep all cores busy."""
    bits = 8 * np.dtype(workload.dtype).itemsize
    rows, vectors = best_tile(workload.rows, workload.columns, target, bits)
    blocks = 1
    while prod(workload.batch) * blocks < 2 * target.cores and blocks * 2 * rows <= workload.rows and blocks < 8:
        blocks *= 2
    return {"rows": rows, "vectors": vectors, "blocks": blocks}


def tasks(workload: Workload, _target: Target, choice: Choice) -> int:
    """Parts that the threads share: blocks of tiles of every batch element."""
    tiles = -(-workload.rows // min(choice["rows"], workload.rows))
    block = -(-tiles // min(choice["blocks"], tiles))
    return prod(workload.batch) * -(-tiles // block)


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel; arguments are the two operands, epilogue operands, output."""
    return _Emitter(workload, target, choice, name).function()


class _Emitter:
    """Writes one matrix product."""

    def __init__(self, workload: Workload, target: Target, choice: Choice, name: str) -> None:
        self.w = workload
        bits = 8 * np.dtype(workload.dtype).itemsize
        lanes, self.lane_steps = target.vector.lanes(bits), lane_steps(target, bits)
        self.panels = split_columns(workload.columns, lanes, choice["vectors"])
        self.rows = min(choice["rows"], workload.rows)
        tiles = -(-workload.rows // self.rows)
        self.block = -(-tiles // min(choice["blocks"], tiles))
        self.b = KernelBuilder(name)
        matrix = workload.depth * workload.columns
        self.left = self.b.argument("left", prod(workload.left) * workload.rows * workload.depth, workload.dtype)
        self.right = self.b.argument("right", prod(workload.right) * matrix, workload.dtype)
        operands = workload.epilogue.operands[1:] if workload.epilogue else ()
        buffers = [self.b.argument(f"operand{i}", prod(o.shape), o.dtype) for i, o in enumerate(operands)]
        dtype = workload.epilogue.dtype if workload.epilogue else workload.dtype
        self.y = self.b.argument("y", prod(workload.output), dtype)
        self.epilogue = Epilogue(self.b, workload.epilogue, buffers, workload.output)

    def function(self) -> Any:
        whole, rest = divmod(self.w.rows, self.rows)
        tiles = whole + bool(rest)
        blocks = -(-tiles // self.block)
        packed = self.w.depth * sum(panel.packed for panel in self.panels)
        with self.b.parallel(prod(self.w.batch) * blocks) as task:
            element, block = self.b.bind(task // blocks, "element"), self.b.bind(task % blocks, "block")
            scratch = self.b.scratch(packed, self.w.dtype, "panels")
            matrix = self.w.depth * self.w.columns
            self._pack(scratch, self.b.bind(self._element(element, self.w.right) * matrix, "right"))
            left = self.b.bind(self._element(element, self.w.left) * (self.w.rows * self.w.depth), "left")
            first = self.b.bind(block * self.block, "first")
            count = self.b.bind(minimum(self.block, whole - first), "count") if blocks > 1 else whole
            start = 0
            for panel in self.panels:
                if whole:
                    with self.b.loop(count, "tile") as tile:
                        row = self.b.bind((first + tile) * self.rows, "row")
                        self._tile(scratch, start, panel, left, element, row, self.rows)
                if rest:
                    with self.b.when(block == blocks - 1):
                        self._tile(scratch, start, panel, left, element, whole * self.rows, rest)
                start += self.w.depth * panel.packed
        return self.b.finish()

    def _element(self, index: Expr, shape: tuple[int, ...]) -> Expr:
        """Matrix of an operand for a batch element: axes of extent 1 are repeated."""
        if shape == self.w.batch:
            return index
        number: Expr = 0
        stride, inner = 1, 1
        for extent, own in zip(reversed(self.w.batch), reversed(shape), strict=True):
            if own > 1:
                number = number + (index // inner % extent) * stride
            stride, inner = stride * own, inner * extent
        return number

    def _pack(self, scratch: Any, right: Expr) -> None:
        place = 0
        for panel in self.panels:
            with self.b.loop(self.w.depth, "k") as k:
                to = self.b.bind(place + k * panel.packed, "to")
                column, offset = panel.start, 0
                for lanes, valid in zip(panel.lanes, panel.valid, strict=True):
                    self._pack_vector(scratch, to + offset, right, k, column, valid)
                    column, offset = column + valid, offset + lanes
            place += self.w.depth * panel.packed

    def _pack_vector(self, scratch: Any, to: Expr, right: Expr, k: Expr, column: int, valid: int) -> None:
        if self.w.transpose_b:
            with self.b.loop(valid, "lane") as lane:
                value = self.b.load(self.right, right + (column + lane) * self.w.depth + k)
                self.b.store(scratch, to + lane, value)
        elif valid & (valid - 1) == 0:
            self.b.store(scratch, to, self.b.load(self.right, right + k * self.w.columns + column, valid), valid)
        else:
            with self.b.loop(valid, "lane") as lane:
                self.b.store(scratch, to + lane, self.b.load(self.right, right + k * self.w.columns + column + lane))

    def _tile(
        self, scratch: Any, panel: int, columns: Columns, left: Expr, element: Expr, row: Expr, rows: int
    ) -> None:
        starts = [columns.start + sum(columns.valid[:v]) for v in range(len(columns.lanes))]
        tile = Tile(self.b, rows, columns, self.w.dtype, self.lane_steps)
        tile.start(lambda v: self.epilogue.start(starts[v], columns.lanes[v], columns.valid[v]))
        base = self.b.bind(left + row * self.w.depth, "base")
        tile.accumulate(Run(self.w.depth, lambda r: base + r * self.w.depth, self.left, panel), scratch)
        place, rest = [], element
        for extent in reversed(self.w.batch):
            place.append(rest % extent)
            rest = rest // extent
        for r in range(rows):
            to = self.b.bind((element * self.w.rows + row + r) * self.w.columns, "to")
            for v, (lanes, valid) in enumerate(zip(columns.lanes, columns.valid, strict=True)):
                where = (*reversed(place), row + r, starts[v])
                value = self.epilogue.finish(tile.result(r, v), where, lanes, valid)
                self.b.store_first(self.y, to + starts[v], value, lanes, valid)
