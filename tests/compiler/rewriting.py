"""Apply rewrites to small models and compare with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import onnxruntime

from edgevit.compiler.frontend import to_graph
from edgevit.compiler.graph import Graph
from edgevit.compiler.rewrite import attention, channels_last, einsum, layer_norm, movement, reductions, sink
from edgevit.model import Model
from tests.compiler import graph_eval

Pass = Callable[[Graph], None]

LAYOUT: tuple[Pass, ...] = (einsum.apply, layer_norm.apply, reductions.apply, movement.apply, channels_last.apply)
"""Passes before any reordering is pushed."""


def rewritten(proto: onnx.ModelProto, passes: Sequence[Pass] = (*LAYOUT, attention.apply, sink.apply)) -> Graph:
    """The model's graph after the passes; the model is taken as it is, not simplified."""
    opset = next(entry.version for entry in proto.opset_import if not entry.domain)
    graph = to_graph(Model(proto, None, "", (), (), opset, (), {}))
    for apply in passes:
        apply(graph)
    return graph


def assert_equal_to_onnxruntime(graph: Graph, proto: onnx.ModelProto, tolerance: float = 2e-5) -> None:
    """Same outputs, under the same names, as ONNX Runtime on the original model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(7)
    feeds = {tensor.name: draw.standard_normal(tensor.shape).astype(tensor.dtype) for tensor in graph.inputs}
    names = [output.name for output in session.get_outputs()]
    assert [tensor.name for tensor in graph.outputs] == names
    results = graph_eval.run(graph, feeds)
    for result, expected in zip(results, session.run(names, feeds), strict=True):
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max()))


def moved(graph: Graph) -> int:
    """Elements that real permutes move."""
    return sum(node.output.size for node in graph.nodes if node.op == "permute")


def inner_permutes(graph: Graph) -> int:
    """Permutes of anything but the model's inputs."""
    return sum(node.op == "permute" and node.input(0) not in graph.inputs for node in graph.nodes)
