"""Compute what does not depend on the inputs, once what is computed twice, and not at all what changes nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.compiler.rewrite.pattern import uniform

RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
"""Kept even on constants: they say how weights are stored."""

LARGEST = 1 << 26
"""Elements up to which a result is computed in advance; a larger one is cheaper to compute than to load."""

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}
"""Right operand with which an operator changes nothing."""


def apply(graph: Graph) -> None:
    """Fold constants, drop operations without effect, merge equal ones."""
    for node in list(graph.nodes):
        if _is_constant(node):
            _fold(graph, node)
        elif _is_neutral(graph, node):
            _bypass(graph, node)
    graph.prune()
    _merge_equal(graph)
    graph.prune()


def _is_constant(node: Node) -> bool:
    if node.domain or node.op in RANDOM | QUANTIZED or any(tensor.size > LARGEST for tensor in node.outputs):
        return False
    if not node.op[0].isupper() or any(type(value).__name__ == "GraphProto" for value in node.attrs.values()):
        return False
    return all(tensor is None or tensor.is_constant for tensor in node.inputs)


def _fold(graph: Graph, node: Node) -> None:
    """Turn a node's outputs into constants; nodes that cannot be evaluated stay."""
    results = _evaluate(node, graph.opset)
    if results is None or len(results) != len(node.outputs):
        return
    for tensor, result in zip(node.outputs, results, strict=True):
        array = np.asarray(result)
        if array.shape != tensor.shape or str(array.dtype) != tensor.dtype:
            return
    if any(graph.is_output(tensor) for tensor in node.outputs):
        return
    for tensor, result in zip(node.outputs, results, strict=True):
        tensor.data = np.asarray(result)
    graph.remove([node])


def _evaluate(node: Node, opset: int) -> list[Any] | None:
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    names = {tensor: f"value{index}" for index, tensor in enumerate(dict.fromkeys([*node.inputs, *node.outputs]))}
    attrs = {
        key: numpy_helper.from_array(value) if isinstance(value, np.ndarray) else value
        for key, value in node.attrs.items()
        if not (isinstance(value, tuple) and not value)
    }
    proto = helper.make_node(
        node.op,
        [names[tensor] if tensor is not None else "" for tensor in node.inputs],
        [names[tensor] for tensor in node.outputs],
        **attrs,
    )

    def value(tensor: Tensor) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
        return helper.make_tensor_value_info(names[tensor], dtype, tensor.shape)

    graph = helper.make_graph(
        [proto],
        "constant",
        [value(t) for t in names if t is not None and t.is_constant],
        [value(t) for t in node.outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            feeds = {names[t]: t.data for t in node.inputs if t is not None}
            results: list[Any] = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # evaluators raise whatever their operators raise; the node then runs with the model
        return None
    return results


def _is_neutral(graph: Graph, node: Node) -> bool:
    """Whether a node's first output is its first input, bit by bit but for the sign of zeros."""
    if node.domain or not node.has(0):
        return False
    x, output = node.input(0), node.output
    if x.shape != output.shape or x.dtype != output.dtype:
        return False
    if node.op in ("Identity", "Cast", "Reshape", "Expand", "Flatten", "Squeeze", "Unsqueeze", "reshape"):
        return True
    if node.op == "Dropout":
        training = node.has(2) and uniform(node.input(2)) != 0
        return not training and not any(graph.users(t) or graph.is_output(t) for t in node.outputs[1:])
    if node.op in NEUTRAL and uniform(node.input(1)) == NEUTRAL[node.op]:
        return True
    if node.op in ("Add", "Mul") and uniform(x) == NEUTRAL[node.op] and node.input(1).shape == output.shape:
        node.inputs.reverse()
        return True
    return False


def _bypass(graph: Graph, node: Node) -> None:
    """Take out a node that returns its first input."""
    x, output = node.input(0), node.output
    if not graph.is_output(output):
        graph.replace(output, x)
    else:
        producer = graph.producer(x)
        if producer is None or graph.is_output(x):
            return
        # The model's output keeps its own name: let the producer define it directly.
        graph.replace(x, output)
        producer.outputs = [output if tensor is x else tensor for tensor in producer.outputs]
    producer = graph.producer(x)
    if producer is not None:
        producer.layers = tuple(dict.fromkeys((*producer.layers, *node.layers)))
    graph.remove([node])


def _merge_equal(graph: Graph) -> None:
    """Let equal computations on the same values be done once."""
    constants: dict[object, Tensor] = {}
    known: dict[object, Node] = {}

    def identity(tensor: Tensor | None) -> object:
        if tensor is None or tensor.data is None or tensor.size > 1024:
            return id(tensor)
        key = (tensor.shape, tensor.dtype, tensor.data.tobytes())
        return id(constants.setdefault(key, tensor))

    for node in list(graph.nodes):
        if node.op in RANDOM or any(graph.is_output(tensor) for tensor in node.outputs):
            continue
        attrs = tuple(sorted((name, _hashable(value)) for name, value in node.attrs.items()))
        key = (node.op, node.domain, tuple(map(identity, node.inputs)), attrs, len(node.outputs))
        first = known.setdefault(key, node)
        if first is not node:
            for old, new in zip(node.outputs, first.outputs, strict=True):
                graph.replace(old, new)
            first.layers = tuple(dict.fromkeys((*first.layers, *node.layers)))
            graph.remove([node])


def _hashable(value: Any) -> object:
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    return repr(value)
