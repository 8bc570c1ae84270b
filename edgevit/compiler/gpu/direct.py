"""Products that read their input where it lies."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder, div, mod, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.tiles import lanes_of, split, wanted_threads
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.conv import Workload
from edgevit.target_schema import Gpu

_PIXELS = (8, 4, 2)
_MAX_SPLIT = 8
_STEPS_OF_A_PART = 6
"""Vectors of input channels that a thread should have at least when several share them."""


def emit_direct(workload: Workload, planar: bool, gpu: Gpu, name: str, storage: Sequence[str]) -> Any:
    """Kernel with arguments sources, packed weights, epilogue operands, output."""
    return _Direct(workload, planar, gpu, name, storage).function()


class _Direct:
    """Writes one kernel."""

    def __init__(self, workload: Workload, planar: bool, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.w, self.planar = workload, planar
        batch, height, width, channels = workload.output
        self.depths = [depth // workload.groups for depth in workload.sources]
        self.steps = 1 if planar else lanes_of(*self.depths)
        self.lanes = lanes_of(channels // workload.groups)
        self.vectors, self.rows = channels // self.lanes, batch * height
        self.pixels = self._pixels(width, wanted_threads(gpu))
        self.tiles = -(-width // self.pixels)
        self.parts = self._parts(wanted_threads(gpu))
        launch = split(self.vectors, self.rows * self.tiles, gpu, depth=self.parts)
        self.b = ThreadBuilder(name, launch, storage)
        size = workload.batch * workload.height * workload.width
        self.x = [self.b.argument(f"x{i}", size * depth) for i, depth in enumerate(workload.sources)]
        self.weights = self.b.argument("weights", prod(workload.kernel) * sum(self.depths) * channels)
        self.epilogue = Epilogue(self.b, workload.epilogue, workload.output)
        self.y = self.b.argument("y", prod(workload.output))

    def _pixels(self, width: int, wanted: int) -> int:
        """Pixels of a thread: the more, the less often weights are read; but the device wants its threads."""
        for count in _PIXELS:
            if count <= width and self.vectors * self.rows * -(-width // count) >= wanted:
                return count
        return 1

    def _parts(self, wanted: int) -> int:
        """Threads that share the input channels of an output."""
        threads, parts = self.vectors * self.rows * self.tiles, 1
        least = min(self.depths) // self.steps
        while parts < _MAX_SPLIT and threads * parts * 2 <= wanted and least >= 2 * parts * _STEPS_OF_A_PART:
            parts *= 2
        return parts

    def function(self) -> Any:
        b, (_, grid_y, _), (block_x, block_y, _) = self.b, self.b.launch.grid, self.b.launch.block
        vector = b.bind(b.group(0) * block_x + b.thread(0), "vector")
        tile = b.bind(b.group(1) * block_y + b.thread(1), "tile")
        total = self.rows * self.tiles
        valid = within((vector, self.vectors, b.launch.grid[0] * block_x), (tile, total, grid_y * block_y))
        sums = b.registers(self.pixels * self.lanes, name="sums")
        for p in range(self.pixels):
            b.store(sums, p * self.lanes, b.constant(0.0, lanes=self.lanes), self.lanes)
        with b.inside(valid):
            row, column = b.bind(div(tile, self.tiles), "row"), b.bind(mod(tile, self.tiles) * self.pixels, "column")
            self._accumulate(sums, vector, row, column)
        if self.parts > 1:
            valid = self._add_parts(sums, valid)
        with b.inside(valid):
            self._write(sums, vector, tile)
        return b.finish()

    def _accumulate(self, sums: Any, vector: Expr, row: Expr, column: Expr) -> None:
        w, b = self.w, self.b
        _, out_height, _, channels = w.output
        image, out_row = b.bind(div(row, out_height), "image"), b.bind(mod(row, out_height), "out_row")
        group = div(vector * self.lanes, channels // w.groups) if w.groups > 1 else 0
        with b.loop(w.kernel[0], "tap_row") as i:
            line = b.bind(out_row * w.strides[0] - w.pads[0] + i * w.dilations[0], "line")
            with b.inside(_bounds(line, w.height) if w.pads[0] or w.pads[2] else None), b.loop(w.kernel[1], "tap") as j:
                start = column * w.strides[1] - w.pads[1] + j * w.dilations[1]
                places = [b.bind(start + p * w.strides[1], "place") for p in range(self.pixels)]
                first: Expr = b.bind((i * w.kernel[1] + j) * sum(self.depths), "first")
                for source, depth in enumerate(self.depths):
                    self._source(sums, source, (image, line, places, group), first, vector)
                    first = first + depth

    def _source(
        self, sums: Any, source: int, where: tuple[Expr, Expr, list[Expr], Expr], first: Expr, vector: Expr
    ) -> None:
        """Add one source's share at one tap."""
        w, b, steps, lanes = self.w, self.b, self.steps, self.lanes
        image, line, places, group = where
        depth, total = self.depths[source], self.w.sources[source]
        checked = self._leaves_image
        pixel = [tirx.max(tirx.min(place, w.width - 1), 0) if checked else place for place in places]
        if self.planar:
            bases = [b.bind((image * total * w.height + line) * w.width + p, "base") for p in pixel]
        else:
            bases = [b.bind(((image * w.height + line) * w.width + p) * total + group * depth, "base") for p in pixel]
        with self._share(depth // steps) as step:
            k = b.bind(step * steps, "k")
            at = b.bind((first + k) * w.channels + vector * lanes, "at")
            weights = [b.bind(b.load(self.weights, at + q * w.channels, lanes), "weight") for q in range(steps)]
            for p, base in enumerate(bases):
                index = base + (k * (w.height * w.width) if self.planar else k)
                value = b.load(self.x[source], index, steps)
                if checked:
                    value = tirx.Select(_bounds(places[p], w.width), value, b.constant(0.0, lanes=steps))
                value = b.bind(value, "x")
                total_sum = b.load(sums, p * lanes, lanes)
                for q in range(steps):
                    total_sum = total_sum + b.splat(b.lane(value, q, steps), lanes) * weights[q]
                b.store(sums, p * lanes, total_sum, lanes)

    @property
    def _leaves_image(self) -> bool:
        """Whether a thread's pixels may lie beside the image: in the padding, or behind the last column."""
        return bool(self.w.pads[1] or self.w.pads[3] or self.w.output[2] % self.pixels)

    @contextlib.contextmanager
    def _share(self, count: int) -> Iterator[Expr]:
        """Loop over the steps that are this thread's."""
        if self.parts == 1:
            with self.b.loop(count, "step") as step:
                yield step
            return
        part = self.b.thread(2)
        mine = div(count - part + self.parts - 1, self.parts)
        with self.b.loop(mine, "step") as step:
            yield step * self.parts + part

    def _add_parts(self, sums: Any, valid: Expr | None) -> Expr:
        """Add up what the threads along z have; the first of them goes on."""
        b, size = self.b, self.pixels * self.lanes
        block_x, block_y, _ = b.launch.block
        shared = b.shared(block_x * block_y * self.parts * size, "parts")
        place = b.bind((b.thread(1) * block_x + b.thread(0)) * self.parts, "part_of")
        for p in range(self.pixels):
            value = b.load(sums, p * self.lanes, self.lanes)
            b.store(shared, (place + b.thread(2)) * size + p * self.lanes, value, self.lanes)
        b.barrier()
        first = tirx.EQ(b.thread(2), tirx.const(0, "int32"))
        with b.when(first):
            for p in range(self.pixels):
                at = p * self.lanes
                total = b.load(shared, place * size + at, self.lanes)
                for part in range(1, self.parts):
                    total = total + b.load(shared, (place + part) * size + at, self.lanes)
                b.store(sums, at, total, self.lanes)
        return first if valid is None else tirx.And(first, valid)

    def _write(self, sums: Any, vector: Expr, tile: Expr) -> None:
        b, (_, height, width, channels) = self.b, self.w.output
        row, column = b.bind(div(tile, self.tiles), "row"), b.bind(mod(tile, self.tiles) * self.pixels, "column")
        image, out_row = b.bind(div(row, height), "image"), b.bind(mod(row, height), "out_row")
        for p in range(self.pixels):
            beside = p and width % self.pixels
            with b.inside(column + p < width if beside else None):
                place = (image, out_row, column + p, vector * self.lanes)
                value = self.epilogue.apply(b.load(sums, p * self.lanes, self.lanes), place, self.lanes)
                index = ((image * height + out_row) * width + column + p) * channels + vector * self.lanes
                b.store(self.y, index, value, self.lanes)


def _bounds(index: Expr, extent: int) -> Expr:
    return tirx.And(index >= 0, index < extent)
