"""float16 models: which of their values stay float16.

Rewrites see every model in float32 (:func:`widen`): patterns, folded constants and what TVM imports are the same
for both precisions. Where the target multiplies float16 vectors, :func:`narrow` then gives convolutions, products
with constant matrices, and what moves or maps their results float16 tensors again; elsewhere the model is computed
in float32, which such a target does faster. Attention, normalisation, softmax and reductions keep float32 on every
target: sums of squares and exponentials overflow float16, and float32 costs them little.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term

HALF, FLOAT = "float16", "float32"
_ONNX_FLOAT, _ONNX_HALF = 1, 10
_MULTIPLY = frozenset({"conv", "linear", "depthwise"})
_MOVE = frozenset({"reshape", "permute", "concat", "slice", "pad", "gather"})


def widen(graph: Graph) -> bool:
    """Turn all float16 values into float32; graph inputs and outputs keep their type, behind casts.

    Returns:
        Whether the model's weights (constants with two axes or more) were float16, all of them.
    """
    weights = {str(t.dtype) for t in _tensors(graph) if t.data is not None and len(t.shape) > 1}
    _cast_inputs(graph)
    _cast_outputs(graph)
    outside = {*graph.inputs, *graph.outputs}
    for tensor in _tensors(graph):
        if tensor.dtype == HALF and tensor not in outside:
            tensor.dtype = FLOAT
            tensor.data = None if tensor.data is None else tensor.data.astype(np.float32)
    for node in graph.nodes:
        if node.op == "Cast" and node.attrs.get("to") == _ONNX_HALF and node.output not in outside:
            node.attrs["to"] = _ONNX_FLOAT
        for key, value in node.attrs.items():
            if isinstance(value, np.ndarray) and value.dtype == np.float16:
                node.attrs[key] = value.astype(np.float32)
    graph.changed()
    return HALF in weights and not weights & {FLOAT, "float64"}


def _tensors(graph: Graph) -> Iterator[Tensor]:
    seen = dict.fromkeys(t for node in graph.nodes for t in (*node.inputs, *node.outputs) if t is not None)
    yield from dict.fromkeys((*graph.inputs, *graph.outputs, *seen))


def _cast_inputs(graph: Graph) -> None:
    for position, inner in enumerate(graph.inputs):
        if inner.dtype == HALF:
            outer = Tensor(inner.name, inner.shape, HALF)
            inner.name = graph.tensor(inner, inner.shape).name
            graph.inputs[position] = outer
            graph.nodes.insert(0, Node("Cast", [outer], [inner], {"to": _ONNX_FLOAT}))


def _cast_outputs(graph: Graph) -> None:
    for position, inner in enumerate(graph.outputs):
        if inner.dtype == HALF and inner not in graph.inputs:
            outer = Tensor(inner.name, inner.shape, HALF)
            inner.name = graph.tensor(inner, inner.shape).name
            graph.outputs[position] = outer
            graph.nodes.append(Node("Cast", [inner], [outer], {"to": _ONNX_HALF}))


def narrow(graph: Graph) -> None:
    """Give multiplications by constants, and what lies between them, float16 tensors. The graph is a rewritten one."""
    _Narrowing(graph).run()


class _Narrowing:
    """One pass in execution order; each value is converted at most once in each direction."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._converted: dict[tuple[Tensor, str], Tensor] = {}
        self._nodes: list[Node] = []

    def run(self) -> None:
        for node in self._graph.nodes:
            if node.op in _MULTIPLY:
                self._multiply(node)
            elif node.op == "pointwise":
                self._map(node)
            elif node.op in _MOVE and node.output.dtype == FLOAT and self._has_half(node.input(0)):
                self._move(node)
            elif node.op not in _MOVE or node.output.dtype != HALF:
                node.inputs = [self._as(t, FLOAT) if self._narrowed(t) else t for t in node.inputs]
            self._nodes.append(node)
        self._graph.nodes = self._nodes
        self._graph.prune()

    def _has_half(self, tensor: Tensor) -> bool:
        return tensor.dtype == HALF or (tensor, HALF) in self._converted

    def _narrowed(self, tensor: Tensor | None) -> bool:
        return tensor is not None and tensor.dtype == HALF and tensor not in self._graph.inputs

    def _multiply(self, node: Node) -> None:
        program: Pointwise = node.attrs.get("epilogue") or Pointwise((Operand(node.output.shape),))
        first = len(node.inputs) - len(program.operands) + 1
        if node.input(0).dtype not in (HALF, FLOAT) or node.output.dtype not in (HALF, FLOAT):
            return
        node.inputs[:first] = [self._as(t, HALF) for t in node.inputs[:first]]
        self._finish(node, program, 1)

    def _map(self, node: Node) -> None:
        program: Pointwise = node.attrs["program"]
        if node.input(0).dtype == HALF and program.terms == (Term("cast", (0,), (), FLOAT),):
            # What a float16 input of the model, widened, came from.
            self._converted[node.output, HALF] = node.input(0)
            return
        floats = [t for t in node.inputs if t is not None and t.dtype in (HALF, FLOAT) and not t.is_constant]
        if any(tensor.dtype == FLOAT for tensor in floats) or node.output.dtype != FLOAT:
            # Where a value is float32 anyway, float16 ones are converted as they are read.
            node.attrs["program"] = _reading(program, node.inputs)
        elif floats:
            self._finish(node, program, 0)

    def _finish(self, node: Node, program: Pointwise, accumulators: int) -> None:
        """Let a node's program read what is float16 now, and give float16 where that is wanted."""
        operands = [None] * accumulators + node.inputs[len(node.inputs) - len(program.operands) + accumulators :]
        program = _reading(program, operands)
        if node.output.dtype == FLOAT and self._wanted(node.output):
            node.output.dtype = HALF
            last = len(program.operands) + len(program.terms) - 1 if program.terms else 0
            program = Pointwise(program.operands, (*program.terms, Term("cast", (last,), (), HALF)))
        node.attrs["program" if node.op == "pointwise" else "epilogue"] = program

    def _wanted(self, tensor: Tensor) -> bool:
        """Whether anything would have to convert the value to float16, or at least be faster with it."""
        if self._graph.is_output(tensor):
            return False
        users = self._graph.users(tensor)
        return any(
            user.op in _MOVE
            or user.op == "pointwise"
            or (user.op in _MULTIPLY and tensor in user.inputs[: _sources(user)])
            for user in users
        )

    def _move(self, node: Node) -> None:
        if not self._wanted(node.output):
            node.inputs = [self._as(t, FLOAT) if self._narrowed(t) else t for t in node.inputs]
            return
        node.inputs = [self._as(t, HALF) if t is not None and t.dtype == FLOAT else t for t in node.inputs]
        node.output.dtype = HALF

    def _as(self, tensor: Tensor | None, dtype: str) -> Tensor | None:
        """The value in another type, cast where it is not known now."""
        if tensor is None or tensor.dtype == dtype:
            return tensor
        known = self._converted.get((tensor, dtype))
        if known is None:
            known = self._graph.tensor(tensor, tensor.shape, dtype)
            if tensor.data is not None:
                known.data = tensor.data.astype(dtype)
            else:
                cast = Pointwise((Operand(tensor.shape, tensor.dtype),), (Term("cast", (0,), (), dtype),))
                producer = self._graph.producer(tensor)
                layers = producer.layers if producer else ()
                self._nodes.append(Node("pointwise", [tensor], [known], {"program": cast}, layers))
            self._converted[tensor, dtype] = known
        return known


