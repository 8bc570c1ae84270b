"""Slices of a tensor chosen by indices: a thread moves one vector."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.flat import coordinates, each, flat_builder, lanes_for
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import gather
from edgevit.compiler.kernels.builder import Expr, KernelBuilder
from edgevit.compiler.kernels.gather import Workload
from edgevit.target_schema import Target

NAME = "gather"


def claim(node: Node) -> Workload | None:
    """Workload of a ``gather`` node."""
    return None if node.output.dtype == "float64" else gather.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: tensor, indices, output."""
    assert target.gpu is not None
    shape, axis, chosen, dtype = workload.shape, workload.axis, prod(workload.indices), workload.dtype
    outer, extent, inner = prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :])
    lanes = lanes_for([dtype], inner)
    count = outer * chosen * inner // lanes
    b = flat_builder(name, count, target.gpu, storage)
    source = b.argument("source", prod(shape), dtype)
    indices = b.argument("indices", chosen, workload.index_dtype)
    output = b.argument("output", outer * chosen * inner, dtype)
    with each(b, count) as item:
        image, which, vector = coordinates(item, (outer, chosen, inner // lanes))
        index = _valid(b, b.load(indices, which), extent, workload.index_dtype)
        start = (image * extent + index) * inner + vector * lanes
        b.store(output, item * lanes, b.load(source, start, lanes), lanes)
    return b.finish()


def _valid(b: KernelBuilder, index: Expr, extent: int, dtype: str) -> Expr:
    """``index`` as an int32 from 0 to ``extent`` - 1; negative ones count from the end."""
    index = b.bind(index, "index")
    wrapped = b.bind(tirx.Select(index < 0, index + tirx.const(extent, dtype), index), "wrapped")
    # Selections: not all versions of the Metal language have minima of 64 bits.
    last, zero = tirx.const(extent - 1, dtype), tirx.const(0, dtype)
    clamped = b.bind(tirx.Select(wrapped < zero, zero, tirx.Select(wrapped > last, last, wrapped)), "clamped")
    return clamped if dtype == "int32" else b.bind(clamped.astype("int32"), "chosen")
