"""The family of last resort: any kernel whose loops are plain grids, vectorised and parallel.

An elementwise kernel runs over its last axis in vectors and over the rest in parallel. A reduction keeps a
tile of ``rows × vectors`` accumulators in registers while it walks its reduction axes, so that each weight
or input it loads is used several times. The tile comes from a tuning record or from the register file:
accumulators, the vectors they consume and one broadcast must fit together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from edgevit.target_schema import Target
from edgevit.tuning.records import Choice
from edgevit.tuning.workloads import TVM_FAMILY

if TYPE_CHECKING:
    from tvm import s_tir, tirx

    from edgevit.tuning.metaschedule.schedules import TvmSchedules

NAME = "default"

_VECTORS = 2


def schedule_kernels(
    module: Any, target: Target, skip: Collection[str] = (), tuned: TvmSchedules | None = None
) -> tuple[Any, dict[str, int]]:
    """Schedule every loop nest of a lowered module, except those named in ``skip``.

    Args:
        module: of TIR functions, and whatever else.
        target: to schedule for.
        skip: names of functions that stay as they are.
        tuned: schedules that MetaSchedule found; they come first.

    Returns:
        The module, and the number of kernels that took a tuning record's schedule (``tvm``), this family's
        (``default``) or kept TVM's loops (``plain``).
    """
    from tvm import tirx

    taken: Counter[str] = Counter()
    for name, func in list(module.functions_items()):
        if isinstance(func, tirx.PrimFunc) and name.name_hint not in skip:
            found = tuned.schedule(func) if tuned else None
            scheduled = found or schedule(func, target, None)
            taken[TVM_FAMILY if found else "plain" if scheduled is None else NAME] += 1
            if scheduled is not None:
                module[name] = scheduled
    return module, dict(sorted(taken.items()))


def space(target: Target) -> dict[str, tuple[int, ...]]:
    """Choices a tuner may make: accumulator rows and vectors per row."""
    most = target.vector.registers
    return {"rows": tuple(range(1, most // 2)), "vectors": (1, 2, 3, 4)}


def analytic_default(target: Target) -> Choice:
    """The largest tile whose accumulators, operand vectors and broadcast fit the register file."""
    return {"rows": max(1, (target.vector.registers - _VECTORS - 1) // _VECTORS // 2), "vectors": _VECTORS}


def schedule(func: tirx.PrimFunc, target: Target, choice: Choice | None) -> tirx.PrimFunc | None:
    """Schedule ``func``; None when its blocks are not plain grids of loops."""
    import tvm
    from tvm import s_tir
    from tvm.s_tir.dlight.analysis import normalize_prim_func
    from tvm.s_tir.dlight.base import try_inline_contiguous_spatial

    tile = choice or analytic_default(target)
    sch = s_tir.Schedule(func)
    try:
        blocks = normalize_prim_func(sch)
        if blocks is None:
            return None
        for block in try_inline_contiguous_spatial(sch, blocks):
            if block.is_injective():
                _spread(sch, block.block_rv, target)
            elif not _tile_reduction(sch, block, target, tile):
                return None
    except (s_tir.ScheduleError, tvm.error.InternalError):
        # Each primitive verifies that it preserves meaning and refuses otherwise; TVM's loops remain.
        return None
    return sch.mod["main"]


def _spread(sch: s_tir.Schedule, block: Any, target: Target) -> None:
    """Vectorise the last axis, run the others in parallel."""
    loops = sch.get_loops(block)
    if not loops:
        return
    outer, inner = sch.split(loops[-1], [None, _largest_divisor(_extent(sch, loops[-1]), _lanes(target))])
    sch.vectorize(inner)
    sch.parallel(sch.fuse(*loops[:-1]) if len(loops) > 1 else outer)


def _tile_reduction(sch: s_tir.Schedule, block: Any, target: Target, tile: Choice) -> bool:
    """Tile a reduction whose spatial axes come before its reduction axes; False for any other order."""
    kinds = block.dom_kind()
    spatial_count = kinds.count("S")
    if kinds != "S" * spatial_count + "R" * (len(kinds) - spatial_count) or spatial_count == 0:
        return False
    loops = sch.get_loops(block.block_rv)
    spatial, reduction = loops[:spatial_count], loops[spatial_count:]
    if spatial_count < 2 or _extent(sch, spatial[-1]) == 1:
        sch.parallel(sch.fuse(*spatial) if spatial_count > 1 else spatial[0])
        return True

    width = _extent(sch, spatial[-1])
    vector = _largest_divisor(width, _lanes(target))
    vectors = _largest_divisor(width // vector, tile["vectors"])
    # A convolution (N C H W, three reduction axes) reuses its input across output channels; a matrix
    # product reuses its right-hand side across rows.
    row_axis = 1 if spatial_count == 4 and len(reduction) == 3 else spatial_count - 2
    rows = _largest_divisor(_extent(sch, spatial[row_axis]), tile["rows"])

    column_outer, column_tile, lane = sch.split(spatial[-1], [None, vectors, vector])
    row_outer, row_tile = sch.split(spatial[row_axis], [None, rows])
    outer = [*spatial[:-1], column_outer]
    outer[row_axis] = row_outer
    # Accumulating in a copy that lives inside the tile lets LLVM keep it in registers.
    write_back = sch.cache_write(block.block_rv, 0, "global")
    sch.reorder(*outer, *reduction, row_tile, column_tile, lane)
    sch.reverse_compute_at(write_back, column_outer, preserve_unit_loops=True)
    sch.parallel(sch.fuse(*outer))
    sch.vectorize(sch.get_loops(write_back)[-1])
    sch.vectorize(lane)
    sch.unroll(column_tile)
    sch.unroll(row_tile)
    sch.decompose_reduction(block.block_rv, sch.get_loops(block.block_rv)[1])
    return True


def _lanes(target: Target) -> int:
    return target.vector.lanes(32)


def _extent(sch: s_tir.Schedule, loop: Any) -> int:
    extent = sch.get(loop).extent
    return int(getattr(extent, "value", extent))


def _largest_divisor(number: int, limit: int) -> int:
    return max(divisor for divisor in range(1, max(limit, 1) + 1) if number % divisor == 0)
