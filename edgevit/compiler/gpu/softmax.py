"""Softmax, and its logarithm, over the last axis.

Threads that share a row lie side by side. What a thread reads of a row stays in its registers where that is little;
of longer rows it is read three times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, within
from edgevit.compiler.gpu.combine import Merge, Team, across
from edgevit.compiler.gpu.flat import shared_line
from edgevit.compiler.gpu.tiles import lanes_of
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import softmax
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.softmax import Workload
from edgevit.target_schema import Gpu, Target

NAME = "softmax"

_OWN = 2
"""Vectors of a row that a thread takes before it pays to share them with others."""
_HELD = 4
"""Vectors of a row that a thread keeps."""


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``softmax`` node."""
    return softmax.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: input, output."""
    assert target.gpu is not None
    return _Softmax(workload, target.gpu, name, storage).function()


class _Softmax:
    """Writes one kernel."""

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.log = workload.log
        size, self.width = prod(workload.shape), workload.shape[-1]
        self.rows, self.lanes = size // self.width, lanes_of(self.width)
        self.vectors = self.width // self.lanes
        self.parts, self.held = shared_line(cover(self.vectors, _OWN), self.rows, gpu)
        self.steps = cover(self.vectors, self.parts)
        self.b = ThreadBuilder(name, Launch((cover(self.rows, self.held), 1, 1), (self.parts, self.held, 1)), storage)
        self.x, self.y = self.b.argument("x", size), self.b.argument("y", size)

    def function(self) -> Any:
        b = self.b
        self.team = Team(b, b.thread(0), self.parts, b.thread(1), self.held, parts_adjacent=True)
        row = b.bind(b.group(0) * self.held + b.thread(1), "row")
        self.valid = within((row, self.rows, b.launch.grid[0] * self.held))
        # Threads without a row of their own follow the last one: all of them meet at the barriers.
        mine = b.bind(tirx.min(row, self.rows - 1), "mine") if self.valid is not None else row
        self.base = b.bind(mine * self.width, "base")
        buffer = self.team.shared() if self.parts > 1 else None
        if self.steps <= _HELD:
            self._write_held(buffer)
        else:
            self._write_long(buffer)
        return b.finish()

    def _write_held(self, buffer: Any) -> None:
        """Every vector of the thread is read once."""
        b = self.b
        numbers = [b.bind(self.team.part + step * self.parts, "number") for step in range(self.steps)]
        last = self.vectors - 1
        inside = [within((n, self.vectors, (step + 1) * self.parts)) for step, n in enumerate(numbers)]
        # Beyond the row's end, its last vector is read again: that changes no maximum.
        places = [n if here is None else tirx.min(n, last) for n, here in zip(numbers, inside, strict=True)]
        values = [b.bind(self._read(place)) for place in places]
        highest = self._combined(buffer, values, tirx.max)
        differences = [b.bind(value - highest) for value in values]
        powers = [b.bind(tirx.exp(difference), "power") for difference in differences]
        zero = b.constant(0.0)
        parts = [across(b, power, self.lanes, _add) for power in powers]
        sums = [s if here is None else tirx.Select(here, s, zero) for s, here in zip(parts, inside, strict=True)]
        total = self.team.combine(buffer, _tree(sums, _add), _add)
        finish = self._finish(total)
        for number, here, difference, power in zip(numbers, inside, differences, powers, strict=True):
            with self._inside(here):
                self._store(number, finish(difference, power))

    def _write_long(self, buffer: Any) -> None:
        """The row is read for its maximum, for its sum and for the result."""
        b = self.b
        held = b.registers(self.lanes, name="held")
        b.store(held, 0, b.constant(float("-inf"), lanes=self.lanes), self.lanes)
        self._each(lambda number: self._take(held, self._read(number), tirx.max))
        highest = self._combined(buffer, [b.load(held, 0, self.lanes)], tirx.max)
        b.store(held, 0, b.constant(0.0, lanes=self.lanes), self.lanes)
        self._each(lambda number: self._take(held, tirx.exp(self._read(number) - highest), _add))
        own = across(b, b.load(held, 0, self.lanes), self.lanes, _add)
        finish = self._finish(self.team.combine(buffer, own, _add))

        def write(number: Expr) -> None:
            difference = b.bind(self._read(number) - highest)
            self._store(number, finish(difference, None if self.log else b.bind(tirx.exp(difference))))

        with self._inside(None):
            self._each(write)

    def _each(self, do: Callable[[Expr], None]) -> None:
        b = self.b
        with b.loop(self.steps, "step") as step:
            number = b.bind(step * self.parts + self.team.part, "number")
            with b.inside(within((number, self.vectors, self.steps * self.parts))):
                do(number)

    def _take(self, held: Any, value: Expr, merge: Merge) -> None:
        self.b.store(held, 0, merge(self.b.load(held, 0, self.lanes), value), self.lanes)

    def _combined(self, buffer: Any, values: list[Expr], merge: Merge) -> Expr:
        own = across(self.b, _tree(values, merge), self.lanes, merge)
        return self.b.splat(self.team.combine(buffer, own, merge), self.lanes)

    def _finish(self, total: Expr) -> Callable[[Expr, Expr | None], Expr]:
        """Result from a difference to the maximum and its exponential."""
        b, lanes = self.b, self.lanes
        if self.log:
            logarithm = b.splat(b.bind(tirx.log(total), "log"), lanes)
            return lambda difference, _: difference - logarithm
        factor = b.splat(b.bind(b.constant(1.0) / total, "factor"), lanes)
        return lambda _, power: power * factor

    def _inside(self, here: Expr | None) -> Any:
        checks = [check for check in (here, self.valid) if check is not None]
        return self.b.inside(tirx.And(*checks) if len(checks) > 1 else checks[0] if checks else None)

    def _read(self, number: Expr) -> Expr:
        return self.b.load(self.x, self.base + number * self.lanes, self.lanes)

    def _store(self, number: Expr, value: Expr) -> None:
        self.b.store(self.y, self.base + number * self.lanes, value, self.lanes)


def _add(first: Expr, second: Expr) -> Expr:
    return first + second


def _tree(values: list[Expr], merge: Merge) -> Expr:
    while len(values) > 1:
        paired = [merge(a, b) for a, b in zip(values[::2], values[1::2], strict=False)]
        values = paired + values[len(paired) * 2 :]
    return values[0]
