"""Multiply-accumulate operations of a graph, counted from its shapes.

Counted: ``Conv`` (grouped and depthwise too), ``ConvTranspose``, ``Gemm`` and ``MatMul`` (batched too, so
that attention is in), and the integer and quantised matrix products. One multiply with its addition is one
MAC; biases, activations, normalisation, pooling and resizing are not counted, as in published figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgevit.model.graph import value_shapes
from edgevit.model.operators import ONNX_DOMAINS

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, tuple[int, ...]]

_MATRIX_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "MatMulInteger16"})
_UNCOUNTED = frozenset({"Attention", "Einsum", "If", "Loop", "Scan", "ConvInteger", "QLinearConv", "QLinearMatMul"})


def count_macs(graph: onnx.GraphProto) -> tuple[int, list[onnx.NodeProto]]:
    """MACs of one run of the graph.

    Returns:
        The count, and the nodes that multiply but could not be counted: their shapes are unknown, or the
        operator is one whose products are not visible.
    """
    shapes = value_shapes(graph)
    total, uncounted = 0, []
    for node in graph.node:
        if node.op_type in _UNCOUNTED:
            uncounted.append(node)
            continue
        try:
            total += node_macs(node, shapes)
        except KeyError:
            uncounted.append(node)
    return total, uncounted


def node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """MACs of one node; 0 for operators that are not counted.

    Raises:
        KeyError: a shape that is needed is not in ``shapes``.
    """
    if node.op_type in _MATRIX_PRODUCTS:
        inner = shapes[node.input[0]][-1]
        return math.prod(shapes[node.output[0]]) * inner
    if node.domain not in ONNX_DOMAINS:
        return 0
    if node.op_type == "Conv":
        # Weights are (out, in / group, ...): every output element reads in / group * kernel of them.
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "ConvTranspose":
        # Weights are (in, out / group, ...): every input element is scattered over out / group * kernel.
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "Gemm":
        transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
        inner = shapes[node.input[0]][0 if transposed else 1]
        return math.prod(shapes[node.output[0]]) * inner
    return 0
