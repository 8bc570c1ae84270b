"""Small ONNX graphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def small_proto(*, seed: int = 0) -> onnx.ModelProto:
    """A convolution, SiLU, pooling and a matrix product: outputs ``logits`` 1×10 and ``features`` 1×8×16×16."""
    draw = np.random.default_rng(seed)
    weights = {
        "kernel": draw.standard_normal((8, 3, 3, 3)) * 0.3,
        "bias": draw.standard_normal(8) * 0.1,
        "matrix": draw.standard_normal((8, 10)) * 0.5,
    }
    nodes = [
        helper.make_node("Conv", ["image", "kernel", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Mul", ["c", "s"], ["features"], name="silu"),
        helper.make_node("GlobalAveragePool", ["features"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("MatMul", ["f", "matrix"], ["logits"], name="classifier"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10]),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 8, 16, 16]),
        ],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
