"""3 × 3 convolutions with fewer multiplications, by Winograd's minimal filtering.

A tile of m × m outputs depends on (m + 2)² inputs. Transformed to as many points, inputs and weights of a tile need
one multiplication per point where the definition has 9 m²: 2.25 times fewer for m = 2, four times for m = 4. The
weights are transformed when a model is compiled, which makes them 1.8 or 4 times as large. A task transforms a
strip of input tiles; then, for each panel of output channels, it multiplies the tiles × channels matrix of every
point by that point's weights and transforms the products back.

Rounding errors are those of a direct convolution with F(2 × 2, 3 × 3) or less, and up to twice those with F(4 × 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from math import prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import conv
from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum, powers_of_two
from edgevit.compiler.kernels.conv import Workload
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.tile import Columns, Run, Tile, best_tile, lane_steps, pack_panels, split_columns
from edgevit.compiler.kernels.winograd_transform import POINTS, transform
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "winograd"
VERSION = 1
LAYOUT = ("size", "vectors")
"""Choices that the packed weights depend on."""

_MIN_CHANNELS = 16
"""Fewer, in or out, leave too little to multiply for the transforms' cost."""

_MIN_TILES = 16
"""Fewer make products of so few rows that loading the weights takes longer than multiplying."""


def claim(node: Node) -> Workload | None:
    """Workload of a ``conv`` node with 3 × 3 taps side by side, stride 1, and enough channels and pixels."""
    workload = accept(node)
    return workload if workload is not None and _tiles(workload, 2) >= _MIN_TILES else None


def accept(node: Node) -> Workload | None:
    """Workload of a node that :func:`claim` would take if it had more pixels."""
    workload = conv.claim(node) if node.op == "conv" else None
    if workload is None or workload.dtype != "float32" or workload.groups != 1:
        return None
    if (workload.kernel, workload.strides, workload.dilations) != ((3, 3), (1, 1), (1, 1)):
        return None
    return workload if min(workload.depth, workload.channels) >= _MIN_CHANNELS else None


