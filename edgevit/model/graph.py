"""Small questions asked of ONNX graphs in several places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from edgevit.model.operators import ONNX_DOMAINS

if TYPE_CHECKING:
    import numpy as np
    import onnx


def node_label(node: onnx.NodeProto) -> str:
    """How messages name a node: operator and name, or its output where it has no name."""
    kind = node.op_type if node.domain in ONNX_DOMAINS else f"{node.domain}::{node.op_type}"
    if node.name:
        return f"{kind} {node.name!r}"
    return f"{kind} (unnamed, output {node.output[0]!r})" if node.output else kind


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs a node carries as attributes (branches, loop bodies)."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from all_nodes(inner)


def captured_names(node: onnx.NodeProto) -> set[str]:
    """Names that the graphs inside a node read; some may be their own."""
    names: set[str] = set()
    for inner in subgraphs(node):
        names.update(value.name for value in inner.output)
        for child in inner.node:
            names.update(child.input, captured_names(child))
    return names


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the default operator set; 0 if the model imports none."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS), default=0)


def value_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    """Shapes of all values whose every dimension is known, initializers included."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


def constant_value(
    graph: onnx.GraphProto, producers: Mapping[str, onnx.NodeProto], name: str
) -> np.ndarray[Any, Any] | None:
    """Value of an initializer or of a ``Constant`` node, seen through ``Identity``."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return _array(tensor)
    node = producers.get(name)
    if node is None or node.domain not in ONNX_DOMAINS:
        return None
    if node.op_type == "Identity":
        return constant_value(graph, producers, node.input[0])
    if node.op_type == "Constant":
        tensor = constant_tensor(node)
        return None if tensor is None else _array(tensor)
    return None


def _array(tensor: onnx.TensorProto) -> np.ndarray[Any, Any]:
    from onnx import numpy_helper

    array: np.ndarray[Any, Any] = numpy_helper.to_array(tensor)
    return array


def itemsize(data_type: int) -> int:
    """Bytes of one element; 0 for strings and unknown types."""
    from onnx import TensorProto, helper

    if data_type in {TensorProto.UNDEFINED, TensorProto.STRING}:
        return 0
    size: int = helper.tensor_dtype_to_np_dtype(data_type).itemsize
    return size


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """What a ``Constant`` node holds, in whichever of its attributes; None for strings and sparse tensors."""
    import numpy as np
    from onnx import numpy_helper

    for attribute in node.attribute:
        if attribute.name == "value":
            return attribute.t
        if attribute.name in {"value_float", "value_floats"}:
            data = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            return numpy_helper.from_array(np.asarray(data, np.float32))
        if attribute.name in {"value_int", "value_ints"}:
            ints = attribute.i if attribute.name == "value_int" else list(attribute.ints)
            return numpy_helper.from_array(np.asarray(ints, np.int64))
    return None
