"""Bring a validated ONNX model into the graph that rewrites work on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.compiler.graph import Graph, Node, Tensor
from edgevit.errors import ModelError

if TYPE_CHECKING:
    import onnx

    from edgevit.model import Model


def to_graph(model: Model) -> Graph:
    """Graph with one node for each of the model's, under ONNX names; initializers become constants.

    Raises:
        ModelError: a value's shape or type is not known before the model runs.
    """
    from onnx import shape_inference

    proto = shape_inference.infer_shapes(model.proto, data_prop=True)
    return _Importer(proto, str(model.source) if model.source else None).graph(model.opset)


class _Importer:
    """The values of one ONNX graph by name."""

    def __init__(self, proto: onnx.ModelProto, where: str | None) -> None:
        from onnx import helper, numpy_helper

        self._graph = proto.graph
        self._where = where
        self._tensors: dict[str, Tensor] = {}
        for value in (*self._graph.input, *self._graph.value_info, *self._graph.output):
            kind = value.type.tensor_type
            if kind.elem_type and kind.HasField("shape"):
                dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
                dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type).name
                self._tensors.setdefault(value.name, Tensor(value.name, tuple(dims), dtype))
        for initializer in self._graph.initializer:
            data = numpy_helper.to_array(initializer)
            self._tensors[initializer.name] = Tensor(initializer.name, data.shape, data.dtype.name, data)

    def graph(self, opset: int) -> Graph:
        nodes = [self._node(node) for node in self._graph.node]
        constants = {initializer.name for initializer in self._graph.initializer}
        inputs = [self._tensor(value.name) for value in self._graph.input if value.name not in constants]
        return Graph(inputs, [self._tensor(value.name) for value in self._graph.output], nodes, opset)

    def _node(self, node: onnx.NodeProto) -> Node:
        from onnx import helper

        return Node(
            node.op_type,
            [self._tensor(name) if name else None for name in node.input],
            [self._tensor(name) for name in node.output if name],
            {attribute.name: _plain(helper.get_attribute_value(attribute)) for attribute in node.attribute},
            layers=(node.name or node.output[0],),
            domain="" if node.domain == "ai.onnx" else node.domain,
        )

    def _tensor(self, name: str) -> Tensor:
        tensor = self._tensors.get(name)
        if tensor is None or any(extent < 0 for extent in tensor.shape):
            raise ModelError(
                f"the shape of {name!r} is not known before the model runs.",
                where=self._where,
                advice="Give every input a shape with --shape; export without operators whose result varies in size.",
            )
        return tensor


def _plain(value: Any) -> Any:
    """Attribute as a plain value: text for bytes, tuples for lists, arrays for tensors."""
    from onnx import TensorProto, numpy_helper

    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, (list, tuple)):
        return tuple(_plain(item) for item in value)
    return value
