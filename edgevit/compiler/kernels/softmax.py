"""Softmax, and its logarithm, over the last axis.

Vectors run along the axis. A row that fits the registers is read once; a longer one is read again from the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.functions import exp, log
from edgevit.compiler.kernels.rows import Rows, fits_registers, for_each_rows
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "softmax"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One softmax.

    Attributes:
        shape: of input and output.
        log: whether the result is the softmax's logarithm.
    """

    shape: tuple[int, ...]
    log: bool = False

    @property
    def flops(self) -> int:
        """Maximum, difference, exponential, sum and quotient: one each per element."""
        return 5 * prod(self.shape)

    @property
    def bytes(self) -> int:
        """Input and output, once each."""
        return 8 * prod(self.shape)


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``softmax`` node."""
    shape = node.input(0).shape if node.op == "softmax" else ()
    if not shape or 0 in shape or node.input(0).dtype != "float32" or node.output.dtype != "float32":
        return None
    return Workload(shape, bool(node.attrs.get("log", False)))


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """``rows`` that are worked on side by side, to overlap their reductions."""
    return {"rows": tuple(rows for rows in (1, 2, 4) if rows == 1 or _fits(workload, target, rows))}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Up to two rows."""
    return {"rows": max(rows for rows in space(workload, target)["rows"] if rows <= 2)}


def _fits(workload: Workload, target: Target, rows: int) -> bool:
    # The exponential's constants and intermediate values take ten registers.
    return rows <= prod(workload.shape[:-1]) and fits_registers(workload.shape[-1], rows, target, others=10)


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel: input, output."""
    builder = KernelBuilder(name)
    width, size = workload.shape[-1], prod(workload.shape)
    x, output = builder.argument("x", size), builder.argument("output", size)
    held = _fits(workload, target, choice["rows"])

    def write(numbers: list[Expr]) -> None:
        rows = Rows(builder, x, numbers, width, target.vector.lanes(32), held=held)
        highest = rows.reduce(tirx.max, float("-inf"))
        rows.map(lambda value, row, _, lanes: value - builder.splat(highest[row], lanes))
        if workload.log:
            _subtract_log_sums(builder, rows)
        else:
            rows.map_once(lambda value, *_: exp(value, nonpositive=True), output)
            sums = rows.reduce(lambda a, b: a + b, 0.0)
            factors = [builder.bind(builder.constant(1.0) / total, "factor") for total in sums]
            rows.map(lambda value, row, _, lanes: value * builder.splat(factors[row], lanes))
        rows.store(output)

    for_each_rows(builder, prod(workload.shape[:-1]), width, choice["rows"], write)
    return builder.finish()


def _subtract_log_sums(builder: KernelBuilder, rows: Rows) -> None:
    sums = rows.reduce(lambda a, b: a + b, 0.0, lambda value, *_: exp(value, nonpositive=True))
    logs = [builder.bind(log(total), "log") for total in sums]
    rows.map(lambda value, row, _, lanes: value - builder.splat(logs[row], lanes))
