"""A depthwise convolution and the product behind it in one kernel: what lies between them never leaves the group.

A group computes the depthwise convolution for some neighbouring pixels and all channels, its activation included, into
shared memory, and multiplies from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.compiler.gpu import product
from edgevit.compiler.gpu.builder import cover, div, mod, within
from edgevit.compiler.gpu.depthwise import pack as pack_filters
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.staged import StagedProduct, rows_that_fit
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import conv, depthwise
from edgevit.compiler.kernels.builder import Expr
from edgevit.target_schema import Gpu, Target

NAME = "separable"

Array = np.ndarray[Any, Any]

_LEAST_ROWS = 4
_MOST_CHANNELS = 256


@dataclass(frozen=True)
class Workload:
    """Both halves.

    Attributes:
        depthwise: the first.
        product: the second, a flat one.
        constants: how many of the node's constants are the first half's.
    """

    depthwise: depthwise.Workload
    product: conv.Workload
    constants: int

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return self.depthwise.flops + self.product.flops


def join(first: Node, second: Node) -> Node:
    """One node for a depthwise convolution and the product of its result."""
    attributes = {
        "depthwise": first.attrs,
        "product": second.attrs,
        "middle": first.output,
        "inputs": len(first.inputs),
    }
    inputs = [*first.inputs, *second.inputs[1:]]
    return Node("separable", inputs, second.outputs, attributes, (*first.layers, *second.layers))


def fits(first: Node, second: Node, gpu: Gpu) -> bool:
    """Whether two nodes are halves that a kernel takes: pixels enough in shared memory, channels few enough."""
    middle, after = depthwise.claim(first), product.claim(second)
    if middle is None or after is None or after.norm is not None or after.planar or not after.conv.flat:
        return False
    return after.conv.channels <= _MOST_CHANNELS and rows_that_fit(after.conv.depth, gpu) >= _LEAST_ROWS


def claim(node: Node) -> Workload | None:
    """Workload of a ``separable`` node."""
    if node.op != "separable":
        return None
    count, middle = node.attrs["inputs"], node.attrs["middle"]
    first = Node("depthwise", node.inputs[:count], [middle], node.attrs["depthwise"])
    op = "linear" if len(node.input(count).shape) == 2 else "conv"
    second = Node(op, [middle, *node.inputs[count:]], node.outputs, node.attrs["product"])
    before, after = depthwise.claim(first), product.claim(second)
    if before is None or after is None:
        return None
    constants = sum(tensor is not None and tensor.is_constant for tensor in node.inputs[:count])
    return Workload(before, after.conv, constants)


def pack(workload: Workload, target: Target, constants: list[Array]) -> list[Array]:
    """Filters and weights as the halves alone have them."""
    first, second = constants[: workload.constants], constants[workload.constants :]
    packed = pack_filters(workload.depthwise, target, first)
    return [*packed, *product.pack(product.Workload(workload.product), target, second)]


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel; arguments are image, filters, their operands, packed weights, epilogue operands, output."""
    assert target.gpu is not None
    return _Separable(workload, target.gpu, name, storage).function()


class _Separable(StagedProduct):
    """Writes one kernel."""

    def __init__(self, workload: Workload, gpu: Gpu, name: str, storage: Sequence[str]) -> None:
        self.before = workload.depthwise
        self.windows = workload.depthwise.windows
        super().__init__(workload.product, gpu, name, storage)

    def declare(self) -> None:
        self.x = self.b.argument("x", self.windows.input_size)
        self.filters = self.b.argument("filters", self.before.filter_size)
        self.activation = Epilogue(self.b, self.before.epilogue, self.windows.output_shape)

    def make_rows(self, first: Expr) -> Any:
        b, (block_x, block_y, _) = self.b, self.b.launch.block
        threads, vectors = block_x * block_y, self.depth // self.steps
        rows = b.shared(self.held * self.depth, "rows")
        thread = b.bind(b.thread(1) * block_x + b.thread(0), "thread")
        total = self.held * vectors
        with b.loop(cover(total, threads), "part") as part:
            index = b.bind(part * threads + thread, "index")
            with b.inside(within((index, total, cover(total, threads) * threads))):
                channel = b.bind(mod(index, vectors) * self.steps, "channel")
                # Behind the last pixel the last one is computed again: its results are not written.
                pixel = b.bind(tirx.min(first + div(index, vectors), self.rows - 1), "pixel")
                b.store(rows, index * self.steps, self._pixel(pixel, channel), self.steps)
        b.barrier()
        return rows

    def _pixel(self, pixel: Expr, channel: Expr) -> Expr:
        """A vector of the depthwise convolution's result."""
        b, lanes, w = self.b, self.steps, self.windows
        across, down = w.columns, w.rows
        column, row = b.bind(mod(pixel, across.output), "column"), div(pixel, across.output)
        image, row = b.bind(div(row, down.output), "image"), b.bind(mod(row, down.output), "row")
        total = b.constant(0.0, lanes=lanes)
        for i in range(down.kernel):
            line = b.bind(row * down.stride - down.before + i * down.dilation, "line")
            for j in range(across.kernel):
                place = b.bind(column * across.stride - across.before + j * across.dilation, "place")
                held_line = tirx.max(tirx.min(line, down.size - 1), 0)
                held_place = tirx.max(tirx.min(place, across.size - 1), 0)
                at = ((image * down.size + held_line) * across.size + held_place) * w.channels + channel
                inside = (line >= 0) & (line < down.size) & (place >= 0) & (place < across.size)
                value = tirx.Select(inside, b.load(self.x, at, lanes), b.constant(0.0, lanes=lanes))
                weight = b.load(self.filters, (i * across.kernel + j) * w.channels + channel, lanes)
                total = b.bind(total + value * weight, "total")
        return self.activation.apply(total, (image, row, column, channel), lanes)
