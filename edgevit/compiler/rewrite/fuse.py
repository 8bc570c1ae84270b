"""Elementwise work joins the operation that produces its input.

In execution order, each elementwise node takes in the elementwise nodes whose results it alone reads and then
becomes the epilogue of the latest kernel whose result it alone reads. Channel concatenations disappear into
the convolution behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise
from edgevit.compiler.rewrite.programs import ProgramBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

ANCHORS = frozenset({"conv", "depthwise", "linear", "matmul", "layer_norm", "rms_norm", "reduce", "pool", "resize"})
"""Operations with an epilogue."""

MOST_TERMS = 64
"""Longest program that merging makes; longer ones run out of registers."""

MOST_SOURCES = 4
"""Most tensors that one convolution reads side by side."""


def apply(graph: Graph) -> None:
    """Fuse until nothing changes."""
    while _pass(graph):
        graph.sort()
    for node in list(graph.nodes):
        if node.op == "conv":
            _absorb_concat(graph, node)
    graph.prune()


def _pass(graph: Graph) -> bool:
    changed = False
    for node in list(graph.nodes):
        if node.op == "pointwise":
            while _merge_producer(graph, node):
                changed = True
            changed |= _into_anchor(graph, node)
    return changed


def _into_anchor(graph: Graph, node: Node) -> bool:
    """Make ``node`` the epilogue of the latest operation whose result only it reads."""
    candidates = []
    for tensor in dict.fromkeys(node.inputs):
        found = _anchor(graph, node, tensor)
        if found is not None:
            candidates.append((found, tensor))
    order = {id(other): place for place, other in enumerate(graph.nodes)}
    for anchor, tensor in sorted(candidates, key=lambda pair: -order[id(pair[0])]):
        if tensor is not None and _become_epilogue(graph, anchor, node, tensor):
            return True
    return False


def _anchor(graph: Graph, node: Node, tensor: Tensor | None) -> Node | None:
    """What computes an operand of the result's size that nothing else reads, possibly seen through reshapes."""
    while tensor is not None and tensor.size == node.output.size and graph.only_user(tensor) is not None:
        producer = graph.producer(tensor)
        if producer is None or producer.op in ANCHORS:
            return producer
        if producer.op != "reshape":
            return None
        tensor = producer.input(0)
    return None


def _become_epilogue(graph: Graph, anchor: Node, node: Node, tensor: Tensor) -> bool:
    program: Pointwise = node.attrs["program"]
    shape, dtype = anchor.output.shape, anchor.output.dtype
    dtypes = {operand.dtype for operand in program.operands} | {term.dtype for term in program.terms}
    previous = epilogue_of(anchor)
    if dtypes != {dtype} or len(program.terms) + len(previous.terms) > MOST_TERMS:
        return False
    regroup = _regrouping(node.output.shape, shape)
    shapes = [regroup(operand.shape) for operand in program.operands]
    if any(new is None for new in shapes):
        return False
    operands = _reshaped(graph, node, shapes, skip=tensor)
    builder = ProgramBuilder(Operand(shape, dtype))
    own = epilogue_inputs(anchor)
    result = builder.inline(previous, [builder.accumulator, *map(builder.operand, own)])
    values = [
        result if given is tensor else builder.operand(new) for given, new in zip(node.inputs, operands, strict=True)
    ]
    final = builder.inline(program, values)
    merged = builder.finish(final)
    fixed = anchor.inputs[: len(anchor.inputs) - len(own)]
    output, layers = node.output, _union(anchor, node)
    attrs = {key: value for key, value in anchor.attrs.items() if key != "epilogue"}
    if merged.terms:
        attrs["epilogue"] = merged
    position = node if output.shape == shape else None
    node.op, node.inputs, node.attrs, node.layers = anchor.op, [*fixed, *builder.inputs], attrs, layers
    graph.remove([anchor])
    if position is None:
        result_tensor = graph.tensor(output, shape)
        node.outputs = [result_tensor]
        graph.insert_after(node, Node("reshape", [result_tensor], [output], layers=layers))
    graph.prune()
    return True


def epilogue_of(node: Node) -> Pointwise:
    """A node's epilogue; without one, the program that changes nothing."""
    program: Pointwise | None = node.attrs.get("epilogue")
    return program or Pointwise((Operand(node.output.shape, node.output.dtype),))


