"""Permutations of axes that really move data."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from edgevit.compiler.graph import Node
from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.compiler.kernels.moves import (
    is_movable,
    item_bytes,
    storage,
    strided_copy,
    transposing_copy,
    vector_lanes,
)
from edgevit.compiler.kernels.runs import contiguous_strides, merge_axes
from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

NAME = "permute"
VERSION = 1

_MOST_LANES = 16


@dataclass(frozen=True)
class Workload:
    """One permutation.

    Attributes:
        view: factors of the input's row-major content.
        perm: of the factors, as numpy's ``transpose`` takes it.
        dtype: of the elements, numpy's name.
    """

    view: tuple[int, ...]
    perm: tuple[int, ...]
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        """None."""
        return 0

    @property
    def bytes(self) -> int:
        """Input and output."""
        return 2 * prod(self.view) * item_bytes(self.dtype)


def claim(node: Node) -> Workload | None:
    """Workload of a ``permute`` node."""
    if node.op != "permute" or 0 in node.attrs["view"] or not is_movable(node.output.dtype):
        return None
    return Workload(tuple(node.attrs["view"]), tuple(node.attrs["perm"]), node.output.dtype)


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    """No choices."""
    return {}


def analytic_default(workload: Workload, target: Target) -> Choice:
    """The only choice."""
    return {}


def emit(workload: Workload, target: Target, choice: Choice, name: str) -> Any:
    """Kernel with arguments input, output."""
    builder = KernelBuilder(name)
    size, dtype = prod(workload.view), storage(workload.dtype)
    source, output = builder.argument("source", size, dtype), builder.argument("output", size, dtype)
    strides = contiguous_strides(workload.view)
    shape = [workload.view[axis] for axis in workload.perm]
    axes = merge_axes(shape, [[strides[axis] for axis in workload.perm], contiguous_strides(shape)])
    lanes = vector_lanes(dtype, target)
    if axes[-1].strides[0] == 1:
        strided_copy(builder, source, output, axes, lanes)
    else:
        transposing_copy(builder, source, output, axes, min(lanes, _MOST_LANES), item_bytes(dtype))
    return builder.finish()
