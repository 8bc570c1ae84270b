"""Small ONNX models to test with, built by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def value(name: str, shape: Sequence[int | str | None] | None, dtype: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
    name = attributes.pop("name", f"{op_type.lower()}_{outputs[0]}")
    return helper.make_node(op_type, inputs, outputs, name=name, **attributes)


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto] | None = None,
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    constants: dict[str, Any] | None = None,
    opset: int = 17,
    domains: dict[str, int] | None = None,
    **kwargs: Any,
) -> onnx.ModelProto:
    """Model with input x and output y, both 1x4 float32, unless said otherwise."""
    initializers = [numpy_helper.from_array(np.asarray(data), name) for name, data in (constants or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [value("x", [1, 4])] if inputs is None else list(inputs),
        [value("y", [1, 4])] if outputs is None else list(outputs),
        initializers,
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(name, version) for name, version in (domains or {}).items()]
    return helper.make_model(graph, opset_imports=imports, **{"ir_version": 8, **kwargs})


def conv_model(seed: int = 0) -> onnx.ModelProto:
    """x 1x3x8x8, convolution, relu, mean, 5 logits."""
    rng = np.random.default_rng(seed)
    return model(
        [
            node("Conv", ["x", "w", "b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
            node("Relu", ["c"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "v"], ["y"]),
        ],
        [value("x", [1, 3, 8, 8])],
        [value("y", [1, 5])],
        {
            "w": rng.standard_normal((6, 3, 3, 3), np.float32),
            "b": rng.standard_normal(6, np.float32),
            "v": rng.standard_normal((6, 5), np.float32),
        },
    )


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def run(proto: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(output) for output in session.run(None, inputs)]
