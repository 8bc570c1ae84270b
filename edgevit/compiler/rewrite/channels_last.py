"""Operators on images with their channels last.

ONNX keeps images as (N, C, H, W); the kernels want (N, H, W, C). Each operator gets a ``permute`` before and one
behind it; :mod:`edgevit.compiler.rewrite.sink` then cancels those that meet. What stays an ONNX operator keeps ONNX's
order. One-dimensional convolutions and pools are images of height 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import View


def apply(graph: Graph) -> None:
    """Replace convolutions, pools, resizing and left-over batch normalization."""
    nodes: list[Node] = []
    for node in graph.nodes:
        rule = None if node.domain else RULES.get(node.op)
        float32 = bool(node.inputs) and node.input(0).dtype.startswith("float")
        replacement = rule(graph, node) if rule and float32 else None
        nodes += [node] if replacement is None else replacement
    graph.nodes = nodes
    graph.changed()


def _around(graph: Graph, node: Node, op: str, more: Sequence[Tensor], attrs: dict[str, Any]) -> list[Node]:
    """``op`` on the image ``node`` reads, between two permutes."""
    x, result = node.input(0), node.output
    before, after = _channels_last(x.shape), _channels_last(result.shape)
    image, made = graph.tensor(x, before.shape), graph.tensor(result, after.shape)
    back = View.of(after.shape).transpose((0, 3, 1, 2)).reshape(result.shape)
    assert back is not None
    return [
        arrange(x, before, image, node.layers),
        Node(op, [image, *more], [made], attrs, node.layers),
        arrange(made, back, result, node.layers),
    ]


def _channels_last(shape: Sequence[int]) -> View:
    """An (N, C, L) or (N, C, H, W) value as (N, H, W, C)."""
    batch, channels, *space = shape
    return View.of((batch, channels, *((1,) * (2 - len(space))), *space)).transpose((0, 2, 3, 1))


def _pair(values: Sequence[int] | None, rank: int, one: int = 1) -> tuple[int, ...]:
    """Two numbers for height and width from those for the ``rank`` axes there are."""
    return (*((one,) * (2 - rank)), *(tuple(values) if values is not None else (one,) * rank))


def _window(node: Node, kernel: Sequence[int]) -> dict[str, Any] | None:
    """Strides, pads and dilations of a convolution or pool over one or two axes; None for others."""
    space = node.input(0).shape[2:]
    rank = len(space)
    if rank not in (1, 2):
        return None
    strides = _pair(node.attrs.get("strides"), rank)
    dilations = _pair(node.attrs.get("dilations"), rank)
    pads = tuple(node.attrs.get("pads") or (0,) * 2 * rank)
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "VALID":
        pads = (0,) * 2 * rank
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        low, high = [], []
        for axis, (size, extent) in enumerate(zip(space, kernel, strict=True)):
            stride, dilation = strides[2 - rank + axis], dilations[2 - rank + axis]
            total = max(0, (-(-size // stride) - 1) * stride + (extent - 1) * dilation + 1 - size)
            low.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            high.append(total - low[-1])
        pads = (*low, *high)
    if min(pads) < 0:
        return None
    return {
        "strides": strides,
        "pads": (*_pair(pads[:rank], rank, 0), *_pair(pads[rank:], rank, 0)),
        "dilations": dilations,
    }


def _conv(graph: Graph, node: Node) -> list[Node] | None:
    weight = node.input(1)
    bias = node.input(2) if node.has(2) else None
    if weight.data is None:
        return None
    rank = len(weight.shape) - 2
    attrs = _window(node, weight.shape[2:])
    if attrs is None:
        return None
    if rank == 1:
        weight = graph.constant(weight.name, weight.data[:, :, None])
    channels, groups = node.input(0).shape[1], node.attrs.get("group", 1)
    operands = []
    if bias is not None:
        dtype, accumulated = node.output.dtype, _channels_last(node.output.shape).shape
        program = Pointwise(
            (Operand(accumulated, dtype), Operand(bias.shape, dtype)), (Term("add", (0, 1), dtype=dtype),)
        )
        operands, attrs["epilogue"] = [bias], program
    if groups == channels == weight.shape[0] and groups > 1:
        return _around(graph, node, "depthwise", [weight, *operands], attrs)
    return _around(graph, node, "conv", [weight, *operands], {**attrs, "sources": 1, "groups": groups})


def _pool(graph: Graph, node: Node) -> list[Node] | None:
    kernel = node.attrs["kernel_shape"]
    attrs = _window(node, kernel)
    if attrs is None or len(node.outputs) > 1:
        return None
    attrs["kind"] = "max" if node.op == "MaxPool" else "average"
    attrs["kernel"] = _pair(kernel, len(kernel))
    attrs["count_include_pad"] = bool(node.attrs.get("count_include_pad", 0))
    return _around(graph, node, "pool", [], attrs)


def _resize(graph: Graph, node: Node) -> list[Node] | None:
    x, result = node.input(0), node.output
    mode = node.attrs.get("mode", "nearest")
    known = set(node.attrs) <= _RESIZE_ATTRIBUTES and not node.attrs.get("antialias")
    if len(x.shape) != 4 or mode not in ("nearest", "linear") or result.shape[:2] != x.shape[:2] or not known:
        return None
    # Upsample and the first Resize knew one coordinate transformation.
    old = node.op == "Upsample" or graph.opset < 11
    coordinates = node.attrs.get("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    nearest = node.attrs.get("nearest_mode", "floor" if old else "round_prefer_floor")
    if coordinates == "tf_crop_and_resize":
        return None
    scales = _scales(node, old)
    if scales is None:
        return None
    attrs = {"mode": mode, "coordinates": coordinates, "nearest_mode": nearest, "scales": scales}
    return _around(graph, node, "resize", [], attrs)


_RESIZE_ATTRIBUTES = {
    "mode",
    "coordinate_transformation_mode",
    "nearest_mode",
    "scales",
    "antialias",
    "axes",
    "cubic_coeff_a",
    "exclude_outside",
    "extrapolation_value",
    "keep_aspect_ratio_policy",
}


def _scales(node: Node, old: bool) -> tuple[float, float] | None:
    """Scales of height and width: as given, or output by input where sizes are given."""
    x, result = node.input(0), node.output
    given = node.attrs.get("scales")
    index = 1 if old else 2
    if node.has(index) and node.input(index).size:
        data = node.input(index).data
        if data is None:
            return None
        given = [float(scale) for scale in data]
    if not given:
        return result.shape[2] / x.shape[2], result.shape[3] / x.shape[3]
    axes = [axis % 4 for axis in node.attrs.get("axes", range(4))]
    by_axis = dict(zip(axes, given, strict=True))
    return by_axis.get(2, 1.0), by_axis.get(3, 1.0)


def _batch_norm(graph: Graph, node: Node) -> list[Node] | None:
    import numpy as np

    parameters = [node.input(index).data for index in range(1, 5)]
    x = node.input(0)
    if any(data is None for data in parameters) or len(node.outputs) > 1 or len(x.shape) < 2:
        return None
    scale, shift, mean, variance = (np.asarray(data, np.float64) for data in parameters)
    scale = scale / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    shape = (len(scale), *(1,) * (len(x.shape) - 2))
    constants = [
        graph.constant(f"{node.output.name}.{name}", data.reshape(shape).astype(x.dtype))
        for name, data in (("scale", scale), ("shift", shift - mean * scale))
    ]
    program = Pointwise(
        (Operand(x.shape, x.dtype), *(Operand(shape, x.dtype) for _ in constants)),
        (Term("mul", (0, 1), dtype=x.dtype), Term("add", (3, 2), dtype=x.dtype)),
    )
    return [Node("pointwise", [x, *constants], [node.output], {"program": program}, node.layers)]


RULES: dict[str, Callable[[Graph, Node], list[Node] | None]] = {
    "Conv": _conv,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "Resize": _resize,
    "Upsample": _resize,
    "BatchNormalization": _batch_norm,
}
