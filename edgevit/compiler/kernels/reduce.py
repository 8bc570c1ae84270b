"""Reductions over any set of axes.

Neighbouring axes of the same role are merged first. If the last axis is kept, vectors run along it (a global
average pool is this case); if it is reduced, several vectors of partial results run along it and are combined at
the end of every row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder, minimum, powers_of_two
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.operands import NO_EPILOGUE, float_epilogue, operand_arguments, operand_bytes
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "reduce"
VERSION = 1

KINDS = ("mean", "sum", "max", "min", "prod", "l2")

_SERIAL_ELEMENTS = 20_000
_SPLIT_ELEMENTS = 1 << 16


@dataclass(frozen=True)
class Workload:
    """One reduction.

    Attributes:
        kind: one of ``KINDS``.
        shape: of the input.
        axes: reduced ones, ascending.
        keepdims: whether reduced axes stay with extent 1.
        epilogue: operand 0 is the reduced value.
    """

    kind: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    keepdims: bool
    epilogue: Pointwise = NO_EPILOGUE

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        if self.keepdims:
            return tuple(1 if axis in self.axes else extent for axis, extent in enumerate(self.shape))
        return tuple(extent for axis, extent in enumerate(self.shape) if axis not in self.axes)

    @property
    def flops(self) -> int:
        """One per input element."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Input, operands and output, once each."""
        return 4 * (prod(self.shape) + prod(self.output_shape)) + operand_bytes(self.epilogue)


@dataclass(frozen=True)
class Dimension:
    """A merged axis of the input: its extent and the distance between its elements."""

    extent: int
    stride: int


@dataclass(frozen=True)
class Nest:
    """Merged axes by role, outermost first."""

    kept: tuple[Dimension, ...]
    reduced: tuple[Dimension, ...]

    @property
    def last_is_kept(self) -> bool:
        """Whether the innermost axis survives."""
        return bool(self.kept) and self.kept[-1].stride == 1

    @property
    def outer(self) -> tuple[Dimension, ...]:
        """Kept axes that no vector runs along."""
        return self.kept[:-1] if self.last_is_kept else self.kept

    @property
    def outer_size(self) -> int:
        """Number of positions along ``outer``."""
        return prod(dimension.extent for dimension in self.outer)

    @property
    def width(self) -> int:
        """Extent of the kept last axis, else 1."""
        return self.kept[-1].extent if self.last_is_kept else 1


def nest(workload: Workload) -> Nest:
    """The fewest axes that describe the reduction."""
    # Operands of an epilogue are addressed by the output's own axes, which therefore stay apart.
    merge_kept = len(workload.epilogue.operands) == 1
    merged: list[tuple[bool, Dimension]] = []
    stride = 1
    for axis in reversed(range(len(workload.shape))):
        extent, reduced = workload.shape[axis], axis in workload.axes
        if extent != 1:
            if merged and merged[-1][0] == reduced and (reduced or merge_kept):
                merged[-1] = reduced, Dimension(merged[-1][1].extent * extent, merged[-1][1].stride)
            else:
                merged.append((reduced, Dimension(extent, stride)))
        stride *= extent
    merged.reverse()
    kept = tuple(dimension for reduced, dimension in merged if not reduced)
    return Nest(kept, tuple(dimension for reduced, dimension in merged if reduced))


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``reduce`` node."""
    if node.op != "reduce" or node.attrs["kind"] not in KINDS:
        return None
    epilogue, shape = float_epilogue(node), node.input(0).shape
    if epilogue is None or 0 in shape:
        return None
    return Workload(node.attrs["kind"], shape, tuple(node.attrs["axes"]), bool(node.attrs["keepdims"]), epilogue)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Choices of a kernel.

    ``vectors``: along the last axis in one step. ``unroll``: partial results of each, where the last axis is kept.
    ``splits``: parts that a reduction with too few results for all cores is cut into.
    """
    axes = nest(workload)
    splits = (1, 2, 4, 8, 16) if _can_split(axes) else (1,)
    return {"vectors": (1, 2, 4, 8), "unroll": (1, 2, 4, 8) if axes.last_is_kept else (1,), "splits": splits}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Eight partial results at least, which hide the latency of additions."""
    axes = nest(workload)
    if not axes.last_is_kept:
        return {"vectors": 8 if target.vector.registers >= 32 else 4, "unroll": 1, "splits": 1}
    lanes = _lanes(axes.width, target)
    vectors = -(-axes.width // lanes)
    # Few channels still make whole cache lines when all of them are read together.
    chosen = max(count for count in (1, 2, 4) if count <= vectors)
    tasks = axes.outer_size * -(-vectors // chosen)
    alone = tasks < 2 * target.cores and prod(workload.shape) >= _SPLIT_ELEMENTS and _can_split(axes)
    return {"vectors": chosen, "unroll": 8 // chosen, "splits": 8 if alone else 1}


def tasks(workload: Workload, target: Target, choice: Choice) -> int:
    """Parts that the threads share: of the reduction where it is split, else of the results."""
    axes = nest(workload)
    if not axes.last_is_kept:
        return axes.outer_size
    if choice["splits"] > 1:
        return min(choice["splits"], axes.reduced[0].extent)
    return axes.outer_size * -(-axes.width // (_lanes(axes.width, target) * choice["vectors"]))


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments input, epilogue operands, output."""
    builder = KernelBuilder(name)
    source = builder.argument("source", prod(workload.shape))
    operands = operand_arguments(builder, workload.epilogue)
    output = builder.argument("output", prod(workload.output_shape))
    _Reduction(builder, workload, target, choice, source, operands, output).emit()
    return builder.finish()


