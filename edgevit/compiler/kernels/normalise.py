"""Normalisation of the last axis: ``layer_norm`` and ``rms_norm``.

Vectors run along the axis. A row that fits the registers is read once; a longer one is read again from the cache.
The variance is the mean of centred squares, never a difference of two large sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.epilogue import Epilogue
from edgevit.compiler.kernels.functions import rsqrt
from edgevit.compiler.kernels.operands import float_epilogue, operand_arguments, operand_bytes
from edgevit.compiler.kernels.rows import Rows, fits_registers, for_each_rows
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "normalise"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One normalisation.

    Attributes:
        shape: of input and output.
        epsilon: added to the variance, or to the mean square.
        centred: whether the mean is subtracted (layer norm).
        scale, bias: whether there are factors and addends, one per element of the axis.
        epilogue: operand 0 is the normalised value.
    """

    shape: tuple[int, ...]
    epsilon: float
    centred: bool
    scale: bool
    bias: bool
    epilogue: Pointwise

    @property
    def flops(self) -> int:
        """Sum, centring, squares, factor: six per element at most."""
        return prod(self.shape) * (3 + 2 * self.centred + self.scale + self.bias)

    @property
    def bytes(self) -> int:
        """Input, output, factors, addends and operands, once each."""
        return 4 * (2 * prod(self.shape) + self.shape[-1] * (self.scale + self.bias)) + operand_bytes(self.epilogue)


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``layer_norm`` or ``rms_norm`` node."""
    if node.op not in ("layer_norm", "rms_norm"):
        return None
    epilogue, shape = float_epilogue(node), node.input(0).shape
    width = shape[-1] if shape else 0
    factors = [node.input(index) for index in (1, 2) if node.has(index)]
    if epilogue is None or 0 in shape or any(t.dtype != "float32" or t.size != width for t in factors):
        return None
    centred = node.op == "layer_norm"
    return Workload(shape, float(node.attrs["epsilon"]), centred, node.has(1), node.has(2), epilogue)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """``rows`` that are normalised side by side, to overlap their reductions."""
    return {"rows": tuple(rows for rows in (1, 2, 4) if rows == 1 or _fits(workload, target, rows))}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Up to two rows."""
    return {"rows": max(rows for rows in space(workload, target)["rows"] if rows <= 2)}


def _fits(workload: Workload, target: Target, rows: int) -> bool:
    # Two registers for factors and addends, two for constants.
    return rows <= prod(workload.shape[:-1]) and fits_registers(workload.shape[-1], rows, target, others=4)


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """The kernel: input, factors and addends if any, the epilogue's operands, output."""
    builder = KernelBuilder(name)
    width, size = workload.shape[-1], prod(workload.shape)
    x = builder.argument("x", size)
    scale = builder.argument("scale", width) if workload.scale else None
    bias = builder.argument("bias", width) if workload.bias else None
    operands = operand_arguments(builder, workload.epilogue)
    output = builder.argument("output", size)
    epilogue = Epilogue(builder, workload.epilogue, operands, workload.shape, peel_bias=False)
    held = _fits(workload, target, choice["rows"])

    def write(numbers: list[Expr]) -> None:
        rows = Rows(builder, x, numbers, width, target.vector.lanes(32), held=held)
        factors = _standardise(builder, workload, rows)

        def finish(value: Expr, row: int, place: Expr, lanes: int) -> Expr:
            value = value * builder.splat(factors[row], lanes)
            if scale is not None:
                value = value * builder.load(scale, place, lanes)
            if bias is not None:
                value = value + builder.load(bias, place, lanes)
            where = (*_coordinates(numbers[row], workload.shape[:-1]), place)
            return epilogue.finish(value, where, lanes, lanes)

        rows.map(finish)
        rows.store(output)

    for_each_rows(builder, prod(workload.shape[:-1]), width, choice["rows"], write)
    return builder.finish()


def _standardise(builder: KernelBuilder, workload: Workload, rows: Rows) -> list[Expr]:
    """Centre the rows if they shall be; returns the factor that gives each unit variance."""
    width = workload.shape[-1]
    if workload.centred:
        sums = rows.reduce(lambda a, b: a + b, 0.0)
        means = [builder.bind(total * builder.constant(1 / width), "mean") for total in sums]
        rows.map(lambda value, row, _, lanes: value - builder.splat(means[row], lanes))
    squares = rows.reduce(lambda a, b: a + b, 0.0, lambda value, *_: value * value)
    return [
        builder.bind(rsqrt(total * builder.constant(1 / width) + builder.constant(workload.epsilon)), "factor")
        for total in squares
    ]


def _coordinates(row: Expr, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    """Indices of a row in the leading axes."""
    indices: list[Expr] = []
    for extent in reversed(shape[1:]):
        indices.append(tirx.truncmod(row, extent))
        row = tirx.truncdiv(row, extent)
    return (row, *reversed(indices)) if shape else ()
