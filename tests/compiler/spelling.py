"""Write a small ONNX model as nested calls: ``y = s("Mul", s.x, s("Sigmoid", s.x))``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from edgevit.compiler.graph import Graph
from edgevit.compiler.rewrite import REWRITES
from tests.compiler.rewriting import assert_equal_to_onnxruntime, rewritten
from tests.model.onnx_graphs import model, node, value


class Speller:
    """Collects nodes; Python numbers and arrays become float32 constants, tuples of integers int64 ones."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Any] = {}

    x = "x"

    def __call__(self, op: str, *inputs: Any, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(node(op, [self._name(item) for item in inputs], [name], **attributes))
        return name

    def _name(self, item: Any) -> str:
        if isinstance(item, str):
            return item
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(item, np.int64 if isinstance(item, tuple) else np.float32)
        return name


Spelling = Callable[[Speller], Any]


def spell(
    spelling: Spelling, shape: Sequence[int] = (2, 5, 8), output: Sequence[int] | None = None, opset: int = 17
) -> onnx.ModelProto:
    """Model with input x; the spelling returns the value, or the values, that it computes.

    Args:
        spelling: adds the nodes.
        shape: of x.
        output: shape of every result, if not that of x.
        opset: of the model.
    """
    speller = Speller()
    results = spelling(speller)
    names = [results] if isinstance(results, str) else list(results)
    outputs = [value(name, output or shape) for name in names]
    return model(speller.nodes, [value("x", shape)], outputs, speller.constants, opset=opset)


def compiled(proto: onnx.ModelProto, tolerance: float = 2e-5) -> Graph:
    """The model after all rewrites, checked against ONNX Runtime."""
    graph = rewritten(proto, [step.apply for step in REWRITES])
    assert_equal_to_onnxruntime(graph, proto, tolerance)
    return graph


def ops(graph: Graph) -> list[str]:
    """Operators in order."""
    return [node.op for node in graph.nodes]


def terms(graph: Graph) -> list[str]:
    """Elementwise operations in order, constants left out."""
    programs = [node.attrs.get("program") or node.attrs.get("epilogue") for node in graph.nodes]
    return [term.op for program in programs if program for term in program.terms if term.op != "constant"]


def draw(*shape: int) -> np.ndarray[Any, Any]:
    """Normal numbers, the same for the same shape."""
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)
