"""Products of normalised rows: normalisation and multiplication in one kernel.

A group brings some rows of the input into shared memory. Threads that share a row add up their parts of its mean,
then of its centred squares, and scale what they hold. Then every thread multiplies a few of the rows with a vector
of output channels. Where the channels do not fit one group, each group normalises the rows anew: that costs a
hundredth of the product.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import Launch, ThreadBuilder, cover, within
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.rows import SharedRows
from edgevit.compiler.gpu.tiles import lanes_of, wanted_threads
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.conv import Workload
from edgevit.target_schema import Gpu

_ROWS = (4, 2, 1)
_ROW_THREADS = 4
_GROUP = 256


def emit_normalised(
    workload: Workload, epsilon: float, centred: bool, gpu: Gpu, name: str, storage: Sequence[str]
) -> Any:
    """Kernel with arguments input, packed weights, epilogue operands, output; the product is a flat one."""
    return _Normalised(workload, epsilon, centred, gpu, name, storage).function()


def fits(depth: int, gpu: Gpu) -> bool:
    """Whether a group's rows, one for each of its rows of threads at least, fit half of the shared memory."""
    return _ROW_THREADS * (depth + 2 * _GROUP) * 4 <= gpu.local_bytes // 2


class _Normalised:
    """Writes one kernel."""

    def __init__(
        self, workload: Workload, epsilon: float, centred: bool, gpu: Gpu, name: str, storage: Sequence[str]
    ) -> None:
        self.w, self.epsilon, self.centred = workload, epsilon, centred
        _, _, self.rows, channels = workload.output
        self.depth = workload.depth
        self.steps, self.lanes = lanes_of(self.depth), lanes_of(channels)
        self.vectors = channels // self.lanes
        self.mine, launch = self._shape(gpu)
        self.b = ThreadBuilder(name, launch, storage)
        self.x = self.b.argument("x", self.rows * self.depth)
        self.weights = self.b.argument("weights", self.depth * channels)
        self.epilogue = Epilogue(self.b, workload.epilogue, workload.output)
        self.y = self.b.argument("y", prod(workload.output))

    def _shape(self, gpu: Gpu) -> tuple[int, Launch]:
        """Rows of a thread, and the groups."""
        limit = min(gpu.max_threads, _GROUP)
        along = cover(self.vectors, cover(self.vectors, limit // _ROW_THREADS))
        across = max(1, min(limit // along, _ROW_THREADS))
        room = gpu.local_bytes // 2 // (4 * self.depth * across)
        for mine in _ROWS:
            groups = cover(self.rows, mine * across), cover(self.vectors, along)
            enough = self.vectors * cover(self.rows, mine) >= wanted_threads(gpu)
            # Every row that a group holds needs a thread of its own to normalise it.
            if mine == 1 or (mine <= min(room, along) and enough):
                return mine, Launch((groups[1], groups[0], 1), (along, across, 1))
        raise AssertionError("one row always does")

    def function(self) -> Any:
        b, (block_x, block_y, _) = self.b, self.b.launch.block
        held = block_y * self.mine
        first = b.bind(b.group(1) * held, "first")
        rows = SharedRows(b, held, self.depth, self.steps)
        rows.read(self.x, first, self.rows)
        rows.normalise(self.epsilon, centred=self.centred)
        vector = b.bind(b.group(0) * block_x + b.thread(0), "vector")
        with b.inside(within((vector, self.vectors, b.launch.grid[0] * block_x))):
            sums = self._multiply(rows.buffer, vector)
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
        held = b.launch.block[1] * self.mine
        zero = tirx.const(0, "int32")
        for r in range(self.mine):
            row = b.bind(first + b.thread(1) * self.mine + r, "row")
            with b.inside(within((row, self.rows, b.launch.grid[1] * held))):
                place = (zero, zero, row, vector * lanes)
                value = self.epilogue.apply(b.load(sums, r * lanes, lanes), place, lanes)
                b.store(self.y, row * channels + vector * lanes, value, lanes)