def _can_split(axes: Nest) -> bool:
    return axes.last_is_kept and len(axes.reduced) == 1 and axes.reduced[0].extent >= 256


def _lanes(width: int, target: Target) -> int:
    return min(target.vector.lanes(32), 1 << (width.bit_length() - 1))


def squeezed(epilogue: Pointwise, shape: tuple[int, ...]) -> tuple[Pointwise, tuple[int, ...]]:
    """The epilogue and the output's shape without axes of extent 1."""
    places = [axis for axis, extent in enumerate(shape) if extent != 1]

    def squeeze(operand: Operand) -> Operand:
        full = (1,) * (len(shape) - len(operand.shape)) + operand.shape
        return Operand(tuple(full[axis] for axis in places) or (1,), operand.dtype)

    operands = tuple(squeeze(operand) for operand in epilogue.operands)
    return Pointwise(operands, epilogue.terms), tuple(shape[axis] for axis in places) or (1,)


class _Reduction:
    def __init__(
        self,
        builder: KernelBuilder,
        workload: Workload,
        target: Target,
        choice: Choice,
        source: Any,
        operands: list[Any],
        output: Any,
    ) -> None:
        self._builder = builder
        self._kind = workload.kind
        self._nest = nest(workload)
        self._count = prod(workload.shape[axis] for axis in workload.axes)
        self._choice = choice
        self._source = source
        self._output = output
        program, self._shape = squeezed(workload.epilogue, workload.output_shape)
        self._epilogue = Epilogue(builder, program, operands, self._shape, peel_bias=False)
        self._most_lanes = target.vector.lanes(32)
        self._lanes = _lanes(self._nest.width, target) if self._nest.last_is_kept else self._most_lanes
        self._parallel = prod(workload.shape) > _SERIAL_ELEMENTS

    def emit(self) -> None:
        if not self._nest.last_is_kept:
            self._rows()
        elif self._choice["splits"] > 1:
            self._split_columns(min(self._choice["splits"], self._nest.reduced[0].extent))
        else:
            self._columns()

    # The last axis is kept: vectors along it.

    def _columns(self) -> None:
        builder, axes = self._builder, self._nest
        vectors, blocks = self._blocks()
        with self._spread(axes.outer_size * blocks) as task:
            outer = builder.bind(tirx.truncdiv(task, blocks), "outer")
            starts = self._starts(tirx.truncmod(task, blocks), vectors)
            base = builder.bind(self._base(outer), "base")
            for start, value in zip(starts, self._sweep(base, starts, axes.reduced), strict=True):
                self._store(value, outer, start, self._lanes)

    def _split_columns(self, splits: int) -> None:
        builder, axes = self._builder, self._nest
        (whole,) = axes.reduced
        vectors, blocks = self._blocks()
        results = axes.outer_size * axes.width
        partial = builder.scratch(splits * results, name="partial")
        part = -(-whole.extent // splits)
        splits = -(-whole.extent // part)
        with self._spread(splits) as split:
            length = minimum(whole.extent - split * part, part)
            length = part if splits * part == whole.extent else builder.bind(length, "length")
            with builder.loop(axes.outer_size, "outer") as outer, builder.loop(blocks, "block") as block:
                starts = self._starts(block, vectors)
                base = builder.bind(self._base(outer) + split * (part * whole.stride), "base")
                sums = self._sweep(base, starts, (Dimension(length, whole.stride),))
                for start, value in zip(starts, sums, strict=True):
                    builder.store(partial, split * results + outer * axes.width + start, value, self._lanes)
        with builder.loop(axes.outer_size, "outer") as outer, builder.loop(blocks, "block") as block:
            for start in self._starts(block, vectors):
                place = builder.bind(outer * axes.width + start, "place")
                value = builder.load(partial, place, self._lanes)
                for split in range(1, splits):
                    value = self._merge(value, builder.load(partial, place + split * results, self._lanes))
                self._store(builder.bind(value), outer, start, self._lanes)

    def _blocks(self) -> tuple[int, int]:
        """Vectors of a block of the last axis, and how many blocks there are."""
        vectors = -(-self._nest.width // self._lanes)
        blocks = -(-vectors // self._choice["vectors"])
        return -(-vectors // blocks), blocks

    def _starts(self, block: Expr, vectors: int) -> list[Expr]:
        """Where the vectors of a block begin; the last ones overlap those before if the axis is no multiple."""
        width, builder = self._nest.width, self._builder
        last = width - self._lanes
        fits = width % (vectors * self._lanes) == 0
        starts = [(block * vectors + vector) * self._lanes for vector in range(vectors)]
        return [builder.bind(start if fits else minimum(start, last), "start") for start in starts]

    def _sweep(self, base: Expr, starts: list[Expr], reduced: tuple[Dimension, ...]) -> list[Expr]:
        """Results of one vector at each start."""
        builder, lanes, unroll = self._builder, self._lanes, self._choice["unroll"]
        vectors = len(starts)
        sums = builder.registers(vectors * unroll * lanes, name="sums")
        for register in range(vectors * unroll):
            builder.store(sums, register * lanes, self._identity(lanes), lanes)

        def add(place: Expr, copy: int) -> None:
            for vector, start in enumerate(starts):
                value = builder.bind(builder.load(self._source, place + start, lanes), "input")
                where = (copy * vectors + vector) * lanes
                builder.store(sums, where, self._step(builder.load(sums, where, lanes), value), lanes)

        self._loops(base, reduced, unroll, add)
        return [
            self._tree([builder.load(sums, (c * vectors + v) * lanes, lanes) for c in range(unroll)])
            for v in range(vectors)
        ]

    def _loops(self, base: Expr, reduced: tuple[Dimension, ...], unroll: int, add: Callable[[Expr, int], None]) -> None:
        """Call ``add`` for every reduced position, ``unroll`` neighbours at a time along the innermost axis."""
        builder = self._builder
        if not reduced:
            add(base, 0)
            return
        first, *rest = reduced
        if rest:
            with builder.loop(first.extent, "r") as r:
                self._loops(builder.bind(base + r * first.stride, "base"), tuple(rest), unroll, add)
            return
        static = isinstance(first.extent, int)
        whole = first.extent // unroll if static else builder.bind(tirx.truncdiv(first.extent, unroll), "whole")
        with builder.loop(whole, "r") as r:
            step = builder.bind(base + r * (unroll * first.stride), "base")
            for copy in range(unroll):
                add(step + copy * first.stride, copy)
        left = first.extent - whole * unroll
        if static:
            for copy in range(left):
                add(base + (whole * unroll + copy) * first.stride, copy)
        elif unroll > 1:
            with builder.loop(left, "r") as r:
                add(builder.bind(base + (whole * unroll + r) * first.stride, "base"), 0)

    # The last axis is reduced: several vectors of partial results along it.

    def _rows(self) -> None:
        builder, axes = self._builder, self._nest
        with self._spread(axes.outer_size) as outer:
            base = builder.bind(self._base(outer), "base")
            *above, row = axes.reduced or (Dimension(1, 1),)
            vectors = max(1, min(self._choice["vectors"], row.extent // self._most_lanes))
            pieces = _pieces(row.extent, self._most_lanes, vectors)
            sums = builder.registers(sum(pieces), name="sums")
            place = 0
            for lanes in pieces:
                builder.store(sums, place, self._identity(lanes), lanes)
                place += lanes
            self._loops(base, tuple(above), 1, lambda start, _: self._row(start, row.extent, pieces, sums))
            self._store(self._horizontal(pieces, sums), outer, tirx.const(0, "int32"), 1)

    def _row(self, start: Expr, length: int, pieces: list[int], sums: Any) -> None:
        """Add a row: whole vectors turn by turn to the leading pieces, the rest to the narrower ones."""
        builder, lanes = self._builder, self._most_lanes
        vectors = sum(piece == lanes for piece in pieces)

        def add(index: Expr, where: int, width: int) -> None:
            value = builder.bind(builder.load(self._source, index, width), "input")
            builder.store(sums, where, self._step(builder.load(sums, where, width), value), width)

        rounds = length // (vectors * lanes) if vectors else 0
        with builder.loop(rounds, "round") as turn:
            base = builder.bind(start + turn * (vectors * lanes), "base")
            for vector in range(vectors):
                add(base + vector * lanes, vector * lanes, lanes)
        done = rounds * vectors * lanes
        for vector in range((length - done) // lanes):
            add(start + (done + vector * lanes), vector * lanes, lanes)
        done = length // lanes * lanes
        where = vectors * lanes
        for width in pieces[vectors:]:
            add(start + done, where, width)
            done, where = done + width, where + width

    def _horizontal(self, pieces: list[int], sums: Any) -> Expr:
        """All lanes of all pieces in one number, by halves."""
        builder, place = self._builder, 0
        pending: dict[int, list[Expr]] = {}
        for lanes in pieces:
            pending.setdefault(lanes, []).append(builder.bind(builder.load(sums, place, lanes), "piece"))
            place += lanes
        lanes = max(pieces)
        value: Expr | None = None
        while True:
            parts = pending.get(lanes, []) + ([] if value is None else [value])
            value = builder.bind(self._tree(parts), "sum")
            if lanes == 1:
                return value
            lanes //= 2
            low, high = (_part(value, half * lanes, lanes) for half in (0, 1))
            value = builder.bind(self._merge(low, high), "half")

    # What both share.

    def _spread(self, tasks: int) -> Any:
        return self._builder.parallel(tasks) if self._parallel else self._builder.loop(tasks, "task")

    def _base(self, outer: Expr) -> Expr:
        """Where the input of position ``outer`` begins."""
        base: Expr = tirx.const(0, "int32")
        for dimension in reversed(self._nest.outer):
            base = base + tirx.truncmod(outer, dimension.extent) * dimension.stride
            outer = tirx.truncdiv(outer, dimension.extent)
        return base

    def _store(self, value: Expr, outer: Expr, start: Expr, lanes: int) -> None:
        if self._kind == "mean":
            value = value * self._builder.constant(1.0 / self._count, lanes=lanes)
        elif self._kind == "l2":
            value = tirx.sqrt(value)
        place = self._builder.bind(outer * self._nest.width + start, "place")
        coords, left = [], place
        for extent in reversed(self._shape):
            coords.append(tirx.truncmod(left, extent))
            left = tirx.truncdiv(left, extent)
        result = self._epilogue.finish(value, tuple(reversed(coords)), lanes, lanes)
        self._builder.store(self._output, place, result, lanes)

    def _identity(self, lanes: int) -> Expr:
        edge = float(np.inf)
        value = {"max": -edge, "min": edge, "prod": 1.0}.get(self._kind, 0.0)
        return self._builder.constant(value, lanes=lanes)

    def _step(self, accumulator: Expr, value: Expr) -> Expr:
        return accumulator + value * value if self._kind == "l2" else self._merge(accumulator, value)

    def _merge(self, first: Expr, second: Expr) -> Expr:
        if self._kind == "max":
            return tirx.max(first, second)
        if self._kind == "min":
            return tirx.min(first, second)
        return first * second if self._kind == "prod" else first + second

    def _tree(self, values: list[Expr]) -> Expr:
        while len(values) > 1:
            paired = [self._merge(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
            values = paired + values[len(paired) * 2 :]
        return values[0]


def _pieces(length: int, lanes: int, vectors: int) -> list[int]:
    """Widths of a row's partial results: whole vectors, then powers of two for what they leave over."""
    return [lanes] * (vectors if length >= lanes else 0) + powers_of_two(length % lanes)


def _part(vector: Expr, first: int, lanes: int) -> Expr:
    return tirx.Shuffle([vector], [tirx.const(first + lane, "int32") for lane in range(lanes)])
