"""Loop nests over tensors that are read and written in runs of neighbouring elements."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder, powers_of_two

PARALLEL_ELEMENTS = 1 << 14
"""Elements from which spreading a memory-bound kernel over threads pays."""

_TASKS = 64
"""Iterations that a parallel loop should have at least, so that any number of cores shares them evenly."""

Pieces = Sequence[tuple[int, int]]
"""Vectors: offset of the first lane, and lanes."""

Step = Callable[[Expr, Pieces], None]
"""Writes the code for some vectors at a position of a run."""


@dataclass(frozen=True)
class Axis:
    """A loop.

    Attributes:
        extent: number of iterations.
        strides: elements from one iteration to the next, for every tensor concerned.
    """

    extent: int
    strides: tuple[int, ...]


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Row-major strides."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))


def merge_axes(extents: Sequence[int], strides: Sequence[Sequence[int]]) -> list[Axis]:
    """The fewest loops, outermost first, that visit the same elements; at least one.

    Args:
        extents: of the axes, outermost first.
        strides: for every tensor, one stride per axis; 0 where it repeats.
    """
    merged: list[Axis] = []
    for extent, steps in zip(extents, zip(*strides, strict=True), strict=True):
        if extent == 1:
            continue
        last = merged[-1] if merged else None
        if last and all(above == step * extent for above, step in zip(last.strides, steps, strict=True)):
            merged[-1] = Axis(last.extent * extent, tuple(steps))
        else:
            merged.append(Axis(extent, tuple(steps)))
    return merged or [Axis(1, (1,) * len(strides))]


@contextlib.contextmanager
def loop_nest(
    builder: KernelBuilder, axes: Sequence[Axis], tensors: int, *, parallel: bool
) -> Iterator[tuple[Expr, ...]]:
    """Loops over ``axes``; the offsets of all tensors.

    Args:
        builder: kernel under construction.
        axes: outermost first, possibly none.
        tensors: how many strides every axis has.
        parallel: spread the outermost axes, as many as give enough iterations, over the threads.
    """
    fused = 0
    while parallel and fused < len(axes) and prod(axis.extent for axis in axes[:fused]) < _TASKS:
        fused += 1
    with contextlib.ExitStack() as loops:
        indices: list[tuple[Axis, Expr]] = []
        if fused:
            task = loops.enter_context(builder.parallel(prod(axis.extent for axis in axes[:fused])))
            indices += zip(axes[:fused], unflatten(task, [axis.extent for axis in axes[:fused]]), strict=True)
        for axis in axes[fused:]:
            indices.append((axis, loops.enter_context(builder.loop(axis.extent))))
        yield tuple(
            builder.bind(_total(index * axis.strides[tensor] for axis, index in indices if axis.strides[tensor]))
            for tensor in range(tensors)
        )


def unflatten(index: Expr, extents: Sequence[int]) -> list[Expr]:
    """Position along every axis of a flat index below the product of ``extents``."""
    positions: list[Expr] = []
    for extent in reversed(extents[1:]):
        positions.append(tirx.truncmod(index, tirx.const(extent, "int32")))
        index = tirx.truncdiv(index, tirx.const(extent, "int32"))
    return [index, *reversed(positions)][: len(extents)]


def split_run(length: int, lanes: int, unroll: int) -> tuple[int, list[tuple[int, int]]]:
    """Number of whole blocks of ``unroll`` vectors in a run, and the vectors that cover the rest.

    Where the rest would take several narrow vectors, a whole one that overlaps its neighbour takes their place:
    some elements are then written twice, with the same value.
    """
    blocks = length // (lanes * unroll)
    done = blocks * lanes * unroll
    pieces = [(start, lanes) for start in range(done, length - lanes + 1, lanes)]
    done += len(pieces) * lanes
    widths = powers_of_two(length - done)
    if len(widths) > 1 and length >= lanes:
        return blocks, [*pieces, (length - lanes, lanes)]
    for width in widths:
        pieces.append((done, width))
        done += width
    return blocks, pieces


def run_steps(
    builder: KernelBuilder, length: int, lanes: int, unroll: int, step: Step, *, parallel: bool = False
) -> None:
    """Write the loop over one run.

    Args:
        builder: kernel under construction.
        length: of the run.
        lanes: of a whole vector.
        unroll: vectors in one iteration.
        step: called once for the loop's body and once for what is left.
        parallel: spread the loop over the threads.
    """
    blocks, rest = split_run(length, lanes, unroll)
    if blocks:
        with builder.parallel(blocks) if parallel else builder.loop(blocks, "block") as block:
            step(block * (lanes * unroll), _block_pieces(lanes, unroll))
    if rest:
        step(tirx.const(0, "int32"), rest)


def emit_runs(
    builder: KernelBuilder,
    axes: Sequence[Axis],
    lanes: int,
    unroll: int,
    prepare: Callable[[tuple[Expr, ...]], Step],
) -> None:
    """Write the loops over all runs along the last axis, in parallel if there is enough to do.

    Args:
        builder: kernel under construction.
        axes: as :func:`merge_axes` returns them.
        lanes: of a whole vector.
        unroll: vectors in one iteration.
        prepare: from the tensors' offsets at the start of a run, what to do along it.
    """
    *outer, inner = axes
    tensors = len(inner.strides)
    runs = prod(axis.extent for axis in outer)
    parallel = runs * inner.extent >= PARALLEL_ELEMENTS
    blocks, rest = split_run(inner.extent, lanes, unroll)
    if not parallel or runs >= _TASKS or blocks < 2:
        with loop_nest(builder, outer, tensors, parallel=parallel) as offsets:
            run_steps(builder, inner.extent, lanes, unroll, prepare(offsets))
        return
    # Few long runs: threads share their blocks, and what is left of every run comes after.
    block_axis = Axis(blocks, (0,) * tensors + (1,))
    flat = [*(Axis(axis.extent, (*axis.strides, 0)) for axis in outer), block_axis]
    with builder.parallel(runs * blocks) as task:
        positions = unflatten(task, [axis.extent for axis in flat])
        offsets = tuple(
            builder.bind(_total(i * axis.strides[t] for axis, i in zip(flat, positions, strict=True)))
            for t in range(tensors + 1)
        )
        prepare(offsets[:-1])(offsets[-1] * (lanes * unroll), _block_pieces(lanes, unroll))
    if rest:
        with loop_nest(builder, outer, tensors, parallel=False) as offsets:
            prepare(offsets)(tirx.const(0, "int32"), rest)


def _block_pieces(lanes: int, unroll: int) -> list[tuple[int, int]]:
    return [(vector * lanes, lanes) for vector in range(unroll)]


def _total(terms: Iterator[Any]) -> Expr:
    return sum(terms, start=tirx.const(0, "int32"))
