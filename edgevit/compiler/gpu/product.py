"""Convolution of any kernel size, stride, dilation and group count, and matrix products with constant weights.

Images are NHWC. A thread computes a few neighbouring pixels of a vector of output channels; threads of neighbouring
channels lie side by side, so that weights, packed [tap][input channel][output channel], are read in one piece. Where
there are too few such threads for the device, several share the input channels and add up in shared memory.

A product that follows a layer normalisation normalises on its own: the threads of a group bring rows of the input
into shared memory, normalise them there, and multiply from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.compiler.gpu.direct import emit_direct
from edgevit.compiler.gpu.normalised import emit_normalised
from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.kernels import conv
from edgevit.target_schema import Target

Array = np.ndarray[Any, Any]

NAME = "product"


@dataclass(frozen=True)
class Workload:
    """One product.

    Attributes:
        conv: its shapes and epilogue.
        planar: whether the input is NCHW.
        norm: added to the variance by the normalisation of the input rows; None without one.
        centred: whether that normalisation subtracts the mean.
    """

    conv: conv.Workload
    planar: bool = False
    norm: float | None = None
    centred: bool = True

    @property
    def flops(self) -> int:
        """Two per multiply-accumulate."""
        return self.conv.flops

    @property
    def bytes(self) -> int:
        """Inputs, weights and output, each moved once."""
        return self.conv.bytes


def claim(node: Node) -> Workload | None:
    """Workload of a ``conv`` or ``linear`` node."""
    planar = bool(node.attrs.get("planar", False)) if node.op == "conv" else False
    workload = conv.claim(_channels_last(node) if planar else node)
    if workload is None or workload.dtype != "float32" or node.output.dtype != "float32":
        return None
    return Workload(workload, planar, node.attrs.get("norm"), bool(node.attrs.get("centred", True)))


def _channels_last(node: Node) -> Node:
    """The node as it would be with an NHWC input."""
    x = node.input(0)
    batch, channels, height, width = x.shape
    image = Tensor(x.name, (batch, height, width, channels), x.dtype)
    return Node(node.op, [image, *node.inputs[1:]], node.outputs, node.attrs, node.layers)


def pack(workload: Workload, target: Target, constants: list[Array]) -> list[Array]:
    """Weights, OIHW or (K, N), as [kernel row][kernel column][input channel][output channel]; others unchanged."""
    weight = constants[0]
    packed = weight if weight.ndim == 2 else weight.transpose(2, 3, 1, 0)
    return [np.ascontiguousarray(packed), *constants[1:]]


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel; arguments are the sources, the packed weights, epilogue operands, output."""
    assert target.gpu is not None
    if workload.norm is not None:
        return emit_normalised(workload.conv, workload.norm, workload.centred, target.gpu, name, storage)
    return emit_direct(workload.conv, workload.planar, target.gpu, name, storage)
