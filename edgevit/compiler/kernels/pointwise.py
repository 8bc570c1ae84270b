"""Elementwise programs with numpy's broadcasting.

Axes that all operands treat alike become one, so that the innermost run is as long as it can be. Vectors go along
it; what an operand repeats along the run is read once before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.pointwise_ops import apply_program, bind, is_supported, operand_strides
from edgevit.compiler.kernels.runs import Pieces, Step, contiguous_strides, emit_runs, merge_axes
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "pointwise"
VERSION = 1


@dataclass(frozen=True)
class Workload:
    """One program on tensors of one set of shapes.

    Attributes:
        shape: of the result.
        program: its operands carry their own shapes.
    """

    shape: tuple[int, ...]
    program: Pointwise

    @property
    def flops(self) -> int:
        """One per term and element."""
        return prod(self.shape) * len(self.program.terms)

    @property
    def bytes(self) -> int:
        """Operands and result, once each."""
        tensors = [(self.shape, self.program.dtype), *((o.shape, o.dtype) for o in self.program.operands)]
        return sum(prod(shape) * np.dtype(dtype).itemsize for shape, dtype in tensors)


def claim(node: Node) -> Workload | None:
    """Workload of a ``pointwise`` node whose operations and types are all known."""
    if node.op != "pointwise" or 0 in node.output.shape or not is_supported(node.attrs["program"]):
        return None
    return Workload(node.output.shape, node.attrs["program"])


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """``unroll``: vectors computed side by side."""
    return {"unroll": (1, 2, 4, 8)}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """Four vectors; two where the operands alone would fill the registers."""
    operands = len(workload.program.operands)
    return {"unroll": 4 if 4 * (operands + 2) <= target.vector.registers else 2}


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments operands, output."""
    program, shape = workload.program, workload.shape
    builder = KernelBuilder(name)
    buffers = [
        builder.argument(f"operand{number}", prod(operand.shape), operand.dtype)
        for number, operand in enumerate(program.operands)
    ]
    output = builder.argument("output", prod(shape), program.dtype)
    strides = [operand_strides(operand, shape) for operand in program.operands]
    axes = merge_axes(shape, [*strides, contiguous_strides(shape)])
    repeated = [stride == 0 for stride in axes[-1].strides[:-1]]

    def prepare(offsets: tuple[Expr, ...]) -> Step:
        fixed = [
            builder.bind(builder.load(buffer, offset)) if once else None
            for buffer, offset, once in zip(buffers, offsets[:-1], repeated, strict=True)
        ]

        def step(position: Expr, pieces: Pieces) -> None:
            # Reads come before writes: the code generator does not know that they never meet.
            values = [
                [
                    builder.bind(builder.load(buffer, offset + position + shift, lanes))
                    if value is None
                    else builder.splat(value, lanes)
                    for buffer, offset, value in zip(buffers, offsets[:-1], fixed, strict=True)
                ]
                for shift, lanes in pieces
            ]
            results = [
                bind(builder, apply_program(builder, program, operands, lanes))
                for operands, (_, lanes) in zip(values, pieces, strict=True)
            ]
            for result, (shift, lanes) in zip(results, pieces, strict=True):
                builder.store(output, offsets[-1] + position + shift, result, lanes)

        return step

    emit_runs(builder, axes, target.vector.lanes(element_bits(program)), choice["unroll"], prepare)
    return builder.finish()


def element_bits(program: Pointwise) -> int:
    """Bits of the widest value, at most 32: wider ones take several registers."""
    types = [program.dtype, *(operand.dtype for operand in program.operands), *(term.dtype for term in program.terms)]
    return min(32, max(8 * np.dtype(dtype).itemsize for dtype in types))
