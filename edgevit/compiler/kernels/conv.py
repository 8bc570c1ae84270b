"""Convolution of any kernel size, stride, dilation and group count, and matrix products with constant weights.

Images are NHWC. A task takes a strip of output rows; it copies the strip's input with its padding (and with all
concatenated sources side by side) into scratch, unless the input can be read where it lies. Each panel of output
channels then passes over the strip in register tiles of output pixels × channels. A product with a constant
matrix is a 1 × 1 convolution over one long row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum, powers_of_two
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.tile import (
    Columns,
    Run,
    Tile,
    best_tile,
    lane_steps,
    needs_wide_sums,
    pack_panels,
    split_columns,
)
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "conv"
VERSION = 1
LAYOUT = ("vectors",)
"""Choices that the packed weights depend on."""


@dataclass(frozen=True)
class Workload:
    """What a convolution computes.

    Attributes:
        batch, height, width: of the input.
        sources: channels of each input; they are concatenated.
        channels: of the output.
        kernel, strides, dilations: vertical, horizontal.
        pads: top, left, bottom, right.
        groups: channel groups.
        epilogue: applied to the result.
        dtype: of input and weights. With float16 the sums and the epilogue are float32, and the epilogue is never
            absent: it says what the output is.
    """

    batch: int
    height: int
    width: int
    sources: tuple[int, ...]
    channels: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int
    epilogue: Pointwise | None
    dtype: str = "float32"

    @property
    def depth(self) -> int:
        """Input channels."""
        return sum(self.sources)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width of the input with its padding."""
        top, left, bottom, right = self.pads
        return self.height + top + bottom, self.width + left + right

    @property
    def output(self) -> tuple[int, int, int, int]:
        """Shape of the result, NHWC."""
        reach = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        spatial = [(p - r) // s + 1 for p, r, s in zip(self.padded, reach, self.strides, strict=True)]
        return self.batch, spatial[0], spatial[1], self.channels

    @property
    def reads_in_place(self) -> bool:
        """Whether the input needs neither padding nor concatenation."""
        return not any(self.pads) and len(self.sources) == 1

    @property
    def flat(self) -> bool:
        """Whether all output pixels are one row: a matrix product."""
        return (
            (self.batch, self.height, self.kernel, self.strides) == (1, 1, (1, 1), (1, 1))
            and self.reads_in_place
            and self.groups == 1
        )

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return 2 * prod(self.output) * self.depth // self.groups * prod(self.kernel)

    @property
    def bytes(self) -> int:
        """Inputs, weights and output, each moved once."""
        size = np.dtype(self.dtype).itemsize
        weights = self.channels * self.depth // self.groups * prod(self.kernel)
        operands = sum(prod(operand.shape) for operand in self.epilogue.operands[1:]) if self.epilogue else 0
        return size * (self.batch * self.height * self.width * self.depth + weights + prod(self.output) + operands)


def claim(node: Node) -> Workload | None:
    """Workload of a ``conv`` or ``linear`` node."""
    if node.op not in ("conv", "linear") or node.input(0).dtype not in ("float32", "float16"):
        return None
    epilogue: Pointwise | None = node.attrs.get("epilogue")
    x, dtype = node.input(0), node.input(0).dtype
    if node.output.dtype != (epilogue.dtype if epilogue else "float32"):
        return None
    if node.op == "linear":
        depth, channels = node.input(1).shape
        rows = x.size // depth
        flat = flatten_epilogue(epilogue, node.output.shape, rows)
        if isinstance(flat, bool):
            return None
        return Workload(1, 1, rows, (depth,), channels, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, flat, dtype)
    sources = node.attrs.get("sources", 1)
    weight = node.input(sources)
    batch, height, width, _ = x.shape
    workload = Workload(
        batch,
        height,
        width,
        tuple(node.input(index).shape[3] for index in range(sources)),
        weight.shape[0],
        (weight.shape[2], weight.shape[3]),
        tuple(node.attrs["strides"]),
        tuple(node.attrs["pads"]),
        tuple(node.attrs["dilations"]),
        node.attrs.get("groups", 1),
        epilogue,
        dtype,
    )
    return _flattened(workload)


def _flattened(workload: Workload) -> Workload:
    """The same, as a matrix product where it is one."""
    batch, height, width, _ = workload.output
    row = replace(workload, batch=1, height=1, width=batch * height * width)
    if not row.flat or row.output[2] != batch * height * width:
        return workload
    epilogue = flatten_epilogue(workload.epilogue, workload.output, batch * height * width)
    return workload if isinstance(epilogue, bool) else replace(row, epilogue=epilogue)


def flatten_epilogue(program: Pointwise | None, shape: tuple[int, ...], rows: int) -> Pointwise | bool | None:
    """The program for an output seen as (1, 1, rows, channels); False when an operand does not allow it."""
    if program is None:
        return None
    operands = [Operand((1, 1, rows, shape[-1]), program.operands[0].dtype)]
    for operand in program.operands[1:]:
        padded = (1,) * (len(shape) - len(operand.shape)) + operand.shape
        if padded == shape:
            operands.append(Operand((1, 1, rows, shape[-1]), operand.dtype))
        elif all(extent == 1 for extent in padded[:-1]):
            operands.append(Operand(padded[-1:], operand.dtype))
        elif padded[:-1] == shape[:-1]:
            operands.append(Operand((1, 1, rows, 1), operand.dtype))
        else:
            return False
    return Pointwise(tuple(operands), program.terms)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Tile rows and vectors, and output rows (or tiles of a matrix product) a task."""
    registers = target.vector.registers
    default = analytic_default(workload, target)
    blocks = {default["block"], *(1 << power for power in range(8))}
    return {
        "rows": tuple(range(1, min(16, registers // 2))),
        "vectors": (1, 2, 3, 4, 5, 6),
        "block": tuple(sorted(blocks)),
        "panels": (1, 2, 4, 8),
        "unroll": (1, 2, 4),
    }


def analytic_default(workload: Workload, target: Target, layout: Mapping[str, int] | None = None) -> Choice:
    """Fewest estimated cycles for the tile; strips that leave half of the L2 cache to the weights.

    Args:
        workload: to compute.
        target: to compute it on.
        layout: choices that are made already.
    """
    bits = 8 * np.dtype(workload.dtype).itemsize
    _, out_height, out_width, _ = workload.output
    vectors = layout["vectors"] if layout else None
    rows, vectors = best_tile(out_width, workload.channels // workload.groups, target, bits, vectors=vectors)
    share = target.caches.l2 // target.caches.l2_shared_by // 2
    cores = max(target.cores, 2)
    panels = 1
    if workload.flat:
        tiles = -(-out_width // rows)
        fit = share // max(1, rows * workload.depth * bits // 8)
        block = max(1, min(fit, -(-tiles // (4 * cores)), 64))
        tasks = -(-tiles // block)
    else:
        row_bytes = workload.padded[1] * workload.depth * workload.strides[0] * bits // 8
        block = max(1, min(share // row_bytes, -(-out_height // (2 * cores))))
        tasks = workload.batch * -(-out_height // block)
    count = len(_panels(workload, target, vectors))
    while tasks * panels < 2 * cores and panels * 2 <= count:
        panels *= 2
    # Where nothing else runs beside the multiply-adds, half the loop's overhead is worth code twice as long.
    unroll = 2 if target.architecture == "arm" else 1
    return {"rows": rows, "vectors": vectors, "block": block, "panels": panels, "unroll": unroll}


def tasks(workload: Workload, target: Target, choice: Choice) -> int:
    """Parts that the threads share: blocks of tiles or strips of rows, times parts of the panels."""
    _, out_height, out_width, channels = workload.output
    lanes = target.vector.lanes(8 * np.dtype(workload.dtype).itemsize)
    parts = min(choice["panels"], -(-channels // workload.groups // (lanes * choice["vectors"])))
    if workload.flat:
        tiles = out_width // min(choice["rows"], out_width)
        return -(-tiles // choice["block"]) * parts
    return workload.batch * -(-out_height // choice["block"]) * parts


def pack(
    workload: Workload, target: Target, choice: Choice, constants: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """Weights, OIHW or (K, N), as panels [group][panel][tap][channel][lanes]; other constants unchanged."""
    weight = constants[0]
    if weight.ndim == 2:
        weight = np.ascontiguousarray(weight.T)[:, :, None, None]
    groups, panels = workload.groups, _panels(workload, target, choice["vectors"])
    per_group = workload.channels // groups
    packed = []
    for group in range(groups):
        part = weight[group * per_group : (group + 1) * per_group]
        steps = part.transpose(2, 3, 1, 0).reshape(-1, per_group)
        packed.append(pack_panels(steps, panels))
    return [np.concatenate(packed), *constants[1:]]


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel; arguments are the sources, the packed weights, epilogue operands, output."""
    return _Emitter(workload, target, choice, name).function()


def _panels(workload: Workload, target: Target, vectors: int) -> list[Columns]:
    lanes = target.vector.lanes(8 * np.dtype(workload.dtype).itemsize)
    return split_columns(workload.channels // workload.groups, lanes, vectors)


@dataclass(frozen=True)
class _Strip:
    """Input that a task reads, and its output rows.

    Attributes:
        buffer: rows of pixels with all channels.
        origin: index of the pixel under output row ``first`` of the task, tap (0, 0), column 0.
        first: first output row.
        pitch: elements from one row to the next.
        image: number of the image in the batch.
        count: output rows.
    """

    buffer: Any
    origin: Expr = 0
    first: Expr = 0
    pitch: int = 0
    image: Expr = 0
    count: Expr = 1


@dataclass(frozen=True)
class _Panel:
    """Output channels of one pass.

    Attributes:
        columns: their vectors.
        channel: first channel.
        weights: index of its packed weights.
    """

    columns: Columns
    channel: Expr
    weights: Expr


class _Emitter:
    """Writes one convolution."""

    def __init__(self, workload: Workload, target: Target, choice: Choice, name: str) -> None:
        self.w = workload
        bits = 8 * np.dtype(workload.dtype).itemsize
        self.lanes, self.lane_steps = target.vector.lanes(bits), lane_steps(target, bits)
        self.panels = _panels(workload, target, choice["vectors"])
        self.rows = min(choice["rows"], workload.output[2])
        self.block = choice["block"]
        self.parts = min(choice["panels"], len(self.panels))
        self.unroll = choice["unroll"]
        self.depth = workload.depth // workload.groups
        self.steps = self.depth * prod(workload.kernel)
        self.packed = sum(panel.packed for panel in self.panels) * self.steps
        self.b = KernelBuilder(name)
        pixels = workload.batch * workload.height * workload.width
        self.x = [self.b.argument(f"x{i}", pixels * c, workload.dtype) for i, c in enumerate(workload.sources)]
        self.weights = self.b.argument("weights", workload.groups * self.packed, workload.dtype)
        operands = workload.epilogue.operands[1:] if workload.epilogue else ()
        buffers = [self.b.argument(f"operand{i}", prod(o.shape), o.dtype) for i, o in enumerate(operands)]
        out_dtype = workload.epilogue.dtype if workload.epilogue else workload.dtype
        self.y = self.b.argument("y", prod(workload.output), out_dtype)
        # Taps of one kernel row lie side by side unless dilation or groups keep them apart.
        contiguous = workload.groups == 1 and workload.dilations[1] == 1
        self.run, self.taps = (workload.kernel[1] * self.depth, 1) if contiguous else (self.depth, workload.kernel[1])
        self.wide = needs_wide_sums(workload.dtype, self.steps, self.run)
        # A float16 tile without float32 sums would round the bias.
        peel = workload.dtype == "float32" or self.wide
        self.epilogue = Epilogue(self.b, workload.epilogue, buffers, workload.output, peel_bias=peel)

    def function(self) -> Any:
        if self.w.flat:
            self._product()
        else:
            self._strips()
        return self.b.finish()

    def _product(self) -> None:
        """All pixels in one row: tasks are blocks of tiles × parts of the panels."""
        whole, rest = divmod(self.w.output[2], self.rows)
        blocks = max(1, -(-whole // self.block))
        strip = _Strip(self.x[0])
        with self.b.parallel(blocks * self.parts) as task:
            block, part = self._name(task // self.parts), self._name(task % self.parts)
            first = self._name(block * self.block)
            count = self._name(minimum(self.block, whole - first)) if blocks > 1 else whole

            def pass_over(panel: _Panel) -> None:
                if whole:
                    with self.b.loop(count, "tile") as tile:
                        self._tile(strip, 0, (first + tile) * self.rows, self.rows, panel, 0)
                if rest:
                    with self._only(block == blocks - 1 if blocks > 1 else None):
                        self._tile(strip, 0, whole * self.rows, rest, panel, 0)

            self._each_panel(0, part, pass_over)

    def _strips(self) -> None:
        """Tasks are strips of output rows of one image × parts of the panels."""
        batch, out_height, out_width, _ = self.w.output
        strips = -(-out_height // self.block)
        whole, rest = divmod(out_width, self.rows)
        with self.b.parallel(batch * strips * self.parts) as task:
            place, part = self._name(task // self.parts), self._name(task % self.parts)
            image, first = self._name(place // strips), self._name((place % strips) * self.block)
            count = self._name(minimum(self.block, out_height - first)) if out_height % self.block else self.block
            strip = self._read(image, first, count)
            with self.b.loop(self.w.groups, "group") as group:

                def pass_over(panel: _Panel) -> None:
                    with self.b.loop(count, "row") as row:
                        if whole:
                            with self.b.loop(whole, "tile") as tile:
                                self._tile(strip, row, tile * self.rows, self.rows, panel, group)
                        if rest:
                            self._tile(strip, row, whole * self.rows, rest, panel, group)

                self._each_panel(group, part, pass_over)

    def _each_panel(self, group: Expr, part: Expr, pass_over: Callable[[_Panel], None]) -> None:
        """Write a loop over the whole panels of a part, and the last, narrower one behind it."""
        first, last = self.panels[0], self.panels[-1]
        whole = len(self.panels) - (last.valid != first.valid)
        weights, channel = group * self.packed, group * (self.w.channels // self.w.groups)
        share = -(-len(self.panels) // self.parts)
        begin = self._name(part * share)
        count = self._name(minimum(share, whole - begin)) if self.parts > 1 else whole
        if whole:
            with self.b.loop(count, "panel") as i:
                panel = self._name(begin + i)
                at = self._name(weights + panel * (first.packed * self.steps))
                pass_over(_Panel(first, self._name(channel + panel * first.count), at))
        if whole < len(self.panels):
            with self._only(part == (len(self.panels) - 1) // share if self.parts > 1 else None):
                at = weights + whole * first.packed * self.steps
                pass_over(_Panel(last, self._name(channel + last.start), self._name(at)))

    def _read(self, image: Expr, first: Expr, count: Expr) -> _Strip:
        """The input of a strip: in place, or copied with its padding."""
        w = self.w
        if w.reads_in_place:
            pitch = w.width * w.depth
            origin = self._name((image * w.height + first * w.strides[0]) * pitch)
            return _Strip(self.x[0], origin, first, pitch, image, count)
        pitch = w.padded[1] * w.depth
        reach = (w.kernel[0] - 1) * w.dilations[0] + 1
        scratch = self.b.scratch(((self.block - 1) * w.strides[0] + reach) * pitch, w.dtype, "strip")
        top = self._name(first * w.strides[0] - w.pads[0])
        with self.b.loop((count - 1) * w.strides[0] + reach, "line") as line:
            y, to = self._name(top + line), self._name(line * pitch)
            with self.b.when((y >= 0) & (y < w.height)):
                self._copy_line(scratch, to, image, y)
            if w.pads[0] or w.pads[2]:
                with self.b.when((y < 0) | (y >= w.height)):
                    self._fill(scratch, to, pitch)
        return _Strip(scratch, 0, first, pitch, image, count)

    def _copy_line(self, scratch: Any, to: Expr, image: Expr, y: Expr) -> None:
        w = self.w
        depth, left, right = w.depth, w.pads[1], w.pads[3]
        self._fill(scratch, to, left * depth)
        line = self._name((image * w.height + y) * w.width)
        if len(w.sources) == 1:
            self._copy(self.x[0], line * depth, scratch, to + left * depth, w.width * depth)
        else:
            with self.b.loop(w.width, "pixel") as pixel:
                at = self._name(to + (left + pixel) * depth)
                for buffer, channels in zip(self.x, w.sources, strict=True):
                    self._copy(buffer, self._name((line + pixel) * channels), scratch, at, channels)
                    at = at + channels
        self._fill(scratch, to + (w.padded[1] - right) * depth, right * depth)

    def _copy(self, source: Any, at: Expr, target: Any, to: Expr, count: int) -> None:
        self._vectors(count, lambda i, lanes: self.b.store(target, to + i, self.b.load(source, at + i, lanes), lanes))

    def _fill(self, target: Any, to: Expr, count: int) -> None:
        dtype = self.w.dtype
        self._vectors(count, lambda i, lanes: self.b.store(target, to + i, self.b.constant(0.0, dtype, lanes), lanes))

    def _vectors(self, count: int, body: Callable[[Expr, int], None]) -> None:
        """Call ``body(index, lanes)`` for vectors that cover ``count`` elements."""
        whole, rest = divmod(count, self.lanes)
        if whole:
            with self.b.loop(whole, "vector") as vector:
                body(vector * self.lanes, self.lanes)
        done = whole * self.lanes
        for lanes in powers_of_two(rest):
            body(done, lanes)
            done += lanes

    def _tile(self, strip: _Strip, row: Expr, column: Expr, rows: int, panel: _Panel, group: Expr) -> None:
        """One register tile: ``rows`` pixels from ``column`` on, the channels of one panel."""
        w, columns = self.w, panel.columns
        starts = [panel.channel + sum(columns.valid[:v]) for v in range(len(columns.lanes))]
        column = self._name(column)
        tile = Tile(self.b, rows, columns, w.dtype, self.lane_steps, self.wide)
        tile.start(lambda v: self.epilogue.start(starts[v], columns.lanes[v], columns.valid[v]))
        base = strip.origin + row * (w.strides[0] * strip.pitch) + column * (w.strides[1] * w.depth)
        base = self._name(base + group * self.depth)
        length, taps = self.run, self.taps
        with self.b.loop(w.kernel[0], "tap_row") as i, self.b.loop(taps, "tap") as j:
            start = self._name(base + i * (w.dilations[0] * strip.pitch) + j * (w.dilations[1] * w.depth))
            weights = self._name(panel.weights + (i * taps + j) * (length * columns.packed))
            pitch = w.strides[1] * w.depth
            tile.accumulate(Run(length, lambda r: start + r * pitch, strip.buffer, weights), self.weights, self.unroll)
        self._store(tile, columns, starts, (strip.image, strip.first + row, column))

    def _store(self, tile: Tile, columns: Columns, starts: list[Expr], place: tuple[Expr, Expr, Expr]) -> None:
        _, height, width, channels = self.w.output
        image, row, column = place
        base = self._name(((image * height + row) * width + column) * channels)
        for r in range(tile.rows):
            for v, (lanes, valid) in enumerate(zip(columns.lanes, columns.valid, strict=True)):
                where = (image, row, column + r, starts[v])
                value = self.epilogue.finish(tile.result(r, v), where, lanes, valid)
                self.b.store_first(self.y, base + r * channels + starts[v], value, lanes, valid)

    def _name(self, value: Expr) -> Expr:
        return value if isinstance(value, int) else self.b.bind(value, "index")

    def _only(self, condition: Expr | None) -> Any:
        return nullcontext() if condition is None else self.b.when(condition)
