"""Products of normalised rows: normalisation and multiplication in one kernel.

A group brings some rows of the input into shared memory. Threads that share a row add up their parts of its mean,
then of its centred squares, and scale what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgevit.compiler.gpu.rows import SharedRows
from edgevit.compiler.gpu.staged import StagedProduct, rows_that_fit
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.conv import Workload
from edgevit.target_schema import Gpu

_LEAST_ROWS = 4


def emit_normalised(
    workload: Workload, epsilon: float, centred: bool, gpu: Gpu, name: str, storage: Sequence[str]
) -> Any:
    """Kernel with arguments input, packed weights, epilogue operands, output; the product is a flat one."""
    return _Normalised(workload, epsilon, centred, gpu, name, storage).function()


def fits(depth: int, gpu: Gpu) -> bool:
    """Whether shared memory holds enough rows for their products to be worth while."""
    return rows_that_fit(depth, gpu) >= _LEAST_ROWS


class _Normalised(StagedProduct):
    """Writes one kernel."""

    def __init__(
        self, workload: Workload, epsilon: float, centred: bool, gpu: Gpu, name: str, storage: Sequence[str]
    ) -> None:
        self.epsilon, self.centred = epsilon, centred
        super().__init__(workload, gpu, name, storage)

    def declare(self) -> None:
        self.x = self.b.argument("x", self.rows * self.depth)

    def make_rows(self, first: Expr) -> Any:
        rows = SharedRows(self.b, self.held, self.depth, self.steps)
        rows.read(self.x, first, self.rows)
        rows.normalise(self.epsilon, centred=self.centred)
        return rows.buffer
