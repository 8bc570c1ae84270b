"""The loop nest of the attention kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.exponential import LOG2_E, exp2_nonpositive
from edgevit.compiler.kernels.lanes import split_lanes, take_lanes, transpose_lanes

if TYPE_CHECKING:
    from edgevit.compiler.kernels.attention import Atoms, Blocking, Workload

# Finite, so that a row that is masked throughout gives the mean of the values instead of NaN.
_LOWEST_SCORE = -3.0e38

Scalars = Callable[[Expr, int], list[list[Expr]]]
"""(step, count) to, for each of ``count`` steps of a reduction, one vector per tile row with equal lanes."""


class AttentionNest:
    """Writes the loops; scratch buffers belong to the running task.

    Args:
        builder: kernel under construction.
        workload: what to compute.
        blocking: sizes of tiles and blocks.
        inputs: queries, keys, values.
        mask: as :func:`edgevit.compiler.kernels.attention.pack` leaves it if it is constant; None without.
        output: the result.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        workload: Workload,
        blocking: Blocking,
        inputs: Sequence[Any],
        mask: Any,
        output: Any,
    ) -> None:
        self._builder = builder
        self._workload = workload
        self._blocking = blocking
        self._lanes = blocking.lanes
        self._inputs = inputs
        self._mask = mask
        self._output = output
        self._mask_shape = workload.mask_shape or (1, 1, 1, 1)
        self._transposes_mask = mask is not None and not workload.mask_constant and self._mask_shape[2] > 1

    def write(self) -> None:
        """All tasks: every head of every group, its queries in chunks of blocks."""
        w, builder, chunks = self._workload, self._builder, self._blocking.chunks
        tasks = w.batch * w.heads * chunks
        with builder.parallel(tasks) if self._blocking.parallel else builder.loop(tasks, "task") as task:
            group = builder.bind(tirx.truncdiv(task, chunks), "group")
            self._batch = builder.bind(tirx.truncdiv(group, w.heads), "batch")
            self._head = builder.bind(tirx.truncmod(group, w.heads), "head")
            block = self._blocking.vectors * self._lanes
            self._keys = builder.scratch(w.keys * w.dim, name="keys")
            self._values = builder.scratch(w.keys * w.value_dim, name="values")
            self._queries = builder.scratch(w.dim * block, name="queries")
            self._scores = builder.scratch(w.keys * block, name="scores")
            self._results = builder.scratch(w.value_dim * block, name="results")
            if self._transposes_mask:
                self._mask_block = builder.scratch(w.keys * block, name="mask_block")
            self._gather(1, w.dim, self._keys)
            self._gather(2, w.value_dim, self._values)
            self._blocks(tirx.truncmod(task, chunks))

    def _blocks(self, chunk: Expr) -> None:
        """The blocks of one chunk; the last block of all may be a smaller one."""
        builder, vectors, chunks = self._builder, self._blocking.vectors, self._blocking.chunks
        whole, rest = divmod(self._workload.queries, vectors * self._lanes)
        share = ceil((whole + (rest > 0)) / chunks)
        start: Expr = 0
        count: Expr = whole
        if chunks > 1:
            start = builder.bind(chunk * share, "start")
            count = tirx.max(tirx.min(whole - start, share), 0)
        if whole:
            with builder.loop(count, "block", start) as block:
                self._block(builder.bind(block * vectors, "first"), vectors, vectors * self._lanes)
        if rest:
            with builder.when(chunk == whole // share) if chunks > 1 else contextlib.nullcontext():
                self._block(tirx.const(whole * vectors, "int32"), ceil(rest / self._lanes), rest)

    def _gather(self, which: int, dim: int, to: Any) -> None:
        """Copy the rows of a head's keys or values side by side."""
        builder = self._builder
        batch, tokens = self._workload.key_map
        row, place = self._row(batch, self._batch, 1, 0), tirx.const(0, "int32")
        with contextlib.ExitStack() as loops:
            for extent, stride in tokens:
                index = loops.enter_context(builder.loop(extent, "token"))
                row, place = row + index * stride, place * extent + index
            source = builder.bind(row * self._workload.sizes[which][1] + self._column(which), "source")
            place = builder.bind(place * dim, "place")
            for start, width in split_lanes(dim, self._lanes):
                builder.store(to, place + start, builder.load(self._inputs[which], source + start, width), width)

    def _column(self, which: int) -> Expr:
        """First column of the task's head in queries, keys or values."""
        return self._head * self._workload.head_strides[which] + self._workload.columns[which]

    def _block(self, first: Expr, vectors: int, valid: int) -> None:
        """Attention of ``valid`` queries in ``vectors`` vectors, of which ``first`` is the first."""
        for vector, count in self._each_vector(vectors, valid):
            self._transpose_queries(first, vector, vectors, count)
            if self._transposes_mask:
                self._transpose_mask(first + vector, vector, vectors, count)
        highest = self._write_scores(first, vectors)
        factors = self._exponentials(highest, vectors)
        self._write_results(factors, vectors)
        for vector, count in self._each_vector(vectors, valid):
            self._store_results(first, vector, vectors, count)

    def _each_vector(self, vectors: int, valid: int) -> Iterator[tuple[Expr, int]]:
        """Vectors of a block with the queries in each, whole ones in a loop."""
        whole, rest = divmod(valid, self._lanes)
        if whole:
            with self._builder.loop(whole, "vector") as vector:
                yield vector, self._lanes
        if rest:
            yield tirx.const(vectors - 1, "int32"), rest

    def _query_rows(self, vector: Expr, count: int) -> list[Expr]:
        """Rows of a vector's queries; the last one stands in for those beyond ``count``."""
        batch, tokens = self._workload.query_map
        base = self._builder.bind(self._row(batch, self._batch, 1, 0), "base")
        rows = [self._builder.bind(base + self._row(tokens, vector, self._lanes, lane), "row") for lane in range(count)]
        return rows + rows[-1:] * (self._lanes - count)

    @staticmethod
    def _row(atoms: Atoms, index: Expr, factor: int, offset: int) -> Expr:
        """Row of token ``index * factor + offset``, dividing at run time only where it must."""
        row: Expr = tirx.const(0, "int32")
        for position in reversed(range(len(atoms))):
            extent, stride = atoms[position]
            if position == 0:
                return row + (index * factor + offset) * stride
            if factor % extent == 0:
                row = row + offset % extent * stride
                factor, offset = factor // extent, offset // extent
            elif extent % factor == 0 and offset < factor:
                parts = extent // factor
                row = row + (tirx.truncmod(index, parts) * factor + offset) * stride
                index, factor, offset = tirx.truncdiv(index, parts), 1, 0
            else:
                token = index * factor + offset
                row = row + tirx.truncmod(token, extent) * stride
                index, factor, offset = tirx.truncdiv(token, extent), 1, 0
        return row

    def _transpose_queries(self, first: Expr, vector: Expr, vectors: int, count: int) -> None:
        """Scaled queries with dimensions as rows."""
        w, builder, lanes = self._workload, self._builder, self._lanes
        rows = self._query_rows(first + vector, count)
        width = w.sizes[0][1]
        sources = [builder.bind(row * width + self._column(0), "source") for row in rows[:count]]
        sources += sources[-1:] * (lanes - count)
        for start, piece in split_lanes(w.dim, lanes):
            scale = builder.constant(w.scale * LOG2_E, lanes=piece)
            loaded = [builder.bind(builder.load(self._inputs[0], s + start, piece) * scale, "q") for s in sources]
            for column, value in enumerate(transpose_lanes(builder, loaded, piece)):
                builder.store(self._queries, ((start + column) * vectors + vector) * lanes, value, lanes)

    def _transpose_mask(self, place: Expr, vector: Expr, vectors: int, count: int) -> None:
        """A block's part of a mask with keys as rows, in units of log 2."""
        builder, lanes = self._builder, self._lanes
        base, keys = self._mask_base(), self._mask_shape[3]
        sources = [builder.bind(base + (place * lanes + lane) * keys, "source") for lane in range(count)]
        sources += sources[-1:] * (lanes - count)

        def move(start: Expr, piece: int) -> None:
            scale = builder.constant(LOG2_E, lanes=piece)
            loaded = [builder.bind(builder.load(self._mask, s + start, piece) * scale, "mask") for s in sources]
            for column, value in enumerate(transpose_lanes(builder, loaded, piece)):
                builder.store(self._mask_block, ((start + column) * vectors + vector) * lanes, value, lanes)

        with builder.loop(keys // lanes, "keys") as index:
            move(index * lanes, lanes)
        for start, piece in split_lanes(keys, lanes)[keys // lanes :]:
            move(start, piece)

    def _mask_base(self) -> Expr:
        """First element of the mask for the task's group and head."""
        shape = self._mask_shape
        index = self._batch * shape[1] if shape[0] > 1 else tirx.const(0, "int32")
        index = index + self._head if shape[1] > 1 else index
        pitch = self._blocking.mask_pitch if self._workload.mask_constant else shape[2]
        return index * (shape[3] * pitch)

    def _masked(self, score: Expr, key: Expr, first: Expr, vector: int, vectors: int) -> Expr:
        """A vector of scores with its mask."""
        builder, lanes = self._builder, self._lanes
        if self._mask is None:
            return score
        key = key if self._mask_shape[3] > 1 else tirx.const(0, "int32")
        if self._transposes_mask:
            return score + builder.load(self._mask_block, (key * vectors + vector) * lanes, lanes)
        place = self._mask_base() + key * self._blocking.mask_pitch
        if self._mask_shape[2] == 1:
            value = builder.load(self._mask, place)
            return score + builder.splat(value if self._workload.mask_constant else value * LOG2_E, lanes)
        return score + builder.load(self._mask, place + (first + vector) * lanes, lanes)

    def _write_scores(self, first: Expr, vectors: int) -> Any:
        """Scores of a block with keys as rows; returns the registers of their maxima."""
        w, builder, lanes = self._workload, self._builder, self._lanes
        highest = builder.registers(vectors * lanes, name="highest")
        for v in range(vectors):
            builder.store(highest, v * lanes, builder.constant(_LOWEST_SCORE, lanes=lanes), lanes)

        def write(start: Expr, rows: int) -> None:
            tile = self._tile(rows, vectors, w.dim, self._queries, self._row_scalars(start, rows), unroll=4)
            for v in range(vectors):
                values = []
                for r in range(rows):
                    score = self._masked(
                        builder.load(tile, (r * vectors + v) * lanes, lanes), start + r, first, v, vectors
                    )
                    values.append(builder.bind(score, "score"))
                    builder.store(self._scores, ((start + r) * vectors + v) * lanes, values[-1], lanes)
                top = _tree(builder, [*values, builder.load(highest, v * lanes, lanes)], tirx.max)
                builder.store(highest, v * lanes, top, lanes)

        self._tiles(w.keys, self._blocking.key_tile(vectors), write)
        return highest

    def _tiles(self, count: int, rows: int, write: Callable[[Expr, int], None]) -> None:
        """``write(start, rows)`` for all tiles of ``count`` rows; what is left over becomes a smaller tile."""
        rows = min(rows, count)
        with self._builder.loop(count // rows, "tile") as index:
            write(self._builder.bind(index * rows, "start"), rows)
        if count % rows:
            write(tirx.const(count - count % rows, "int32"), count % rows)

    def _tile(self, rows: int, vectors: int, depth: int, matrix: Any, scalars: Scalars, unroll: int) -> Any:
        """Registers with the product of ``rows`` × ``depth`` scalars and ``depth`` rows of ``vectors`` vectors."""
        builder, lanes = self._builder, self._lanes
        sums = builder.registers(rows * vectors * lanes, name="sums")
        for place in range(rows * vectors):
            builder.store(sums, place * lanes, builder.constant(0.0, lanes=lanes), lanes)

        def steps(k: Expr, count: int) -> None:
            spread = scalars(k, count)
            for step in range(count):
                loaded = [
                    builder.bind(builder.load(matrix, ((k + step) * vectors + v) * lanes, lanes), "vector")
                    for v in range(vectors)
                ]
                for r in range(rows):
                    scalar = builder.bind(spread[step][r], "scalar")
                    for v in range(vectors):
                        place = (r * vectors + v) * lanes
                        builder.store(sums, place, builder.load(sums, place, lanes) + scalar * loaded[v], lanes)

        unroll = unroll if self._blocking.by_lane else 1
        with builder.loop(depth // unroll, "step") as index:
            steps(index * unroll, unroll)
        if depth % unroll:
            steps(tirx.const(depth - depth % unroll, "int32"), depth % unroll)
        return sums

    def _row_scalars(self, start: Expr, rows: int) -> Scalars:
        """Keys ``start`` and up, along their dimensions."""
        builder, dim, lanes = self._builder, self._workload.dim, self._lanes

        def scalars(k: Expr, count: int) -> list[list[Expr]]:
            places = [(start + r) * dim + k for r in range(rows)]
            if count == 4 and self._blocking.by_lane:
                loaded = [builder.bind(builder.load(self._keys, place, 4), "key") for place in places]
                return [[builder.splat(take_lanes([row], [step]), lanes) for row in loaded] for step in range(count)]
            return [[builder.splat(builder.load(self._keys, p + step), lanes) for p in places] for step in range(count)]

        return scalars

    def _column_scalars(self, start: Expr, rows: int) -> Scalars:
        """Columns ``start`` and up of the values, along the keys."""
        builder, dim, lanes = self._builder, self._workload.value_dim, self._lanes

        def scalars(k: Expr, count: int) -> list[list[Expr]]:
            result = []
            for step in range(count):
                place, spread = (k + step) * dim + start, []
                for r in range(0, rows, 4):
                    if self._blocking.by_lane and r + 4 <= rows:
                        loaded = builder.bind(builder.load(self._values, place + r, 4), "value")
                        spread += [builder.splat(take_lanes([loaded], [lane]), lanes) for lane in range(4)]
                    else:
                        part = range(r, min(r + 4, rows))
                        spread += [builder.splat(builder.load(self._values, place + i), lanes) for i in part]
                result.append(spread)
            return result

        return scalars

    def _exponentials(self, highest: Any, vectors: int) -> list[Expr]:
        """Replace scores by powers of two; returns what makes every query's sum to one."""
        w, builder, lanes = self._workload, self._builder, self._lanes
        unroll = max(1, 4 // vectors)
        sums = builder.registers(unroll * vectors * lanes, name="sums")
        for place in range(unroll * vectors):
            builder.store(sums, place * lanes, builder.constant(0.0, lanes=lanes), lanes)
        top = [builder.bind(builder.load(highest, v * lanes, lanes), "top") for v in range(vectors)]

        def replace(start: Expr, count: int) -> None:
            for place in range(count * vectors):
                where = (start * vectors + place) * lanes
                score = builder.load(self._scores, where, lanes) - top[place % vectors]
                power = builder.bind(exp2_nonpositive(builder, score, lanes), "power")
                builder.store(self._scores, where, power, lanes)
                builder.store(sums, place * lanes, builder.load(sums, place * lanes, lanes) + power, lanes)

        self._tiles(w.keys, unroll, replace)
        one = builder.constant(1.0, lanes=lanes)
        factors = []
        for v in range(vectors):
            parts = [builder.load(sums, (u * vectors + v) * lanes, lanes) for u in range(unroll)]
            factors.append(builder.bind(one / _tree(builder, parts, lambda a, b: a + b), "factor"))
        return factors

    def _write_results(self, factors: list[Expr], vectors: int) -> None:
        """Weighted sums of the values with columns as rows."""
        w, builder, lanes = self._workload, self._builder, self._lanes

        def write(start: Expr, rows: int) -> None:
            tile = self._tile(rows, vectors, w.keys, self._scores, self._column_scalars(start, rows), unroll=1)
            for place in range(rows * vectors):
                value = builder.load(tile, place * lanes, lanes) * factors[place % vectors]
                builder.store(self._results, (start * vectors + place) * lanes, value, lanes)

        self._tiles(w.value_dim, self._blocking.value_tile(vectors), write)

    def _store_results(self, first: Expr, vector: Expr, vectors: int, count: int) -> None:
        """A vector's results to their rows."""
        w, builder, lanes = self._workload, self._builder, self._lanes
        rows = self._query_rows(first + vector, count)
        width = w.heads * w.value_dim
        places = [builder.bind(row * width + self._head * w.value_dim, "place") for row in rows[:count]]
        for start, piece in split_lanes(w.value_dim, lanes):
            loaded = [
                builder.bind(builder.load(self._results, ((start + r) * vectors + vector) * lanes, lanes), "result")
                for r in range(piece)
            ]
            columns = transpose_lanes(builder, loaded, lanes)
            for place, value in zip(places, columns[:count], strict=True):
                builder.store(self._output, place + start, value, piece)


def _tree(builder: KernelBuilder, values: Sequence[Expr], combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combination of all values in few dependent steps."""
    level = list(values)
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [builder.bind(combine(a, b), "pair") for a, b in pairs] + level[len(level) // 2 * 2 :]
    return level[0]
