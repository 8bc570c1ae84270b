"""Multi-head attention in one kernel: a thread follows one query through all keys.

The softmax is computed on the way: sums and results so far are scaled whenever a larger score turns up, so no score
is ever stored. Threads of a group share a head; where the device has shared memory of its own, they bring the head's
keys and values there, a block at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, div, mod, within
from edgevit.compiler.gpu.tiles import group_limit
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import attention
from edgevit.compiler.kernels.attention import Atoms
from edgevit.compiler.kernels.builder import Expr
from edgevit.target_schema import Gpu, Target

NAME = "attention"

# Finite, so that a row that is masked throughout gives the mean of the values instead of NaN.
_LOWEST_SCORE = -3.0e38


@dataclass(frozen=True)
class Workload:
    """Attention, and whether queries, keys and values are columns of one matrix, which then is one argument."""

    attention: attention.Workload
    single: bool

    @property
    def flops(self) -> int:
        """Multiply-adds of both products, counted twice."""
        return self.attention.flops


def claim(node: Node) -> Workload | None:
    """Workload of an ``attention`` node."""
    single = bool(node.attrs.get("single", False))
    x = node.inputs[0]
    whole = Node(node.op, [x, x, *node.inputs], node.outputs, node.attrs) if single else node
    workload = attention.claim(whole)
    return Workload(workload, single) if workload else None


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel; arguments are queries, keys, values (or the one matrix), mask if there is one, result."""
    assert target.gpu is not None
    return _Attention(workload, target.gpu, name, storage).function()


