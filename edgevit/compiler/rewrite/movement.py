"""ONNX's ways to move data, in edgevit's few: reshape, permute, slice, concat, pad, gather and broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.compiler.views import View

Rule = Callable[[Graph, Node], "list[Node] | None"]


def apply(graph: Graph) -> None:
    """Replace data movement operators; those with arguments that are not constant stay."""
    nodes: list[Node] = []
    for node in graph.nodes:
        rule = None if node.domain else RULES.get(node.op)
        replacement = rule(graph, node) if rule and all(tensor.size for tensor in node.outputs) else None
        nodes += [node] if replacement is None else replacement
    graph.nodes = nodes
    graph.changed()


def arrange(source: Tensor, view: View, output: Tensor, layers: tuple[str, ...] = ()) -> Node:
    """Node that brings ``source`` into the arrangement ``view``: free if the content stays as it is."""
    if view.is_identity:
        return Node("reshape", [source], [output], layers=layers)
    factors, perm = view.permutation
    return Node("permute", [source], [output], {"view": factors, "perm": perm}, layers)


def integers(node: Node, index: int, name: str) -> tuple[int, ...] | None:
    """Integers that newer opsets pass as input ``index`` and older ones as an attribute; None if not constant."""
    if node.has(index):
        data = node.input(index).data
        return None if data is None else tuple(int(number) for number in data.reshape(-1))
    value = node.attrs.get(name)
    return None if value is None else tuple(int(number) for number in value)


def _same_content(_: Graph, node: Node) -> list[Node] | None:
    return [Node("reshape", [node.input(0)], [node.output], layers=node.layers)]


def _resize(_: Graph, node: Node) -> list[Node] | None:
    """Resizing to the same size, which exporters write where the size was open."""
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or not node.has(3) or node.input(0).shape != node.output.shape:
        return None
    return _same_content(_, node)


def _rearranged(node: Node, view: Sequence[int], perm: Sequence[int]) -> list[Node]:
    arrangement = View.of(view).transpose(perm)
    return [arrange(node.input(0), arrangement, node.output, node.layers)]


def _transpose(_: Graph, node: Node) -> list[Node] | None:
    shape = node.input(0).shape
    return _rearranged(node, shape, node.attrs.get("perm", tuple(reversed(range(len(shape))))))


def _depth_to_space(_: Graph, node: Node) -> list[Node] | None:
    batch, channels, height, width = node.input(0).shape
    block = node.attrs["blocksize"]
    inner = channels // block**2
    if node.attrs.get("mode", "DCR") == "CRD":
        return _rearranged(node, (batch, inner, block, block, height, width), (0, 1, 4, 2, 5, 3))
    return _rearranged(node, (batch, block, block, inner, height, width), (0, 3, 4, 1, 5, 2))


def _space_to_depth(_: Graph, node: Node) -> list[Node] | None:
    batch, channels, height, width = node.input(0).shape
    block = node.attrs["blocksize"]
    return _rearranged(node, (batch, channels, height // block, block, width // block, block), (0, 3, 5, 1, 2, 4))


def _window(x: Tensor, output: Tensor, starts: dict[int, int], steps: dict[int, int], layers: tuple[str, ...]) -> Node:
    rank = len(x.shape)
    attrs = {
        "starts": tuple(starts.get(axis, 0) for axis in range(rank)),
        "steps": tuple(steps.get(axis, 1) for axis in range(rank)),
    }
    return Node("slice", [x], [output], attrs, layers)


def _slice(_: Graph, node: Node) -> list[Node] | None:
    x = node.input(0)
    starts, ends = integers(node, 1, "starts"), integers(node, 2, "ends")
    if starts is None or ends is None or (node.has(3) and not node.input(3).is_constant):
        return None
    axes = integers(node, 3, "axes") or tuple(range(len(starts)))
    steps = integers(node, 4, "steps") or (1,) * len(starts)
    if node.has(4) and not node.input(4).is_constant:
        return None
    first, stride = {}, {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis %= len(x.shape)
        first[axis] = slice(start, end, step).indices(x.shape[axis])[0]
        stride[axis] = step
    return [_window(x, node.output, first, stride, node.layers)]


def _split(_: Graph, node: Node) -> list[Node] | None:
    x = node.input(0)
    axis = node.attrs.get("axis", 0) % len(x.shape)
    pieces, start = [], 0
    for output in node.outputs:
        pieces.append(_window(x, output, {axis: start}, {}, node.layers))
        start += output.shape[axis]
    return pieces


def _gather(graph: Graph, node: Node) -> list[Node] | None:
    x, indices = node.input(0), node.input(1)
    axis = node.attrs.get("axis", 0) % len(x.shape)
    if indices.data is None:
        return [Node("gather", [x, indices], [node.output], {"axis": axis}, node.layers)]
    numbers = indices.data.astype("int64") % x.shape[axis]
    flat = [int(number) for number in numbers.reshape(-1)]
    step = flat[1] - flat[0] if len(flat) > 1 else 1
    if step == 0 or flat != list(range(flat[0], flat[0] + step * len(flat), step)):
        constant = graph.constant(indices.name, numbers)
        return [Node("gather", [x, constant], [node.output], {"axis": axis}, node.layers)]
    piece = graph.tensor(node.output, (*x.shape[:axis], len(flat), *x.shape[axis + 1 :]))
    return [_window(x, piece, {axis: flat[0]}, {axis: step}, node.layers), _reshaped(piece, node)]


def _concat(_: Graph, node: Node) -> list[Node] | None:
    axis = node.attrs["axis"] % len(node.output.shape)
    inputs = [tensor for tensor in node.inputs if tensor is not None and tensor.size]
    return [Node("concat", list(inputs), [node.output], {"axis": axis}, node.layers)]


def _pad(graph: Graph, node: Node) -> list[Node] | None:
    x, mode = node.input(0), node.attrs.get("mode", "constant")
    widths, axes = integers(node, 1, "pads"), integers(node, 3, "axes")
    value = node.input(2).scalar() if node.has(2) else node.attrs.get("value", 0.0)
    if widths is None or value is None or mode not in ("constant", "reflect", "edge"):
        return None
    rank = len(x.shape)
    before, after = [0] * rank, [0] * rank
    chosen = [axis % rank for axis in axes] if axes is not None else list(range(rank))
    for index, axis in enumerate(chosen):
        before[axis], after[axis] = widths[index], widths[index + len(chosen)]
    nodes = []
    if min(*before, *after) < 0:
        cropped = tuple(n + min(b, 0) + min(a, 0) for n, b, a in zip(x.shape, before, after, strict=True))
        piece = graph.tensor(node.output, cropped)
        nodes.append(_window(x, piece, {axis: max(0, -width) for axis, width in enumerate(before)}, {}, node.layers))
        x, before = piece, [max(0, width) for width in before]
    attrs = {"before": tuple(before), "value": value, "mode": mode}
    return [*nodes, Node("pad", [x], [node.output], attrs, node.layers)]


def _expand(graph: Graph, node: Node) -> list[Node] | None:
    if node.op == "pointwise" and node.attrs["program"].terms:
        return None
    users = graph.users(node.output)
    if users and not graph.is_output(node.output) and all(_repeats(user, node) for user in users):
        for user in users:
            _read_directly(user, node)
        return []
    return [_broadcast(node.input(0), node.output, node.layers)]


def _repeats(user: Node, node: Node) -> bool:
    """Whether an elementwise reader gives the same without ``node`` broadcasting its input."""
    import numpy as np

    if user.op not in ("Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "pointwise") or user.domain:
        return False
    shapes = [node.input(0).shape if t is node.output else t.shape for t in user.inputs if t is not None]
    return np.broadcast_shapes(*shapes) == user.output.shape


def _read_directly(user: Node, node: Node) -> None:
    user.inputs = [node.input(0) if tensor is node.output else tensor for tensor in user.inputs]
    program = user.attrs.get("program")
    if program is not None:
        operands = tuple(Operand(tensor.shape, tensor.dtype) for tensor in user.inputs if tensor)
        user.attrs["program"] = replace(program, operands=operands)


def _tile(graph: Graph, node: Node) -> list[Node] | None:
    x = node.input(0)
    repeats = [new // old for new, old in zip(node.output.shape, x.shape, strict=True)]
    pairs = list(zip(repeats, x.shape, strict=True))
    apart = graph.tensor(x, [extent for _, old in pairs for extent in (1, old)])
    tiled = graph.tensor(x, [extent for pair in pairs for extent in pair])
    return [
        Node("reshape", [x], [apart], layers=node.layers),
        _broadcast(apart, tiled, node.layers),
        _reshaped(tiled, node),
    ]


def _broadcast(x: Tensor, output: Tensor, layers: tuple[str, ...]) -> Node:
    if prod(x.shape) == prod(output.shape):
        return Node("reshape", [x], [output], layers=layers)
    return Node("pointwise", [x], [output], {"program": Pointwise((Operand(x.shape, x.dtype),))}, layers)


def _reshaped(x: Tensor, node: Node) -> Node:
    return Node("reshape", [x], [node.output], layers=node.layers)


RULES: dict[str, Rule] = {
    "Identity": _same_content,
    "Reshape": _same_content,
    "Squeeze": _same_content,
    "Unsqueeze": _same_content,
    "Flatten": _same_content,
    "Resize": _resize,
    "Transpose": _transpose,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": _concat,
    "Pad": _pad,
    "Expand": _expand,
    "pointwise": _expand,
    "Tile": _tile,
}
