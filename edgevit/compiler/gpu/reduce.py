"""Reductions over any set of axes.

Threads of a group share the reduced elements of a few results and add up in shared memory. If the last axis is kept, a
result is a vector along it, and threads of neighbouring vectors lie side by side; if it is reduced, those that share a
result do: either way neighbours read neighbouring memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, within
from edgevit.compiler.gpu.combine import Team, across
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.flat import aligned_lanes, coordinates, offsets, shared_line
from edgevit.compiler.gpu.tiles import group_limit
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import reduce
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.reduce import Dimension, Workload, nest, squeezed
from edgevit.compiler.kernels.runs import Axis
from edgevit.target_schema import Gpu, Target

NAME = "reduce"

_SIDE = 8
"""Vectors of a kept last axis whose threads lie side by side: with four floats each, one or two cache lines."""
_OWN = 4
"""Elements that a thread reduces before it pays to share them with others."""


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``reduce`` node."""
    return reduce.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: input, epilogue operands, output."""
    assert target.gpu is not None
    return _Reduction(workload, target.gpu, name, storage).function()


class _Reduction:
    """Writes one kernel."""

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.w = workload
        axes = nest(workload)
        self.kept_last = axes.last_is_kept
        self.reduced = _axes(axes.reduced)
        self.kept = _axes(axes.kept)
        strides = [axis.strides[0] for axis in (*self.kept, *self.reduced) if axis.strides[0] != 1]
        inner = self.kept if self.kept_last else self.reduced
        self.lanes = aligned_lanes([*(Axis(1, (stride,)) for stride in strides), inner[-1]], ["float32"])
        size = prod(axis.extent for axis in self.kept)
        self.results = size // self.lanes if self.kept_last else size
        count = prod(axis.extent for axis in self.reduced)
        self.count = count if self.kept_last else count // self.lanes
        self.b = ThreadBuilder(name, self._launch(gpu), storage)
        self.source = self.b.argument("source", prod(workload.shape))
        program, self.shape = squeezed(workload.epilogue, workload.output_shape)
        self.epilogue = Epilogue(self.b, program, self.shape)
        self.output = self.b.argument("output", size)

    def _launch(self, gpu: Gpu) -> Launch:
        """Threads along x follow memory."""
        parts, others = shared_line(cover(self.count, _OWN), self.results, gpu)
        if not self.kept_last:
            return Launch((cover(self.results, others), 1, 1), (parts, others, 1))
        side = min(self.results, _SIDE)
        while side > 1 and cover(self.results, side) < gpu.cores:
            side //= 2
        limit = gpu.max_threads if cover(self.results, side) < gpu.cores else group_limit(gpu)
        while parts > 1 and parts * side > limit:
            parts //= 2
        side = max(side, min(self.results, limit // parts)) if parts < _SIDE else side
        return Launch((cover(self.results, side), 1, 1), (side, parts, 1))

    def function(self) -> Any:
        b = self.b
        x, y, _ = b.launch.block
        across_x, across_y = (b.thread(1), b.thread(0)) if self.kept_last else (b.thread(0), b.thread(1))
        parts, held = (y, x) if self.kept_last else (x, y)
        team = Team(b, across_x, parts, across_y, held, parts_adjacent=not self.kept_last)
        result = b.bind(b.group(0) * held + across_y, "result")
        valid = within((result, self.results, b.launch.grid[0] * held))
        # Threads without a result of their own work on the last one: all of them meet at the barriers.
        mine = b.bind(tirx.min(result, self.results - 1), "mine") if valid is not None else result
        (base,) = offsets(b, mine, self.kept, self.lanes if self.kept_last else 1)
        value, lanes = self._sum(base, team), self.lanes
        if not self.kept_last:
            value, lanes = across(b, value, self.lanes, self._merge), 1
        buffer = team.shared(lanes) if parts > 1 else None
        value = team.combine(buffer, value, self._merge, lanes)
        writes = [team.part < 1] * (parts > 1) + [valid] * (valid is not None)
        with b.inside(tirx.And(*writes) if len(writes) > 1 else writes[0] if writes else None):
            self._store(value, mine * lanes, lanes)
        return b.finish()

    def _sum(self, base: Expr, team: Team) -> Expr:
        """What the thread's own elements make."""
        b, lanes = self.b, self.lanes
        held = b.registers(lanes, name="held")
        edge = float("inf")
        identity = {"max": -edge, "min": edge, "prod": 1.0}.get(self.w.kind, 0.0)
        b.store(held, 0, b.constant(identity, lanes=lanes), lanes)
        steps = cover(self.count, team.parts)
        with b.loop(steps, "step") as step:
            number = b.bind(step * team.parts + team.part, "number")
            with b.inside(within((number, self.count, steps * team.parts))):
                (offset,) = offsets(b, number, self.reduced, 1 if self.kept_last else lanes)
                value = b.bind(b.load(self.source, base + offset, lanes))
                if self.w.kind == "l2":
                    value = value * value
                b.store(held, 0, self._merge(b.load(held, 0, lanes), value), lanes)
        return b.bind(b.load(held, 0, lanes), "own")

    def _store(self, value: Expr, place: Expr, lanes: int) -> None:
        b = self.b
        if self.w.kind == "mean":
            total = prod(self.w.shape[axis] for axis in self.w.axes)
            value = value * b.constant(1.0 / total, lanes=lanes)
        elif self.w.kind == "l2":
            value = tirx.sqrt(value)
        result = self.epilogue.apply(b.bind(value), coordinates(place, self.shape), lanes)
        b.store(self.output, place, result, lanes)

    def _merge(self, first: Expr, second: Expr) -> Expr:
        if self.w.kind == "max":
            return tirx.max(first, second)
        if self.w.kind == "min":
            return tirx.min(first, second)
        return first * second if self.w.kind == "prod" else first + second


def _axes(dimensions: Sequence[Dimension]) -> list[Axis]:
    return [Axis(dimension.extent, (dimension.stride,)) for dimension in dimensions] or [Axis(1, (1,))]