class _Attention:
    """Writes one kernel."""

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.w = w = workload.attention
        self.lanes = gcd(4, w.dim, *w.columns[:2], *w.head_strides[:2], *(width for _, width in w.sizes[:2]))
        self.value_lanes = gcd(4, w.value_dim, w.columns[2], w.head_strides[2], w.sizes[2][1])
        self.chunk = gcd(4, w.keys)
        self.heads = w.batch * w.heads
        queries = min(w.queries, group_limit(gpu))
        side = max(1, min(gpu.simd // queries, self.heads))
        self.staged = gpu.local_on_chip
        self.block = self._block(gpu.local_bytes // 2 // side)
        launch = Launch((cover(w.queries, queries), cover(self.heads, side), 1), (queries, side, 1))
        self.b = ThreadBuilder(name, launch, storage)
        if workload.single:
            self.inputs = [self.b.argument("qkv", w.sizes[0][0] * w.sizes[0][1])] * 3
        else:
            self.inputs = [self.b.argument(n, r * c) for n, (r, c) in zip(("q", "k", "v"), w.sizes, strict=True)]
        shape = w.mask_shape
        self.mask = self.b.argument("mask", shape[0] * shape[1] * shape[2] * shape[3]) if shape else None
        self.y = self.b.argument("y", w.sizes[0][0] * w.heads * w.value_dim)

    def _block(self, room: int) -> int:
        """Keys that shared memory holds at a time; all of them where nothing is held."""
        keys = self.w.keys
        if not self.staged:
            return keys
        fitting = [n for n in range(self.chunk, keys + 1, self.chunk) if keys % n == 0]
        return max((n for n in fitting if n * (self.w.dim + self.w.value_dim) * 4 <= room), default=self.chunk)

    def function(self) -> Any:
        w, b, (grid_x, grid_y, _), (block_x, block_y, _) = self.w, self.b, self.b.launch.grid, self.b.launch.block
        query = b.bind(b.group(0) * block_x + b.thread(0), "query")
        place = b.bind(b.group(1) * block_y + b.thread(1), "place")
        valid = within((query, w.queries, grid_x * block_x), (place, self.heads, grid_y * block_y))
        # Threads without a query of their own follow the last one: all of them meet at the barriers.
        self.query = b.bind(tirx.min(query, w.queries - 1), "held_query") if valid is not None else query
        place = b.bind(tirx.min(place, self.heads - 1), "held_place") if valid is not None else place
        self.batch, self.head = b.bind(div(place, w.heads), "batch"), b.bind(mod(place, w.heads), "head")
        self.row = b.bind(_row(w.query_map[0], self.batch) + _row(w.query_map[1], self.query), "row")
        self.key_base = b.bind(_row(w.key_map[0], self.batch), "key_base")
        self._open()
        if self.staged:
            share = self.block * (w.dim + w.value_dim)
            self.shared = b.shared(share * block_y, "keys_values")
            self.share = b.bind(b.thread(1) * share, "share")
        with b.loop(w.keys // self.block, "block") as block:
            first = b.bind(block * self.block, "first") if self.block < w.keys else tirx.const(0, "int32")
            if self.staged:
                self._stage(first)
            with b.loop(self.block // self.chunk, "chunk") as chunk:
                self._follow(first, b.bind(chunk * self.chunk, "start"))
        with b.inside(valid):
            self._write()
        return b.finish()

    def _open(self) -> None:
        """The query, scaled, in registers; nothing summed yet."""
        w, b, lanes = self.w, self.b, self.lanes
        base = b.bind(self.row * w.sizes[0][1] + self.head * w.head_strides[0] + w.columns[0], "base")
        scale = b.constant(w.scale, lanes=lanes)
        self.q = [b.bind(b.load(self.inputs[0], base + d, lanes) * scale, "q") for d in range(0, w.dim, lanes)]
        self.sums = b.registers(w.value_dim, name="sums")
        for d in range(0, w.value_dim, self.value_lanes):
            b.store(self.sums, d, b.constant(0.0, lanes=self.value_lanes), self.value_lanes)
        self.state = b.registers(2, name="state")
        b.store(self.state, 0, b.constant(_LOWEST_SCORE))
        b.store(self.state, 1, b.constant(0.0))

    def _stage(self, first: Expr) -> None:
        """Bring a block of the head's keys and values into shared memory."""
        b = self.b
        b.barrier()
        self._copy(1, self.w.dim, self.lanes, first, self.share)
        self._copy(2, self.w.value_dim, self.value_lanes, first, self.share + self.block * self.w.dim)
        b.barrier()

    def _copy(self, which: int, dim: int, lanes: int, first: Expr, to: Expr) -> None:
        b, threads = self.b, self.b.launch.block[0]
        vectors = dim // lanes
        total = self.block * vectors
        with b.loop(cover(total, threads), "copy") as step:
            index = b.bind(step * threads + b.thread(0), "index")
            with b.inside(within((index, total, cover(total, threads) * threads))):
                key, vector = div(index, vectors), mod(index, vectors)
                value = b.load(self.inputs[which], self._column(which, first + key) + vector * lanes, lanes)
                b.store(self.shared, to + index * lanes, value, lanes)

    def _column(self, which: int, key: Expr) -> Expr:
        """Index of the head's first element of a key or value."""
        w = self.w
        row = self.key_base + _row(w.key_map[1], key)
        return row * w.sizes[which][1] + self.head * w.head_strides[which] + w.columns[which]

    def _element(self, which: int, first: Expr, start: Expr, offset: int) -> tuple[Any, Expr]:
        """Where a key (1) or value (2) of a chunk begins: buffer and index."""
        w = self.w
        if not self.staged:
            return self.inputs[which], self.b.bind(self._column(which, first + start + offset), "at")
        origin = self.share if which == 1 else self.share + self.block * w.dim
        return self.shared, self.b.bind(origin + (start + offset) * (w.dim if which == 1 else w.value_dim), "at")

    def _follow(self, first: Expr, start: Expr) -> None:
        """Take a chunk of keys into account."""
        w, b, lanes = self.w, self.b, self.value_lanes
        scores = [self._score(first, start, offset) for offset in range(self.chunk)]
        highest = b.load(self.state, 0)
        for score in scores:
            highest = tirx.max(highest, score)
        highest = b.bind(highest, "highest")
        factor = b.bind(tirx.exp(b.load(self.state, 0) - highest), "factor")
        powers = [b.bind(tirx.exp(score - highest), "power") for score in scores]
        total = b.load(self.state, 1) * factor
        for power in powers:
            total = total + power
        b.store(self.state, 1, total)
        b.store(self.state, 0, highest)
        places = [self._element(2, first, start, offset) for offset in range(self.chunk)]
        for d in range(0, w.value_dim, lanes):
            result = b.load(self.sums, d, lanes) * b.splat(factor, lanes)
            for power, (buffer, at) in zip(powers, places, strict=True):
                result = result + b.splat(power, lanes) * b.load(buffer, at + d, lanes)
            b.store(self.sums, d, result, lanes)

    def _score(self, first: Expr, start: Expr, offset: int) -> Expr:
        b, lanes = self.b, self.lanes
        buffer, at = self._element(1, first, start, offset)
        total = b.constant(0.0, lanes=lanes)
        for d, q in enumerate(self.q):
            total = total + q * b.load(buffer, at + d * lanes, lanes)
        total = b.bind(total, "products")
        score = b.lane(total, 0, lanes)
        for lane in range(1, lanes):
            score = score + b.lane(total, lane, lanes)
        return b.bind(score + self._masked(first + start + offset), "score") if self.mask is not None else b.bind(score)

    def _masked(self, key: Expr) -> Expr:
        """What the mask adds to a score."""
        shape = self.w.mask_shape
        assert shape is not None
        index: Expr = tirx.const(0, "int32")
        for extent, coordinate in zip(shape, (self.batch, self.head, self.query, key), strict=True):
            index = index * extent + (coordinate if extent > 1 else 0)
        return self.b.load(self.mask, index)

    def _write(self) -> None:
        w, b, lanes = self.w, self.b, self.value_lanes
        base = b.bind(self.row * (w.heads * w.value_dim) + self.head * w.value_dim, "base")
        inverse = b.bind(b.constant(1.0) / b.load(self.state, 1), "inverse")
        for d in range(0, w.value_dim, lanes):
            b.store(self.y, base + d, b.load(self.sums, d, lanes) * b.splat(inverse, lanes), lanes)


def _row(atoms: Atoms, index: Expr) -> Expr:
    """Row of a token: its index's digits, each times its stride."""
    row: Expr = tirx.const(0, "int32")
    for position in reversed(range(len(atoms))):
        extent, stride = atoms[position]
        if position == 0:
            return row + index * stride
        row = row + mod(index, extent) * stride
        index = div(index, extent)
    return row
