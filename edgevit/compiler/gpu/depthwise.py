"""Depthwise convolution: a thread computes neighbouring pixels of a vector of channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder, div, mod, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.tiles import lanes_of, split, wanted_threads
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import depthwise
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.depthwise import Workload
from edgevit.target_schema import Target

Array = np.ndarray[Any, Any]

NAME = "depthwise"
_PIXELS = (4, 2)


def claim(node: Node) -> Workload | None:
    """Workload of a ``depthwise`` node."""
    return depthwise.claim(node)


def pack(workload: Workload, target: Target, constants: list[Array]) -> list[Array]:
    """Filters, (channels, 1, rows, columns), as [row][column][channel]; other constants unchanged."""
    return [np.ascontiguousarray(constants[0][:, 0].transpose(1, 2, 0)), *constants[1:]]


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel; arguments are the image, the packed filters, epilogue operands, output."""
    return _Depthwise(workload, target, name, storage).function()


class _Depthwise:
    """Writes one kernel."""

    def __init__(self, workload: Workload, target: Target, name: str, storage: Sequence[str]) -> None:
        assert target.gpu is not None
        self.windows = workload.windows
        batch, height, width, channels = self.windows.output_shape
        self.lanes = lanes_of(channels)
        self.vectors, self.rows = channels // self.lanes, batch * height
        self.pixels = self._pixels(width, wanted_threads(target.gpu))
        self.tiles = -(-width // self.pixels)
        self.b = ThreadBuilder(name, split(self.vectors, self.rows * self.tiles, target.gpu), storage)
        self.x = self.b.argument("x", self.windows.input_size)
        self.filters = self.b.argument("filters", workload.filter_size)
        self.epilogue = Epilogue(self.b, workload.epilogue, self.windows.output_shape)
        self.y = self.b.argument("y", prod(self.windows.output_shape))

    def _pixels(self, width: int, wanted: int) -> int:
        """Pixels of a thread, which read filters once and share taps in its registers."""
        for count in _PIXELS:
            if count <= width and self.vectors * self.rows * -(-width // count) >= wanted:
                return count
        return 1

    def function(self) -> Any:
        b, (grid_x, grid_y, _), (block_x, block_y, _) = self.b, self.b.launch.grid, self.b.launch.block
        vector = b.bind(b.group(0) * block_x + b.thread(0), "vector")
        tile = b.bind(b.group(1) * block_y + b.thread(1), "tile")
        total = self.rows * self.tiles
        with b.inside(within((vector, self.vectors, grid_x * block_x), (tile, total, grid_y * block_y))):
            height = self.windows.rows.output
            row, column = b.bind(div(tile, self.tiles), "row"), b.bind(mod(tile, self.tiles) * self.pixels, "column")
            image, out_row = b.bind(div(row, height), "image"), b.bind(mod(row, height), "out_row")
            sums = self._accumulate(vector, image, out_row, column)
            self._write(sums, vector, (image, out_row, column))
        return b.finish()

    def _accumulate(self, vector: Expr, image: Expr, out_row: Expr, column: Expr) -> Any:
        b, lanes, rows, columns = self.b, self.lanes, self.windows.rows, self.windows.columns
        sums = b.registers(self.pixels * lanes, name="sums")
        for p in range(self.pixels):
            b.store(sums, p * lanes, b.constant(0.0, lanes=lanes), lanes)
        leaves = columns.before or columns.after or columns.output % self.pixels
        with b.loop(rows.kernel, "tap_row") as i:
            line = b.bind(out_row * rows.stride - rows.before + i * rows.dilation, "line")
            with b.inside(_bounds(line, rows.size) if rows.before or rows.after else None):
                for j in range(columns.kernel):
                    at = (i * columns.kernel + j) * self.windows.channels + vector * lanes
                    weight = b.bind(b.load(self.filters, at, lanes), "weight")
                    for p in range(self.pixels):
                        place = b.bind((column + p) * columns.stride - columns.before + j * columns.dilation, "place")
                        held = tirx.max(tirx.min(place, columns.size - 1), 0) if leaves else place
                        index = ((image * rows.size + line) * columns.size + held) * self.windows.channels
                        value = b.load(self.x, index + vector * lanes, lanes)
                        if leaves:
                            value = tirx.Select(_bounds(place, columns.size), value, b.constant(0.0, lanes=lanes))
                        b.store(sums, p * lanes, b.load(sums, p * lanes, lanes) + value * weight, lanes)
        return sums

    def _write(self, sums: Any, vector: Expr, place: tuple[Expr, Expr, Expr]) -> None:
        b, lanes, width = self.b, self.lanes, self.windows.columns.output
        image, row, column = place
        for p in range(self.pixels):
            beside = p and width % self.pixels
            with b.inside(column + p < width if beside else None):
                where = (image, row, column + p, vector * lanes)
                value = self.epilogue.apply(b.load(sums, p * lanes, lanes), where, lanes)
                b.store(self.y, self.windows.output_index(where), value, lanes)


def _bounds(index: Expr, extent: int) -> Expr:
    return tirx.And(index >= 0, index < extent)
