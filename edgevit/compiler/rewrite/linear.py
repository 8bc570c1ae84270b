"""MatMul and Gemm with a constant side as ``linear``; other products of matrices as ``matmul``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term
from edgevit.compiler.rewrite.movement import arrange
from edgevit.compiler.views import View

if TYPE_CHECKING:
    Array = np.ndarray[Any, Any]


def apply(graph: Graph) -> None:
    """Replace products of floating-point matrices; a Gemm's bias becomes an addition behind it."""
    for node in list(graph.nodes):
        if node.domain or not node.output.dtype.startswith("float") or 0 in node.output.shape:
            continue
        if node.op == "Gemm":
            _gemm(graph, node)
        elif node.op == "MatMul":
            _matmul(graph, node)
    graph.prune()


def _matmul(graph: Graph, node: Node) -> None:
    a, b = node.input(0), node.input(1)
    weight = _matrix(b)
    if weight is not None and a.shape:
        # A constant vector on the right takes its axis away from the result.
        _to_linear(graph, node, a, weight)
        return
    weight = _matrix(a)
    if weight is not None and len(a.shape) >= 2 and len(b.shape) >= 2:
        _mirrored(graph, node, b, weight)
    elif len(a.shape) >= 2 and len(b.shape) >= 2:
        node.op = "matmul"


def _gemm(graph: Graph, node: Node) -> None:
    a, b = node.input(0), node.input(1)
    attrs = node.attrs
    alpha, trans_a, trans_b = attrs.get("alpha", 1.0), attrs.get("transA", 0), attrs.get("transB", 0)
    bias, beta = (node.input(2), attrs.get("beta", 1.0)) if node.has(2) else (None, 1.0)
    if bias is not None and beta != 1 and bias.data is None:
        return
    rows, columns = node.output.shape
    product = node
    if bias is not None:
        product = Node("Gemm", [], [graph.tensor(node.output, (rows, columns))], {}, node.layers)
        graph.insert_before(node, product)
        if bias.data is not None:
            bias = graph.constant(bias.name, np.asarray(bias.data * beta, bias.dtype))
        operands = (Operand((rows, columns), bias.dtype), Operand(bias.shape, bias.dtype))
        node.op, node.inputs = "pointwise", [product.output, bias]
        node.attrs = {"program": Pointwise(operands, (Term("add", (0, 1), (), bias.dtype),))}
    if b.data is not None:
        left = _transposed(graph, product, a) if trans_a else a
        _to_linear(graph, product, left, (b.data.T if trans_b else b.data) * np.asarray(alpha, b.dtype))
    elif a.data is not None:
        right = b if trans_b else _transposed(graph, product, b)
        _mirrored(
            graph, product, right, (a.data.T if trans_a else a.data) * np.asarray(alpha, a.dtype), transposed=True
        )
    else:
        _dynamic_gemm(product, _transposed(graph, product, a) if trans_a else a, b, alpha, bool(trans_b))
    graph.changed()


def _dynamic_gemm(node: Node, a: Tensor, b: Tensor, alpha: float, transpose_b: bool) -> None:
    node.op, node.inputs = "matmul", [a, b]
    node.attrs = {"transpose_b": True} if transpose_b else {}
    if alpha != 1:
        shape, dtype = node.output.shape, node.output.dtype
        terms = (Term("constant", (), (float(alpha),), dtype), Term("mul", (0, 1), (), dtype))
        node.attrs["epilogue"] = Pointwise((Operand(shape, dtype),), terms)


def _to_linear(graph: Graph, node: Node, x: Tensor, weight: Array) -> None:
    """Let ``node`` be ``x @ weight``; its output may have the shape of a product with a vector."""
    shape = (*x.shape[:-1], weight.shape[1])
    node.op, node.attrs = "linear", {}
    node.inputs = [x, graph.constant(f"{node.output.name}.weight", np.ascontiguousarray(weight))]
    if len(x.shape) == 1:
        row = graph.tensor(x, (1, *x.shape))
        graph.insert_before(node, Node("reshape", [x], [row], layers=node.layers))
        node.inputs[0], shape = row, (1, *shape)
    if shape != node.output.shape:
        result = graph.tensor(node.output, shape)
        graph.insert_after(node, Node("reshape", [result], [node.output], layers=node.layers))
        node.outputs = [result]
    graph.changed()


def _mirrored(graph: Graph, node: Node, b: Tensor, weight: Array, *, transposed: bool = False) -> None:
    """Let ``node`` be ``weight @ b``, as the transpose of ``b.T @ weight.T``.

    Args:
        graph: changed in place.
        node: product.
        b: right side, or its transpose.
        weight: left side.
        transposed: whether ``b`` is transposed already.
    """
    right = b if transposed else _transposed(graph, node, b)
    shape = node.output.shape
    result = graph.tensor(node.output, (*shape[:-2], shape[-1], shape[-2]))
    graph.insert_after(node, _transposition(result, node.output, node.layers))
    node.outputs = [result]
    _to_linear(graph, node, right, weight.T)


def _transposed(graph: Graph, node: Node, x: Tensor) -> Tensor:
    """``x`` with its last two axes swapped, computed before ``node``."""
    result = graph.tensor(x, (*x.shape[:-2], x.shape[-1], x.shape[-2]))
    graph.insert_before(node, _transposition(x, result, node.layers))
    return result


def _transposition(x: Tensor, result: Tensor, layers: tuple[str, ...]) -> Node:
    rank = len(x.shape)
    return arrange(x, View.of(x.shape).transpose((*range(rank - 2), rank - 1, rank - 2)), result, layers)


def _matrix(tensor: Tensor) -> Array | None:
    """A constant's one matrix; a vector is a column."""
    if tensor.data is None or not tensor.shape:
        return None
    if len(tensor.shape) == 1:
        return tensor.data.reshape(-1, 1)
    return tensor.data.reshape(tensor.shape[-2:]) if tensor.size == tensor.shape[-2] * tensor.shape[-1] else None