def _tiles(workload: Workload, size: int) -> int:
    """Tiles of one image."""
    _, height, width, _ = workload.output
    return -(-height // size) * -(-width // size)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Outputs along a tile's side, register tile, tile rows a task, parts of the panels, unrolled steps."""
    default = analytic_default(workload, target)
    return {
        "size": tuple(POINTS),
        "rows": tuple(range(1, min(16, target.vector.registers // 2))),
        "vectors": (1, 2, 3, 4, 5, 6),
        "block": tuple(sorted({default["block"], 1, 2, 4, 8, 16})),
        "panels": (1, 2, 4),
        "unroll": (1, 2, 4),
    }


def analytic_default(workload: Workload, target: Target, layout: Mapping[str, int] | None = None) -> Choice:
    """F(4 × 4) where it has tiles enough, and strips that move the fewest bytes through the L2 cache.

    Args:
        workload: to compute.
        target: to compute it on.
        layout: choices that are made already.
    """
    size = layout["size"] if layout else 4 if _tiles(workload, 4) >= _MIN_TILES else 2
    _, _, width, channels = workload.output
    block = _tile_rows(workload, target, size)
    vectors = layout["vectors"] if layout else None
    rows, vectors = best_tile(block * -(-width // size), channels, target, vectors=vectors)
    unroll = 2 if target.architecture == "arm" else 1
    return {"size": size, "rows": rows, "vectors": vectors, "block": block, "panels": 1, "unroll": unroll}


def _tile_rows(workload: Workload, target: Target, size: int) -> int:
    """Rows of tiles in a strip: every strip reads all weights, but its transformed input should stay in the cache."""
    _, height, width, channels = workload.output
    tall, points = -(-height // size), (size + 2) ** 2
    share = target.caches.l2 // target.caches.l2_shared_by // 2
    line = 4 * points * -(-width // size) * workload.depth
    weights = 4 * points * workload.depth * channels
    best, least = 1, float("inf")
    for strips in range(min(target.cores, tall), tall + 1):
        block = -(-tall // strips)
        moved = strips * weights if weights > share else 0
        if block * line > share:
            moved += 2 * strips * block * line
        if strips * block <= tall * 17 // 16 and moved < least:  # tiles beyond the image are multiplied too
            best, least = block, moved
    return best


def tasks(workload: Workload, target: Target, choice: Choice) -> int:
    """Parts that the threads share: strips of tiles times parts of the panels."""
    _, height, _, channels = workload.output
    tall = -(-height // choice["size"])
    strips = -(-tall // choice["block"])
    panels = -(-channels // (target.vector.lanes(32) * choice["vectors"]))
    return workload.batch * strips * min(choice["panels"], panels)


def pack(
    workload: Workload, target: Target, choice: Choice, constants: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Weights, OIHW, as panels [panel][point][channel][lanes]; other constants unchanged."""
    points = transform(choice["size"]).of_weights(constants[0]).astype(np.float32)
    panels = split_columns(workload.channels, target.vector.lanes(32), choice["vectors"])
    return [np.concatenate([pack_panels(point, [panel]) for panel in panels for point in points]), *constants[1:]]


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel; arguments are the sources, the packed weights, epilogue operands, output."""
    return _Emitter(workload, target, choice, name).function()


class _Emitter:
    """Writes one convolution."""

    def __init__(self, workload: Workload, target: Target, choice: Choice, name: str) -> None:
        self.w = workload
        self.t = transform(choice["size"])
        self.lanes, self.lane_steps = target.vector.lanes(32), lane_steps(target)
        self.panels = split_columns(workload.channels, self.lanes, choice["vectors"])
        _, height, width, _ = workload.output
        self.tall, self.wide = -(-height // self.t.size), -(-width // self.t.size)
        self.block = min(choice["block"], self.tall)
        self.strips = -(-self.tall // self.block)
        self.tiles = self.block * self.wide
        self.rows = min(choice["rows"], self.tiles)
        self.parts = min(choice["panels"], len(self.panels))
        self.unroll = choice["unroll"]
        self.points = self.t.reach**2
        # One vector more than needed keeps the points of a tile out of each other's cache set.
        self.pitch = self.tiles * workload.depth + self.lanes
        self.b = KernelBuilder(name)
        pixels = workload.batch * workload.height * workload.width
        self.x = [self.b.argument(f"x{i}", pixels * c) for i, c in enumerate(workload.sources)]
        packed = sum(panel.packed for panel in self.panels) * workload.depth * self.points
        self.weights = self.b.argument("weights", packed)
        operands = workload.epilogue.operands[1:] if workload.epilogue else ()
        buffers = [self.b.argument(f"operand{i}", prod(o.shape), o.dtype) for i, o in enumerate(operands)]
        out_dtype = workload.epilogue.dtype if workload.epilogue else workload.dtype
        self.y = self.b.argument("y", prod(workload.output), out_dtype)
        self.epilogue = Epilogue(self.b, workload.epilogue, buffers, workload.output, peel_bias=False)

    def function(self) -> Any:
        with self.b.parallel(self.w.batch * self.strips * self.parts) as task:
            place, part = self._name(task // self.parts), self._name(task % self.parts)
            image, first = self._name(place // self.strips), self._name((place % self.strips) * self.block)
            values = self.b.scratch(self.points * self.pitch, name="values")
            self._transform_inputs(values, image, first)
            self._each_panel(part, lambda panel, base, channel: self._panel(values, image, first, panel, base, channel))
        return self.b.finish()

    def _each_panel(self, part: Expr, body: Callable[[Columns, Expr, Expr], None]) -> None:
        """Call ``body(columns, weights, channel)`` in a loop over a part's whole panels and for the narrower last."""
        first, last = self.panels[0], self.panels[-1]
        whole = len(self.panels) - (last.valid != first.valid)
        step = first.packed * self.w.depth * self.points
        share = -(-len(self.panels) // self.parts)
        begin = self._name(part * share)
        if whole:
            count = self._name(minimum(share, whole - begin)) if self.parts > 1 else whole
            with self.b.loop(count, "panel") as index:
                panel = self._name(begin + index)
                body(first, self._name(panel * step), self._name(panel * first.count))
        if whole < len(self.panels):
            with self._only(part == self.parts - 1 if self.parts > 1 else None):
                body(last, whole * step, whole * first.count)

    def _transform_inputs(self, values: Any, image: Expr, first: Expr) -> None:
        """Fill ``values`` [point][tile][channel] from the strip that starts at tile row ``first``."""
        w, size, reach = self.w, self.t.size, self.t.reach
        width = self.wide * size + 2
        lines = self.b.scratch(reach * width * w.depth, name="lines")
        with self.b.loop(self.block, "tile_row") as row:
            top = self._name((first + row) * size - w.pads[0])
            with self.b.loop(reach, "line") as line:
                self._copy_line(lines, self._name(line * (width * w.depth)), image, self._name(top + line))
            with self.b.loop(self.wide, "tile") as tile:
                at = self._name(tile * (size * w.depth))
                to = self._name((row * self.wide + tile) * w.depth)

                def patch(channel: Expr, lanes: int, at: Expr = at, to: Expr = to) -> None:
                    base, target = self._name(at + channel), self._name(to + channel)
                    self._patch(lines, base, width * w.depth, values, target, lanes)

                self._vectors(w.depth, patch)

    def _patch(self, lines: Any, base: Expr, pitch: int, values: Any, target: Expr, lanes: int) -> None:
        """Transform ``lanes`` channels of one tile, down the columns and then along the rows.

        Inputs are loaded again for each group of points: keeping them would take more registers than there are.
        """
        t = self.t
        for group in t.groups:
            columns = []
            for j in range(t.reach):
                at = base + j * self.w.depth
                loaded = {i: self.b.bind(self.b.load(lines, at + i * pitch, lanes)) for i in t.needed(group)}
                columns.append(t.at_points(self.b, group, loaded, lanes))
            for index, point in enumerate(group):
                row = dict(enumerate(column[index] for column in columns))
                for across in t.groups:
                    for other, value in zip(across, t.at_points(self.b, across, row, lanes), strict=True):
                        self.b.store(values, target + (point * t.reach + other) * self.pitch, value, lanes)

    def _panel(self, values: Any, image: Expr, first: Expr, columns: Columns, weights: Expr, channel: Expr) -> None:
        """One panel of output channels: products at every point, then outputs."""
        pitch = self.tiles * columns.packed + self.lanes
        products = self.b.scratch(self.points * pitch, name="products")
        whole, rest = divmod(self.tiles, self.rows)
        with self.b.loop(self.points, "point") as point:
            left, to = self._name(point * self.pitch), self._name(point * pitch)
            right = self._name(weights + point * (self.w.depth * columns.packed))

            def multiply(start: Expr, rows: int) -> None:
                tile = Tile(self.b, rows, columns, steps=self.lane_steps)
                tile.start(lambda v: self.b.constant(0.0, "float32", columns.lanes[v]))
                base, pitch = self._name(left + start * self.w.depth), self.w.depth
                tile.accumulate(Run(pitch, lambda r: base + r * pitch, values, right), self.weights, self.unroll)
                self._keep(tile, products, self._name(to + start * columns.packed))

            with self.b.loop(whole, "block") as block:
                multiply(self._name(block * self.rows), self.rows)
            if rest:
                multiply(whole * self.rows, rest)
        with self.b.loop(self.block, "tile_row") as row, self.b.loop(self.wide, "tile") as tile:
            place = self._name((row * self.wide + tile) * columns.packed)
            corner = (image, self._name((first + row) * self.t.size), self._name(tile * self.t.size))
            self._each_vector(
                columns,
                lambda at, lanes, valid: self._outputs(
                    self._at_points(products, self._name(place + at), pitch, lanes), corner, channel + at, lanes, valid
                ),
            )

    def _keep(self, tile: Tile, products: Any, place: Expr) -> None:
        """Store a register tile, row after row."""
        for row in range(tile.rows):
            for vector, lanes in enumerate(tile.columns.lanes):
                self.b.store(products, place, tile.result(row, vector), lanes)
                place = place + lanes

    def _each_vector(self, columns: Columns, body: Callable[[Expr, int, int], None]) -> None:
        """Call ``body(first, lanes, valid)``: in a loop over a panel's whole vectors, and for a narrower last one."""
        lanes = columns.lanes[0]
        whole = sum(valid == lanes for valid in columns.valid)
        if whole:
            with self.b.loop(whole, "vector") as vector:
                body(self._name(vector * lanes), lanes, lanes)
        if whole < len(columns.lanes):
            body(whole * lanes, columns.lanes[-1], columns.valid[-1])

    def _at_points(self, products: Any, place: Expr, pitch: int, lanes: int) -> list[list[Expr]]:
        """Outputs of a tile from its products at all points: along the rows and then down the columns."""
        reach = self.t.reach
        across = []
        for i in range(reach):
            row = [self.b.bind(self.b.load(products, place + (i * reach + j) * pitch, lanes)) for j in range(reach)]
            across.append(self.t.from_points(self.b, row, lanes))
        columns = [self.t.from_points(self.b, column, lanes) for column in zip(*across, strict=True)]
        return [list(row) for row in zip(*columns, strict=True)]

    def _outputs(
        self, results: list[list[Expr]], corner: tuple[Expr, Expr, Expr], channel: Expr, lanes: int, valid: int
    ) -> None:
        """Finish and store those outputs of a tile that lie in the image."""
        size = self.t.size
        _, height, width, channels = self.w.output
        image, top, left = corner
        start = self._name(((image * height + top) * width + left) * channels + channel)
        # Only outputs that the last tile of an axis does not have need a test.
        rows = height - (self.strips * self.block - 1) * size
        columns = width - (self.wide - 1) * size
        for i, row in enumerate(results):
            with self._only(top + i < height if i >= rows else None):
                for j, result in enumerate(row):
                    with self._only(left + j < width if j >= columns else None):
                        value = self.epilogue.finish(result, (image, top + i, left + j, channel), lanes, valid)
                        self.b.store_first(self.y, start + (i * width + j) * channels, value, lanes, valid)

    def _copy_line(self, lines: Any, to: Expr, image: Expr, y: Expr) -> None:
        """One line of all tiles of a row, zero outside the image."""
        w = self.w
        depth, left, width = w.depth, w.pads[1], self.wide * self.t.size + 2
        with self.b.when((y >= 0) & (y < w.height)):
            self._fill(lines, to, left * depth)
            line, inside = self._name((image * w.height + y) * w.width), self._name(to + left * depth)
            if len(w.sources) == 1:
                self._copy(self.x[0], self._name(line * depth), lines, inside, w.width * depth)
            else:
                with self.b.loop(w.width, "pixel") as pixel:
                    at = self._name(inside + pixel * depth)
                    for buffer, channels in zip(self.x, w.sources, strict=True):
                        self._copy(buffer, self._name((line + pixel) * channels), lines, at, channels)
                        at = self._name(at + channels)
            self._fill(lines, self._name(inside + w.width * depth), (width - left - w.width) * depth)
        with self.b.when((y < 0) | (y >= w.height)):
            self._fill(lines, to, width * depth)

    def _copy(self, source: Any, at: Expr, target: Any, to: Expr, count: int) -> None:
        self._vectors(count, lambda i, lanes: self.b.store(target, to + i, self.b.load(source, at + i, lanes), lanes))

    def _fill(self, target: Any, to: Expr, count: int) -> None:
        self._vectors(
            count, lambda i, lanes: self.b.store(target, to + i, self.b.constant(0.0, "float32", lanes), lanes)
        )

    def _vectors(self, count: int, body: Callable[[Expr, int], None]) -> None:
        """Call ``body(index, lanes)`` for vectors that cover ``count`` elements."""
        whole, rest = divmod(count, self.lanes)
        if whole:
            with self.b.loop(whole, "vector") as vector:
                body(self._name(vector * self.lanes), self.lanes)
        done = whole * self.lanes
        for lanes in powers_of_two(rest):
            body(done, lanes)
            done += lanes

    def _name(self, value: Expr) -> Expr:
        return value if isinstance(value, int) else self.b.bind(value, "index")

    def _only(self, condition: Expr | None) -> Any:
        return nullcontext() if condition is None else self.b.when(condition)
