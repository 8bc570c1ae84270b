"""Products of rows that a group makes in shared memory first: normalised ones, or those of a depthwise convolution.

A group holds some rows. Then every thread multiplies a few of them with a vector of output channels. Where the
channels do not fit one group, each group makes its rows anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.tiles import lanes_of, wanted_threads
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.conv import Workload
from edgevit.target_schema import Gpu

_ROWS = (4, 2, 1)
_ROW_THREADS = 16
_GROUP = 256
_USUAL_GROUP = 128


def rows_that_fit(depth: int, gpu: Gpu) -> int:
    """Rows of ``depth`` floats in half of a group's shared memory."""
    return gpu.local_bytes // 2 // (4 * depth)


class StagedProduct(ABC):
    """Writes one kernel.

    Args:
        workload: of the product, a flat one.
        gpu: to write it for.
        name: of the function.
        storage: of the arguments.
    """

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.w = workload
        _, _, self.rows, channels = workload.output
        self.depth = workload.depth
        self.steps, self.lanes = lanes_of(self.depth), lanes_of(channels)
        self.vectors = channels // self.lanes
        self.mine, launch = self._shape(gpu)
        self.held = launch.block[1] * self.mine
        self.b = ThreadBuilder(name, launch, storage)
        self.declare()
        self.weights = self.b.argument("weights", self.depth * channels)
        self.epilogue = Epilogue(self.b, workload.epilogue, workload.output)
        self.y = self.b.argument("y", prod(workload.output))

    @abstractmethod
    def declare(self) -> None:
        """Declare the arguments that come before the weights."""

    @abstractmethod
    def make_rows(self, first: Expr) -> Any:
        """Shared array of the group's rows, [row][depth], from row ``first`` on; every thread sees them afterwards."""

    def _shape(self, gpu: Gpu) -> tuple[int, Launch]:
        """Rows of a thread, and the groups."""
        limit = min(gpu.max_threads, _GROUP)
        along = cover(self.vectors, cover(self.vectors, limit // 4))
        room = rows_that_fit(self.depth, gpu)
        across = max(1, min(max(_USUAL_GROUP // along, 4), limit // along, _ROW_THREADS, room))
        for mine in _ROWS:
            groups = cover(self.rows, mine * across), cover(self.vectors, along)
            enough = self.vectors * cover(self.rows, mine) >= wanted_threads(gpu)
            # Every row that a group holds needs a thread of its own to normalise it.
            if mine == 1 or (mine * across <= room and mine <= along and enough):
                return mine, Launch((groups[1], groups[0], 1), (along, across, 1))
        raise AssertionError("one row always does")

    def function(self) -> Any:
        """The kernel."""
        b, block_x = self.b, self.b.launch.block[0]
        first = b.bind(b.group(1) * self.held, "first")
        rows = self.make_rows(first)
        vector = b.bind(b.group(0) * block_x + b.thread(0), "vector")
        with b.inside(within((vector, self.vectors, b.launch.grid[0] * block_x))):
            sums = self._multiply(rows, vector)
            self._write(sums, first, vector)
        return b.finish()

    def _multiply(self, rows: Any, vector: Expr) -> Any:
        b, lanes, steps, channels = self.b, self.lanes, self.steps, self.w.channels
        sums = b.registers(self.mine * lanes, name="sums")
        for r in range(self.mine):
            b.store(sums, r * lanes, b.constant(0.0, lanes=lanes), lanes)
        mine = b.bind(b.thread(1) * (self.mine * self.depth), "mine")
        with b.loop(self.depth // steps, "step") as step:
            k = b.bind(step * steps, "k")
            at = b.bind(k * channels + vector * lanes, "at")
            weights = [b.bind(b.load(self.weights, at + q * channels, lanes), "weight") for q in range(steps)]
            for r in range(self.mine):
                value = b.bind(b.load(rows, mine + r * self.depth + k, steps), "x")
                total = b.load(sums, r * lanes, lanes)
                for q in range(steps):
                    total = total + b.splat(b.lane(value, q, steps), lanes) * weights[q]
                b.store(sums, r * lanes, total, lanes)
        return sums

    def _write(self, sums: Any, first: Expr, vector: Expr) -> None:
        b, lanes, channels = self.b, self.lanes, self.w.channels
        zero = tirx.const(0, "int32")
        for r in range(self.mine):
            row = b.bind(first + b.thread(1) * self.mine + r, "row")
            with b.inside(within((row, self.rows, b.launch.grid[1] * self.held))):
                place = (zero, zero, row, vector * lanes)
                value = self.epilogue.apply(b.load(sums, r * lanes, lanes), place, lanes)
                b.store(self.y, row * channels + vector * lanes, value, lanes)
