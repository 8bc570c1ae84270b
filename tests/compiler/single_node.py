"""ONNX Runtime on one operator, and elementwise programs in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from edgevit.compiler.graph import Node, Tensor
from edgevit.compiler.pointwise import Operand, Pointwise, Term


def run_operator(
    op: str, x: np.ndarray, constants: Sequence[np.ndarray | None] = (), opset: int = 19, **attributes: Any
) -> np.ndarray:
    """First output; None leaves an optional input out."""
    names = [f"c{index}" if value is not None else "" for index, value in enumerate(constants)]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", *names], ["y"], **attributes)],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, f"c{i}") for i, value in enumerate(constants) if value is not None],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def draw(*shape: int) -> np.ndarray:
    """Normal numbers, different in every run."""
    return np.random.default_rng().standard_normal(shape).astype(np.float32)


def nhwc(image: np.ndarray) -> np.ndarray:
    """From NCHW."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1))


def make_node(op: str, inputs: Sequence[np.ndarray], shape: tuple[int, ...], **attrs: Any) -> Node:
    """Node whose first input is computed and whose others are constants."""
    first, *rest = inputs
    tensors: list[Tensor | None] = [Tensor("x", first.shape)]
    tensors += [Tensor(f"c{index}", value.shape, str(value.dtype), value) for index, value in enumerate(rest)]
    return Node(op, tensors, [Tensor("y", shape)], attrs)


def scale_and_add(shape: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...]) -> Pointwise:
    """max(value * first + second, 0) for operands of these shapes."""
    operands = (Operand(shape), Operand(first), Operand(second))
    return Pointwise(operands, (Term("mul", (0, 1)), Term("add", (3, 2)), Term("relu", (4,))))


def some_choices(space: dict[str, tuple[int, ...]], count: int) -> list[dict[str, int]]:
    """Random points of a space of choices."""
    rng = np.random.default_rng()
    return [{key: int(rng.choice(values)) for key, values in space.items()} for _ in range(count)]