def epilogue_inputs(node: Node) -> list[Tensor]:
    """Operands of a node's epilogue, without the accumulator."""
    count = len(epilogue_of(node).operands) - 1
    return [tensor for tensor in node.inputs[len(node.inputs) - count :] if tensor is not None]


def _merge_producer(graph: Graph, node: Node) -> bool:
    """Take in the latest elementwise node whose result only ``node`` reads."""
    for tensor in reversed(list(dict.fromkeys(node.inputs))):
        producer = None if tensor is None else graph.producer(tensor)
        if tensor is None or producer is None or graph.only_user(tensor) is not node:
            continue
        # What is smaller than the result is better computed once than for every element.
        if producer.op != "pointwise" or tensor.size != node.output.size:
            continue
        inner: Pointwise = producer.attrs["program"]
        outer: Pointwise = node.attrs["program"]
        if len(inner.terms) + len(outer.terms) > MOST_TERMS:
            continue
        builder = ProgramBuilder()
        inlined = builder.inline(inner, [builder.operand(t) for t in producer.inputs if t is not None])
        values = [inlined if given is tensor else builder.operand(given) for given in node.inputs if given is not None]
        program = builder.finish(builder.inline(outer, values))
        node.inputs, node.attrs, node.layers = list(builder.inputs), {"program": program}, _union(producer, node)
        graph.remove([producer])
        return True
    return False


def _reshaped(graph: Graph, node: Node, shapes: Sequence[tuple[int, ...] | None], skip: Tensor) -> list[Tensor]:
    """The operands of ``node`` in new shapes; ``skip`` will not be read."""
    operands = []
    for tensor, shape in zip(node.inputs, shapes, strict=True):
        assert tensor is not None
        assert shape is not None
        if tensor is skip or tensor.shape == (shape if tensor.data is None else _bare(shape)):
            operands.append(tensor)
        elif tensor.data is not None:
            operands.append(graph.constant(tensor.name, tensor.data.reshape(_bare(shape))))
        else:
            moved = graph.tensor(tensor, shape)
            graph.insert_before(node, Node("reshape", [tensor], [moved], layers=node.layers))
            operands.append(moved)
    return operands


def _bare(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape without leading ones."""
    first = next((axis for axis, extent in enumerate(shape) if extent != 1), len(shape))
    return shape[first:]


def _regrouping(old: tuple[int, ...], new: tuple[int, ...]) -> Callable[[tuple[int, ...]], tuple[int, ...] | None]:
    """How the shape of an operand that broadcasts to ``old`` changes when the result is reshaped to ``new``.

    The function returns None for operands that would have to be copied.
    """
    groups = _groups(old, new)

    def regroup(shape: tuple[int, ...]) -> tuple[int, ...] | None:
        if old == new:
            return shape
        full = (1,) * (len(old) - len(shape)) + shape
        result: list[int] = []
        for old_axes, new_axes in groups:
            extents = [full[axis] for axis in old_axes]
            if extents == [old[axis] for axis in old_axes]:
                result += [new[axis] for axis in new_axes]
            elif prod(extents) == 1:
                result += [1] * len(new_axes)
            else:
                return None
        return tuple(result)

    return regroup


def _groups(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of two shapes that hold the same elements, as short as possible."""
    groups: list[tuple[list[int], list[int]]] = []
    left, right = 0, 0
    while left < len(old) or right < len(new):
        a: list[int] = []
        b: list[int] = []
        while (not a and not b) or prod(old[i] for i in a) != prod(new[i] for i in b):
            if right == len(new) or (left < len(old) and prod(old[i] for i in a) <= prod(new[i] for i in b)):
                a.append(left)
                left += 1
            else:
                b.append(right)
                right += 1
        groups.append((a, b))
    return groups


def _absorb_concat(graph: Graph, node: Node) -> None:
    """Let a convolution read a concatenation's inputs side by side."""
    x = node.input(0)
    producer = graph.producer(x)
    if node.attrs["sources"] != 1 or node.attrs["groups"] != 1 or producer is None or producer.op != "concat":
        return
    if graph.only_user(x) is not node or producer.attrs["axis"] != len(x.shape) - 1:
        return
    if len(producer.inputs) > MOST_SOURCES or x in node.inputs[1:]:
        return
    node.inputs[:1] = producer.inputs
    node.attrs["sources"] = len(producer.inputs)
    node.layers = _union(producer, node)
    graph.remove([producer])


def _union(first: Node, second: Node) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first.layers, *second.layers)))
