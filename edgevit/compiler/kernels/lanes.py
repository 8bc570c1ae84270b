"""Operations across the lanes of vectors: transposes and horizontal reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx

from edgevit.compiler.kernels.builder import Expr, KernelBuilder, powers_of_two


def split_lanes(count: int, lanes: int) -> list[tuple[int, int]]:
    """Offset and width of the vectors that cover ``count`` elements exactly: whole ones, then powers of two."""
    pieces = [(start, lanes) for start in range(0, count - lanes + 1, lanes)]
    start = count // lanes * lanes
    for width in powers_of_two(count % lanes):
        pieces.append((start, width))
        start += width
    return pieces


def take_lanes(vectors: Sequence[Expr], order: Sequence[int]) -> Expr:
    """Lanes ``order`` of the concatenation of ``vectors``, as a scalar when there is one."""
    return tirx.Shuffle(list(vectors), [tirx.const(lane, "int32") for lane in order])


def transpose_lanes(builder: KernelBuilder, rows: Sequence[Expr], width: int) -> list[Expr]:
    """Columns of a small matrix whose rows are vectors.

    Rows are interleaved pairwise until one sequence holds the matrix column after column: log2(rows) rounds of
    one shuffle per vector.

    Args:
        builder: kernel under construction.
        rows: a power of two of vectors of ``width`` lanes.
        width: lanes of each, a power of two.

    Returns:
        ``width`` vectors of ``len(rows)`` lanes.
    """
    count = len(rows)
    widest = max(count, width)
    sequences, piece = [[row] for row in rows], width
    while len(sequences) > 1:
        half = len(sequences) // 2
        pairs = list(zip(sequences[:half], sequences[half:], strict=True))
        sequences = [_interleave(builder, first, second, piece, 2 * piece <= widest) for first, second in pairs]
        piece = min(2 * piece, widest)
    whole = sequences[0]
    if piece == count:
        return whole
    return [
        builder.bind(take_lanes([whole[start // piece]], range(start % piece, start % piece + count)), "column")
        for start in range(0, count * width, count)
    ]


def _interleave(
    builder: KernelBuilder, first: Sequence[Expr], second: Sequence[Expr], piece: int, widen: bool
) -> list[Expr]:
    order = [lane + part * piece for lane in range(piece) for part in (0, 1)]
    halves = [order] if widen else [order[:piece], order[piece:]]
    return [
        builder.bind(take_lanes([a, b], half), "interleaved")
        for a, b in zip(first, second, strict=True)
        for half in halves
    ]


def reduce_lanes(
    builder: KernelBuilder, parts: Sequence[tuple[Expr, int]], combine: Callable[[Expr, Expr], Expr]
) -> Expr:
    """Scalar that ``combine`` makes of all lanes of several vectors.

    Args:
        builder: kernel under construction.
        parts: vectors with their lanes, powers of two, at least one.
        combine: associative and commutative, on vectors and scalars.
    """
    by_width: dict[int, Expr] = {}
    for part, lanes in parts:
        by_width[lanes] = builder.bind(combine(by_width[lanes], part), "reduced") if lanes in by_width else part
    lanes = max(by_width)
    value = builder.bind(by_width[lanes], "reduced")
    while lanes > 1:
        lanes //= 2
        low, high = take_lanes([value], range(lanes)), take_lanes([value], range(lanes, 2 * lanes))
        value = builder.bind(combine(low, high), "reduced")
        if lanes in by_width:
            value = builder.bind(combine(value, by_width[lanes]), "reduced")
    # TVM's simplifier puts scalars in the place of their names, and so doubles this one in every round above for
    # each of its uses; through a register it does not see.
    result = builder.registers(1, name="reduced")
    builder.store(result, 0, value)
    return builder.load(result, 0)
