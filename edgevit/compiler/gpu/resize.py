"""Resizing of NHWC images, nearest neighbour and bilinear: a thread computes a vector of channels of one pixel.

Source positions are computed in float32 in the order of ONNX Runtime's arithmetic. Where the scale is no power of two,
a device whose division is not correctly rounded may round ties of ``nearest`` the other way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.builder import ThreadBuilder
from edgevit.compiler.gpu.epilogue import Epilogue
from edgevit.compiler.gpu.flat import coordinates, each, flat_builder
from edgevit.compiler.gpu.tiles import lanes_of
from edgevit.compiler.graph import Node
from edgevit.compiler.kernels import resize
from edgevit.compiler.kernels.builder import Expr
from edgevit.compiler.kernels.resize import Workload, source_position
from edgevit.target_schema import Target

NAME = "resize"


def claim(node: Node) -> Workload | None:
    """Workload of a float32 ``resize`` node."""
    return resize.claim(node)


def emit(workload: Workload, target: Target, name: str, storage: Sequence[str]) -> Any:
    """The kernel: input, epilogue operands, output."""
    assert target.gpu is not None
    shape, channels = workload.output_shape, workload.shape[3]
    lanes = lanes_of(channels)
    count = prod(shape) // lanes
    b = flat_builder(name, count, target.gpu, storage)
    source = b.argument("source", prod(workload.shape))
    epilogue = Epilogue(b, workload.epilogue, shape)
    output = b.argument("output", prod(shape))
    with each(b, count) as index:
        image, row, column, vector = (b.bind(place) for place in coordinates(index, (*shape[:3], channels // lanes)))
        channel = b.bind(vector * lanes, "channel")

        def read(y: Expr, x: Expr) -> Expr:
            pixel = (image * workload.shape[1] + y) * workload.shape[2] + x
            return b.load(source, pixel * channels + channel, lanes)

        if workload.mode == "nearest":
            value = read(_nearest(b, workload, 0, row), _nearest(b, workload, 1, column))
        else:
            top, bottom, down = _neighbours(b, workload, 0, row)
            left, right, across = _neighbours(b, workload, 1, column)
            share = b.splat(down, lanes)
            near, far = (_mix(b, read(top, x), read(bottom, x), share) for x in (left, right))
            value = _mix(b, near, far, b.splat(across, lanes))
        result = epilogue.apply(b.bind(value), (image, row, column, channel), lanes)
        b.store(output, index * lanes, result, lanes)
    return b.finish()


def _position(workload: Workload, axis: int, index: Expr) -> Expr:
    size, resized = workload.shape[1 + axis], workload.size[axis]
    return source_position(index, size, resized, workload.scales[axis], workload.coordinates)


def _nearest(b: ThreadBuilder, workload: Workload, axis: int, index: Expr) -> Expr:
    place, half = b.bind(_position(workload, axis, index), "position"), tirx.const(0.5, "float32")
    rounded = {
        "floor": lambda: tirx.floor(place),
        "ceil": lambda: tirx.ceil(place),
        "round_prefer_floor": lambda: tirx.ceil(place - half),
        "round_prefer_ceil": lambda: tirx.floor(place + half),
    }[workload.rounding]()
    last = workload.shape[1 + axis] - 1
    return b.bind(tirx.max(tirx.min(rounded.astype("int32"), last), 0), "nearest")


def _neighbours(b: ThreadBuilder, workload: Workload, axis: int, index: Expr) -> tuple[Expr, Expr, Expr]:
    """Input positions before and after an output position, and the share of the latter."""
    last = workload.shape[1 + axis] - 1
    place = tirx.max(_position(workload, axis, index), tirx.const(0.0, "float32"))
    place = b.bind(tirx.min(place, tirx.const(float(last), "float32")), "position")
    low = b.bind(tirx.min(place.astype("int32"), last), "low")
    share = b.bind(place - low.astype("float32"), "share")
    return low, b.bind(tirx.min(low + 1, last), "high"), share


def _mix(b: ThreadBuilder, near: Expr, far: Expr, share: Expr) -> Expr:
    near = b.bind(near, "near")
    return b.bind(near + (far - near) * share, "mixed")
