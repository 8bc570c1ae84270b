"""Make a parsed model ready to compile: check it, fix its shapes, strip training, simplify, tidy.

Everything here runs ONNX's and onnxsim's C++ over a file someone else wrote, so it is called through
:mod:`edgevit.model.isolated`, in a process of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from edgevit.errors import ModelError
from edgevit.model.audit import refuse_unsupported, unknown_nodes
from edgevit.model.graph import captured_names, constant_tensor, subgraphs
from edgevit.model.operators import ONNX_DOMAINS
from edgevit.model.training import has_random_nodes, strip_dropout_nodes, strip_random_dropout

if TYPE_CHECKING:
    import onnx

_Message = TypeVar("_Message", bound=Any)

KEPT_FOR_THE_COMPILER = (
    "eliminate_duplicate_initializer",
    "fuse_attention",
    "fuse_gelu",
    "fuse_gqa",
    "fuse_layer_norm",
    "fuse_lp_normalization",
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
    "fuse_qkv",
    "fuse_rms_norm",
    "fuse_rope",
    "fuse_transpose_into_gemm",
)
"""onnxsim passes left out. Fusing primitives into larger operators is the compiler's own work: it matches
the primitives, whose form does not vary with the version of onnxsim. Merging equal weights would make the
parameter count depend on their values."""


def prepare(
    proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], where: str | None, *, audit: bool
) -> tuple[onnx.ModelProto, list[str]]:
    """Simplified, static, inference-only form of ``proto``.

    Args:
        proto: a parsed model with its weights inline; not changed.
        shapes: static shape of every input.
        where: the model's file, for messages.
        audit: refuse operators nobody knows; otherwise they pass, and the graph around them stays as it is.

    Returns:
        The model and notes on what was changed.

    Raises:
        ModelError: the graph is broken, or holds training code that cannot be taken out exactly.
    """
    notes: list[str] = []
    proto = _copy(proto)
    before = len(proto.graph.node)
    proto = _inline_functions(proto, notes, where)
    unknown = unknown_nodes(proto)
    if audit:
        refuse_unsupported(unknown, where)
    _fix_shapes(proto, shapes)
    proto = _infer_shapes(proto, where, strict=not unknown)
    _check(proto, where, strict=not unknown)
    notes += strip_dropout_nodes(proto, where)
    lift_constants(proto.graph)
    if not unknown:
        proto = _simplify(proto, where)
        if has_random_nodes(proto.graph):
            notes += strip_random_dropout(proto, where)
            proto = _simplify(proto, where)
    lift_constants(proto.graph)
    drop_dead_nodes(proto.graph)
    tidy(proto)
    _check(proto, where, strict=not unknown)
    if len(proto.graph.node) != before:
        notes.append(f"simplified from {before} to {len(proto.graph.node)} nodes")
    return proto, notes


def lift_constants(graph: onnx.GraphProto) -> None:
    """Turn ``Constant`` nodes into initializers, in place, in subgraphs too: one form for the compiler."""
    kept = []
    for node in graph.node:
        for inner in subgraphs(node):
            lift_constants(inner)
        tensor = None
        if node.op_type == "Constant" and node.domain in ONNX_DOMAINS:
            tensor = constant_tensor(node)
        if tensor is None:
            kept.append(node)
        else:
            graph.initializer.add().CopyFrom(tensor)
            graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(kept)


def drop_dead_nodes(graph: onnx.GraphProto) -> None:
    """Remove, in place, the nodes and initializers that no output depends on."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input, captured_names(node))
    del graph.node[:]
    graph.node.extend(reversed(kept))
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(tensors)


def tidy(proto: onnx.ModelProto) -> None:
    """Remove, in place, what says where, when and by what the file was written.

    The same graph then has the same bytes, whoever exported it from whichever folder.
    """
    proto.producer_name = proto.producer_version = proto.doc_string = proto.domain = ""
    proto.model_version = 0
    del proto.metadata_props[:]
    graph = proto.graph
    graph.name = "main"
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.quantization_annotation[:]
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initializers]
    del graph.input[:]
    graph.input.extend(inputs)
    produced = {name for node in graph.node for name in node.output}
    values = sorted((v for v in graph.value_info if v.name in produced), key=lambda value: value.name)
    del graph.value_info[:]
    graph.value_info.extend(values)
    for item in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.doc_string = ""
        del item.metadata_props[:]


def _copy(message: _Message) -> _Message:
    copy: _Message = type(message)()
    copy.CopyFrom(message)
    return copy


def _inline_functions(proto: onnx.ModelProto, notes: list[str], where: str | None) -> onnx.ModelProto:
    if not proto.functions:
        return proto
    from onnx import inliner

    count = len(proto.functions)
    try:
        proto = inliner.inline_local_functions(proto)
    except Exception as error:  # ONNX raises whatever its C++ threw
        raise _broken(error, where) from error
    notes.append(f"inlined {count} local functions")
    return proto


def _check(proto: onnx.ModelProto, where: str | None, *, strict: bool) -> None:
    from onnx import checker

    if not strict:
        return
    try:
        checker.check_model(proto)
    except Exception as error:  # ValidationError, and whatever else the C++ threw
        raise _broken(error, where) from error


def _fix_shapes(proto: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Write the static input shapes, in place, and forget inferred shapes that may contradict them."""
    for value in proto.graph.input:
        if value.name in shapes:
            shape = value.type.tensor_type.shape
            shape.ClearField("dim")
            # A scalar has a shape without dimensions, which is not the same as no shape.
            shape.SetInParent()
            for dim in shapes[value.name]:
                shape.dim.add().dim_value = dim
    del proto.graph.value_info[:]


def _simplify(proto: onnx.ModelProto, where: str | None) -> onnx.ModelProto:
    import onnxsim

    try:
        simplified, valid = onnxsim.simplify(
            proto, check_n=0, perform_optimization=True, skipped_optimizers=list(KEPT_FOR_THE_COMPILER)
        )
    except Exception as error:  # onnxsim raises whatever its C++ threw
        raise _broken(error, where) from error
    if not valid:
        raise ModelError(
            "the simplified graph differs from the original.",
            where=where,
            advice="Please report it with the model; exporting with another opset may avoid it.",
        )
    return _infer_shapes(simplified, where)


def _infer_shapes(proto: onnx.ModelProto, where: str | None, *, strict: bool = True) -> onnx.ModelProto:
    """Infer all shapes; what the file says of an output counts only where inference cannot tell."""
    from onnx import shape_inference

    stated = [_copy(value) for value in proto.graph.output]
    for value in proto.graph.output:
        if value.type.WhichOneof("value") == "tensor_type":
            value.type.tensor_type.ClearField("shape")
    try:
        proto = shape_inference.infer_shapes(proto, check_type=strict, strict_mode=strict, data_prop=True)
    except Exception as error:  # InferenceError, and whatever else the C++ threw
        raise _broken(error, where) from error
    for value, before in zip(proto.graph.output, stated, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            value.CopyFrom(before)
    return proto


def _broken(error: Exception, where: str | None) -> ModelError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = (lines[0] if lines else type(error).__name__).rstrip(".")
    return ModelError(
        f"the graph is not valid ONNX: {first[:300]}.",
        where=where,
        advice="Export it again, or run onnx.checker.check_model() on it where it was made.",
    )
