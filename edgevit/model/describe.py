"""What a model is, in figures: the report behind ``edgevit info``."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgevit.model.audit import unsupported_nodes
from edgevit.model.graph import all_nodes, itemsize, value_shapes
from edgevit.model.macs import count_macs
from edgevit.model.metadata import Metadata
from edgevit.model.operators import ONNX_DOMAINS
from edgevit.model.tasks import Task, task_of
from edgevit.model.types import Model, TensorSpec

if TYPE_CHECKING:
    import onnx

_HEAVY_MACS = 5_000_000_000


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorInfo(_Frozen):
    """An input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class UnsupportedInfo(_Frozen):
    """A node the compiler cannot take."""

    node: str
    operator: str


class ModelReport(_Frozen):
    """Everything ``edgevit info`` prints.

    Attributes:
        source: path of the file, if there is one.
        sha256: of the source bytes.
        task: what the metadata states, else a guess from the outputs' shapes.
        about: what the model's metadata states.
        inputs: in graph order.
        outputs: in graph order.
        opset: version of the default ONNX operator set.
        operators: nodes by operator, after simplification; other domains are written ``domain::operator``.
        parameters: elements of weights, after batch norm is folded and zero biases are dropped.
        macs: multiply-accumulate operations of one run; see :mod:`edgevit.model.macs` for what counts.
        initializer_bytes: size of all constants.
        activation_bytes: size of all values computed on the way, were they all kept.
        unsupported: nodes the compiler cannot take.
        suggested_targets: names of target presets to start from; empty if the model cannot be compiled.
        notes: what loading changed, and what the figures leave out.
    """

    source: str | None
    sha256: str
    task: Task
    about: Metadata
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    operators: dict[str, int]
    parameters: int
    macs: int
    initializer_bytes: int
    activation_bytes: int
    unsupported: tuple[UnsupportedInfo, ...]
    suggested_targets: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def compilable(self) -> bool:
        """Whether the compiler takes every operator."""
        return not self.unsupported


def describe(model: Model) -> ModelReport:
    """Figures of a loaded model (``load(path, audit=False)`` loads one with unsupported operators too)."""
    graph = model.proto.graph
    unsupported = tuple(
        UnsupportedInfo(node=found.node, operator=_operator(found.domain, found.op_type))
        for found in unsupported_nodes(model.proto)
    )
    macs, uncounted = count_macs(graph)
    notes = list(model.notes)
    if uncounted:
        kinds = ", ".join(sorted({node.op_type for node in uncounted}))
        notes.append(f"MACs leave out {len(uncounted)} nodes that cannot be counted: {kinds}")
    return ModelReport(
        source=str(model.source) if model.source else None,
        sha256=model.sha256,
        task=task_of(model),
        about=model.about,
        inputs=_infos(model.inputs),
        outputs=_infos(model.outputs),
        opset=model.opset,
        operators=_operators(graph),
        parameters=_parameters(graph),
        macs=macs,
        initializer_bytes=sum(math.prod(t.dims) * itemsize(t.data_type) for t in graph.initializer),
        activation_bytes=_activation_bytes(graph),
        unsupported=unsupported,
        suggested_targets=() if unsupported else _targets(macs),
        notes=tuple(notes),
    )


def _infos(specs: tuple[TensorSpec, ...]) -> tuple[TensorInfo, ...]:
    return tuple(TensorInfo(name=spec.name, shape=spec.shape, dtype=spec.dtype) for spec in specs)


def _operator(domain: str, op_type: str) -> str:
    return op_type if domain in ONNX_DOMAINS else f"{domain}::{op_type}"


def _operators(graph: onnx.GraphProto) -> dict[str, int]:
    counts = Counter(_operator(node.domain, node.op_type) for node in all_nodes(graph))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _parameters(graph: onnx.GraphProto) -> int:
    """Elements of weights: float tensors with dimensions, and what a ``DequantizeLinear`` makes into one."""
    from onnx import TensorProto

    floats = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    quantized = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    scales = {
        name for node in graph.node if node.op_type in {"DequantizeLinear", "QuantizeLinear"} for name in node.input[1:]
    }
    return sum(
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims and tensor.name not in scales and (tensor.data_type in floats or tensor.name in quantized)
    )


def _activation_bytes(graph: onnx.GraphProto) -> int:
    shapes = value_shapes(graph)
    return sum(
        math.prod(shapes[value.name]) * itemsize(value.type.tensor_type.elem_type)
        for value in (*graph.value_info, *graph.output)
        if value.name in shapes
    )


def _targets(macs: int) -> tuple[str, ...]:
    """Presets to start from; the smallest boards are left out for models of many MACs."""
    boards = ("rpi5", "jetson-orin") if macs > _HEAVY_MACS else ("rpi4", "rpi5")
    return ("host", "arm", *boards)