def _sources(node: Node) -> int:
    """Number of inputs that a multiplication multiplies with its weights."""
    return int(node.attrs.get("sources", 1))


def _reading(program: Pointwise, operands: list[Any]) -> Pointwise:
    """The program with float16 operands where tensors are float16 now, converted before their first use."""
    types = [t.dtype if t is not None else o.dtype for t, o in zip(operands, program.operands, strict=True)]
    changed = {i for i, (t, o) in enumerate(zip(types, program.operands, strict=True)) if t == HALF != o.dtype}
    if not changed:
        return program
    places = {index: index for index in range(len(program.operands))}
    terms: list[Term] = []
    for number, term in enumerate(program.terms):
        for index in sorted(changed & set(term.args)):
            terms.append(Term("cast", (index,), (), FLOAT))
            places[index] = len(program.operands) + len(terms) - 1
            changed.discard(index)
        terms.append(Term(term.op, tuple(places[index] for index in term.args), term.params, term.dtype))
        places[len(program.operands) + number] = len(program.operands) + len(terms) - 1
    read = tuple(Operand(o.shape, dtype) for o, dtype in zip(program.operands, types, strict=True))
    if not program.terms:
        terms.append(Term("cast", (0,), (), FLOAT))
    return Pointwise(read, tuple(terms))
