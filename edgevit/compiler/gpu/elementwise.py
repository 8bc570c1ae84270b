"""Elementwise programs with numpy's broadcasting: a thread computes one vector along the innermost run."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from edgevit.compiler.gpu.flat import aligned_lanes, each, flat_builder, offsets
from edgevit.compiler.gpu.functions import apply_program
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import pointwise
from edgevit.compiler.kernels.pointwise import Workload
from edgevit.compiler.kernels.pointwise_ops import operand_strides
from edgevit.compiler.kernels.runs import contiguous_strides, merge_axes
from edgevit.compiler.pointwise import Pointwise
from edgevit.target_schema import Target

NAME = "elementwise"

_PRODUCTS = (1.0, 2.0, 3.0)
"""Exponents of integers that are multiplications; for others CPUs compute in float64."""


def claim(node: Node) -> Workload | None:
    """Workload of a ``pointwise`` node, unless it takes integers to powers that need float64."""
    workload = pointwise.claim(node)
    return workload if workload is not None and _has_gpu_form(workload.program) else None


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: operands, output."""
    assert target.gpu is not None
    program, shape = workload.program, workload.shape
    strides = [operand_strides(operand, shape) for operand in program.operands]
    axes = merge_axes(shape, [*strides, contiguous_strides(shape)])
    types = [*(operand.dtype for operand in program.operands), *(term.dtype for term in program.terms)]
    # A constant vector of truth values has no spelling.
    scalar = any(term.op == "constant" and term.dtype == "bool" for term in program.terms)
    lanes = 1 if scalar else aligned_lanes(axes, types)
    count = prod(shape) // lanes
    b = flat_builder(name, count, target.gpu, storage)
    buffers = [b.argument(f"operand{i}", prod(o.shape), o.dtype) for i, o in enumerate(program.operands)]
    output = b.argument("output", prod(shape), program.dtype)
    with each(b, count) as index:
        *sources, place = offsets(b, index, axes, lanes)
        values = [
            b.load(buffer, source, lanes) if stride else b.splat(b.load(buffer, source), lanes)
            for buffer, source, stride in zip(buffers, sources, axes[-1].strides[:-1], strict=True)
        ]
        b.store(output, place, apply_program(b, program, values, lanes), lanes)
    return b.finish()


def _has_gpu_form(program: Pointwise) -> bool:
    types = [*(operand.dtype for operand in program.operands), *(term.dtype for term in program.terms)]
    count = len(program.operands)
    for term in program.terms:
        if term.op == "pow" and not types[term.args[0]].startswith("float"):
            exponent = program.terms[term.args[1] - count] if term.args[1] >= count else None
            if exponent is None or exponent.op != "constant" or exponent.params[0] not in _PRODUCTS:
                return False
    return True
