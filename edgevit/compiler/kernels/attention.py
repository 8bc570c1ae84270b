"""Multi-head attention in one kernel: scores, softmax and weighted values of a query block never leave the cache.

Vectors run over queries. Scores are computed transposed, one row per key and one lane per query, so the
softmax needs nothing across lanes, and keys and values enter as scalars: a head size of 36 costs 36 rows and no
padding. Queries are transposed into that form on the way in, results on the way out. Scores are kept in units
of log 2, so that powers of two replace the exponential.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.attention_nest import AttentionNest
from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.compiler.kernels.exponential import LOG2_E
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "attention"
VERSION = 1

Atoms = tuple[tuple[int, int], ...]
"""Extents and row strides of nested loops, outermost first."""

# A parallel loop costs about what a core computes of this many operations.
_SERIAL_FLOPS = 400_000
# Copying a head's keys and values takes about this part of a block of queries' time.
_GATHER_BLOCKS = 0.15


@dataclass(frozen=True)
class Blocking:
    """Sizes of tiles and blocks, valid for a workload and a target.

    Attributes:
        lanes: queries in a vector.
        registers: vector registers of the target.
        vectors: of queries in a block.
        key_rows: rows of a tile of scores.
        value_rows: rows of a tile of results.
        chunks: tasks that share the queries of a head, none without a block.
        parallel: whether tasks run on several threads.
        mask_pitch: elements from one key of a packed mask to the next.
    """

    lanes: int
    registers: int
    vectors: int
    key_rows: int
    value_rows: int
    chunks: int
    parallel: bool
    mask_pitch: int

    @property
    def by_lane(self) -> bool:
        """Whether multiply-adds take a scalar from a vector's lane (64-bit NEON): four scalars then load as one."""
        return self.lanes == 4 and self.registers == 32

    def key_tile(self, vectors: int) -> int:
        """``key_rows``, or fewer where a tile of scores needs more registers than there are."""
        # By lane, every row holds on to four of its elements; with no register to spare, LLVM's scheduler spills.
        held = vectors + 4 if self.by_lane else vectors + 1
        return max(1, min(self.key_rows, (self.registers - held) // (vectors + self.by_lane)))

    def value_tile(self, vectors: int) -> int:
        """``value_rows``, or fewer where a tile of results needs more registers than there are."""
        return max(1, min(self.value_rows, (self.registers - vectors - 1) // vectors))


@dataclass(frozen=True)
class Workload:
    """Attention over the rows of up to three matrices.

    Attributes:
        heads: number of heads.
        dim: columns of a head in queries and keys.
        value_dim: columns of a head in values and in the result.
        scale: factor of the scores.
        sizes: (rows, columns) of queries, keys and values.
        columns: first column of head 0 in each.
        head_strides: columns from one head to the next in each.
        query_map: (batch, tokens) of the queries; row = sum of index times stride. The result has the same rows.
        key_map: the same for keys and values.
        mask_shape: of what is added to the scores, aligned to (batch, heads, queries, keys); None without.
        mask_constant: whether the mask is known, and packed.
    """

    heads: int
    dim: int
    value_dim: int
    scale: float
    sizes: tuple[tuple[int, int], ...]
    columns: tuple[int, ...]
    head_strides: tuple[int, ...]
    query_map: tuple[Atoms, Atoms]
    key_map: tuple[Atoms, Atoms]
    mask_shape: tuple[int, int, int, int] | None = None
    mask_constant: bool = False

    @property
    def batch(self) -> int:
        """Independent groups of tokens."""
        return _extent(self.query_map[0])

    @property
    def queries(self) -> int:
        """Queries in a group."""
        return _extent(self.query_map[1])

    @property
    def keys(self) -> int:
        """Keys in a group."""
        return _extent(self.key_map[1])

    @property
    def flops(self) -> int:
        """Multiply-adds of both products, counted twice."""
        return 2 * self.batch * self.heads * self.queries * self.keys * (self.dim + self.value_dim)

    @property
    def bytes(self) -> int:
        """Queries, keys, values, mask and result, once each."""
        queries = self.batch * self.queries * self.heads * (self.dim + self.value_dim)
        keys = self.batch * self.keys * self.heads * (self.dim + self.value_dim)
        return 4 * (queries + keys + prod(self.mask_shape or (0,)))


def claim(node: Node) -> Workload | None:
    """Workload of an ``attention`` node of float32 tensors."""
    if node.op != "attention" or any(t is not None and t.dtype != "float32" for t in (*node.inputs, *node.outputs)):
        return None
    attrs = node.attrs
    dims = (attrs["dim"], attrs["dim"], attrs["value_dim"])
    widths = [node.input(index).shape[-1] for index in range(3)]
    mask = node.input(3) if node.has(3) else None
    return Workload(
        heads=attrs["heads"],
        dim=attrs["dim"],
        value_dim=attrs["value_dim"],
        scale=attrs["scale"],
        sizes=tuple((node.input(index).size // width, width) for index, width in enumerate(widths)),
        columns=tuple(attrs["columns"]),
        head_strides=tuple(attrs.get("head_strides", dims)),
        query_map=attrs["query_map"],
        key_map=attrs["key_map"],
        mask_shape=_aligned(attrs.get("mask_shape", mask.shape)) if mask else None,
        mask_constant=mask.is_constant if mask else False,
    )


def _aligned(shape: Sequence[int]) -> tuple[int, int, int, int]:
    padded = (*(1,) * (4 - len(shape)), *shape)
    return padded[0], padded[1], padded[2], padded[3]


def _extent(atoms: Atoms) -> int:
    return prod(extent for extent, _ in atoms)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """Tuning choices.

    ``vectors`` of queries make a block; ``key_rows`` and ``value_rows`` are the rows of the register tiles of the
    two products (fewer where registers run out); every head's queries are spread over ``chunks`` tasks.
    """
    blocks = ceil(workload.queries / target.vector.lanes(32))
    rows = (2, 3, 4, 5, 6, 8, 9, 10, 12, 14, 16, 20)
    return {
        "vectors": tuple(range(1, min(6, blocks) + 1)),
        "key_rows": tuple(row for row in rows if row <= workload.keys) or (1,),
        "value_rows": tuple(row for row in rows if row <= workload.value_dim) or (1,),
        "chunks": tuple(range(1, min(8, blocks) + 1)),
    }


def analytic_default(workload: Workload, target: Target) -> Choice:
    """The choice with the fewest estimated cycles."""
    choices = space(workload, target)
    lanes = target.vector.lanes(32)
    count = ceil(workload.queries / lanes)

    def products(vectors: int) -> tuple[float, int, int]:
        def blocking(rows: int) -> Blocking:
            return _blocking(workload, target, {"vectors": vectors, "key_rows": rows, "value_rows": rows, "chunks": 1})

        tiles = [(rows, blocking(rows)) for rows in choices["key_rows"]]
        scores, key_rows = min(
            (_cycles(workload.keys, tile.key_tile(vectors), vectors, tile.by_lane), rows) for rows, tile in tiles
        )
        tiles = [(rows, blocking(rows)) for rows in choices["value_rows"]]
        values, value_rows = min(
            (_cycles(workload.value_dim, tile.value_tile(vectors), vectors, tile.by_lane), rows) for rows, tile in tiles
        )
        return scores * workload.dim + values * workload.keys, key_rows, value_rows

    def cost(vectors: int) -> float:
        whole, rest = divmod(count, vectors)
        cycles = whole * products(vectors)[0] + (products(rest)[0] if rest else 0.0)
        # Scores that leave the innermost cache come back from the next one, or from beyond.
        scores = vectors * lanes * 4 * workload.keys
        near, far = scores <= target.caches.l1d, scores > target.caches.l2 // target.caches.l2_shared_by // 4
        return cycles * (1.0 if near else 1.06 if far else 1.03)

    vectors = min(choices["vectors"], key=cost)
    _, key_rows, value_rows = products(vectors)
    chunks = 1
    if workload.flops >= _SERIAL_FLOPS:
        blocks, groups = ceil(count / vectors), workload.batch * workload.heads
        chunks = min(choices["chunks"], key=lambda chunks: _busiest_core(blocks, chunks, groups, target.cores))
    return {"vectors": vectors, "key_rows": key_rows, "value_rows": value_rows, "chunks": chunks}


def _busiest_core(blocks: int, chunks: int, groups: int, cores: int) -> float:
    """Work of the core that has most, in blocks; tasks are spread evenly, in order."""
    share = ceil(blocks / chunks)
    sizes = [min(share, blocks - start) + _GATHER_BLOCKS for start in range(0, blocks, share)] * groups
    each = ceil(len(sizes) / cores)
    return max(sum(sizes[first : first + each]) for first in range(0, len(sizes), each))


def _cycles(count: int, rows: int, vectors: int, by_lane: bool) -> float:
    """Estimated cycles of one step of the reduction over all tiles of ``count`` rows."""

    def step(used: int) -> float:
        # Two multiply-adds of latency four and two loads per cycle.
        loads = vectors + (used // 4 + used % 4 if by_lane else used)
        return max(max(used * vectors, 8) / 2, loads / 2) + 0.15 * loads / 2 + 0.5

    whole, rest = divmod(count, rows)
    return whole * step(rows) + (step(rest) if rest else 0.0)


def tasks(workload: Workload, target: Target, choice: Choice) -> int:
    """Parts that the threads share: every head's queries, in chunks."""
    blocks = ceil(workload.queries / (choice["vectors"] * target.vector.lanes(32)))
    share = ceil(blocks / choice["chunks"])
    return workload.batch * workload.heads * ceil(blocks / share)


def pack(
    workload: Workload, target: Target, _choice: Choice, constants: list[np.ndarray[Any, Any]]
) -> list[np.ndarray[Any, Any]]:
    """A constant mask with queries innermost, padded to whole vectors, in units of log 2."""
    if workload.mask_shape is None or not workload.mask_constant:
        return constants
    mask = constants[-1].reshape(workload.mask_shape).swapaxes(2, 3) * np.float32(LOG2_E)
    padding = _mask_pitch(workload, target) - mask.shape[3]
    packed = np.pad(mask, ((0, 0), (0, 0), (0, 0), (0, padding)))
    return [*constants[:-1], np.ascontiguousarray(packed, np.float32)]


def _mask_pitch(workload: Workload, target: Target) -> int:
    """Elements from one key of a packed mask to the next."""
    queries, lanes = (workload.mask_shape or (1, 1, 1, 1))[2], target.vector.lanes(32)
    return 1 if queries == 1 else ceil(queries / lanes) * lanes


def _blocking(workload: Workload, target: Target, choice: Choice) -> Blocking:
    lanes = target.vector.lanes(32)
    vectors = min(choice["vectors"], ceil(workload.queries / lanes))
    blocks = ceil(workload.queries / (vectors * lanes))
    share = ceil(blocks / choice["chunks"])
    return Blocking(
        lanes=lanes,
        registers=target.vector.registers,
        vectors=vectors,
        key_rows=choice["key_rows"],
        value_rows=choice["value_rows"],
        chunks=ceil(blocks / share),
        parallel=workload.flops >= _SERIAL_FLOPS,
        mask_pitch=_mask_pitch(workload, target),
    )


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel: queries, keys, values, mask if any, result."""
    builder = KernelBuilder(name)
    blocking = _blocking(workload, target, choice)
    inputs = [builder.argument(n, prod(size)) for n, size in zip("qkv", workload.sizes, strict=True)]
    mask = None
    if workload.mask_shape is not None:
        batch, heads, queries, keys = workload.mask_shape
        pitch = blocking.mask_pitch if workload.mask_constant else queries
        mask = builder.argument("mask", batch * heads * keys * pitch)
    output = builder.argument("output", workload.sizes[0][0] * workload.heads * workload.value_dim)
    AttentionNest(builder, workload, blocking, inputs, mask, output).write()
    return builder.finish()
