"""From an ONNX file to a :class:`~edgevit.model.types.Model`, or one clear refusal."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ModelError
from edgevit.model.audit import refuse_unsupported, unsupported_nodes
from edgevit.model.graph import all_nodes, itemsize, opset_of, value_shapes
from edgevit.model.isolated import prepare_isolated
from edgevit.model.metadata import Preprocessing, read_metadata
from edgevit.model.metadata_labels import check_label_count
from edgevit.model.metadata_sources import gather
from edgevit.model.operators import INPUT_DTYPES, MIN_OPSET
from edgevit.model.shapes import Shapes, real_inputs, settle_shapes
from edgevit.model.source import MAX_BYTES, read_source
from edgevit.model.tasks import task_of
from edgevit.model.types import Model, TensorSpec

if TYPE_CHECKING:
    import onnx

MAX_TENSOR_BYTES = 16 << 30
"""Most bytes all values of a graph may have together: far over what runs on a device, far under nonsense."""


def load(
    path: str | Path,
    *,
    shapes: Shapes = None,
    max_bytes: int = MAX_BYTES,
    audit: bool = True,
    preprocess: str | Path | Preprocessing | None = None,
) -> Model:
    """Read, check and simplify an ONNX file.

    The result has static shapes, holds no training leftovers, and depends on the file's contents alone:
    the same input gives the same bytes.

    Args:
        path: the ``.onnx`` file; external data files lie beside it.
        shapes: shapes of inputs whose dimensions the file leaves open: a mapping by input name, or one
            shape where the model has one input.
        max_bytes: refuse more bytes than this, external data included.
        audit: refuse operators that the compiler cannot take. Without it they stay in the graph, for
            :func:`edgevit.model.describe` to list; dimensions of outputs they hide are then -1.
        preprocess: how images are prepared, before what the file and a TOML file beside it say: the name of a preset,
            the path of a TOML file, or settings; see :mod:`edgevit.model.metadata_sources`.

    Raises:
        ModelError: the file cannot be used; the message says why and what to do.
        UserError: ``preprocess`` or the TOML file beside the model is wrong, or its labels are not the model's.
    """
    source = read_source(Path(path), max_bytes)
    return _finish(source.proto, source.path, source.sha256, shapes, preprocess, audit=audit)


def from_proto(
    proto: onnx.ModelProto,
    *,
    shapes: Shapes = None,
    audit: bool = True,
    preprocess: str | Path | Preprocessing | None = None,
) -> Model:
    """Like :func:`load`, for a model that is in memory already (such as one from :mod:`edgevit.zoo`).

    Raises:
        ModelError: the model cannot be used.
        UserError: ``preprocess`` is wrong, or the model's labels are not as many as its classes.
    """
    data = proto.SerializeToString(deterministic=True)
    return _finish(proto, None, hashlib.sha256(data).hexdigest(), shapes, preprocess, audit=audit)


def _finish(
    proto: onnx.ModelProto,
    path: Path | None,
    sha256: str,
    shapes: Shapes,
    preprocess: str | Path | Preprocessing | None,
    *,
    audit: bool,
) -> Model:
    where = str(path) if path else None
    _check_text(proto, where)
    _check_header(proto, where)
    _check_dtypes(proto, where)
    settled = settle_shapes(proto, shapes, where)
    _check_input_bytes(proto, settled, where)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    about, origin = gather(read_metadata(metadata, where=where), path, preprocess)
    proto, notes = prepare_isolated(proto, settled, where, audit=audit)
    unsupported = unsupported_nodes(proto)
    if audit:
        refuse_unsupported(unsupported, where)
    _check_value_bytes(proto, where)
    model = Model(
        proto=proto,
        source=path,
        sha256=sha256,
        inputs=tuple(_spec(value, where, strict=True) for value in proto.graph.input),
        outputs=tuple(_spec(value, where, strict=not unsupported) for value in proto.graph.output),
        opset=opset_of(proto),
        notes=(*notes, origin) if origin else tuple(notes),
        metadata=metadata,
        about=about,
    )
    if about.labels is not None:
        check_label_count(about.labels, model.outputs, task_of(model), where=where)
    return model


def _check_text(proto: onnx.ModelProto, where: str | None) -> None:
    """Refuse names that are not text: protobuf hands out bytes where a string is not UTF-8."""
    graph = proto.graph
    names: list[object] = [item.name for item in (*graph.input, *graph.output, *graph.initializer)]
    names += [text for entry in proto.metadata_props for text in (entry.key, entry.value)]
    operators: list[str] = []
    for node in all_nodes(graph):
        names += [node.name, *node.input, *node.output]
        operators += [node.op_type, node.domain]
    names += operators
    if not all(isinstance(name, str) for name in names) or not all(map(str.isprintable, operators)):
        raise ModelError(
            "the file holds names that are not text: it is damaged.",
            where=where,
            advice="Export or download it again.",
        )


def _check_header(proto: onnx.ModelProto, where: str | None) -> None:
    from onnx import defs

    opset, newest = opset_of(proto), defs.onnx_opset_version()
    if not proto.graph.node:
        raise ModelError("the graph is empty.", where=where, advice="Export the model again.")
    if not proto.graph.output:
        raise ModelError("the graph has no outputs.", where=where, advice="Export the model again.")
    if not real_inputs(proto):
        raise ModelError("the graph has no inputs: its result is a constant.", where=where, advice="Export it again.")
    if proto.graph.sparse_initializer:
        raise ModelError(
            "the model keeps weights as sparse tensors, which are not supported.",
            where=where,
            advice="Export it with dense weights.",
        )
    if opset == 0:
        raise ModelError(
            "the file names no ONNX operator set; it may be truncated.",
            where=where,
            advice="Export it again.",
        )
    if not MIN_OPSET <= opset <= newest:
        raise ModelError(
            f"the model uses ONNX opset {opset}; {MIN_OPSET} to {newest} are understood.",
            where=where,
            advice="Export it with opset 17.",
        )


def _check_dtypes(proto: onnx.ModelProto, where: str | None) -> None:
    for kind, values in (("input", real_inputs(proto)), ("output", list(proto.graph.output))):
        for value in values:
            dtype = _dtype(value)
            if dtype not in INPUT_DTYPES and not (kind == "output" and dtype == "untyped"):
                raise ModelError(
                    f"{kind} {value.name!r} has element type {dtype}, which is not supported.",
                    where=where,
                    advice=f"Supported are {', '.join(sorted(INPUT_DTYPES))}.",
                )


def _dtype(value: onnx.ValueInfoProto) -> str:
    """Numpy name of a value's element type, or a description of what it is instead."""
    from onnx import TensorProto, helper

    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return str(kind).removesuffix("_type") if kind else "untyped"
    code = value.type.tensor_type.elem_type
    if code == TensorProto.UNDEFINED:
        return "untyped"
    name = TensorProto.DataType.Name(code).lower() if code in TensorProto.DataType.values() else str(code)
    if code == TensorProto.STRING or code not in TensorProto.DataType.values():
        return name
    numpy_name = helper.tensor_dtype_to_np_dtype(code).name
    # Some ONNX versions present narrow floats as the integers or floats that carry them.
    return numpy_name if numpy_name in INPUT_DTYPES and name in _SAME_NAMES else name


_SAME_NAMES = frozenset({"float", "float16", "double", "int8", "uint8", "int32", "int64", "bool"})


def _check_input_bytes(proto: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], where: str | None) -> None:
    sizes = {value.name: itemsize(value.type.tensor_type.elem_type) for value in real_inputs(proto)}
    _refuse_bytes(sum(math.prod(shapes[name]) * size for name, size in sizes.items()), "its inputs", where)


def _check_value_bytes(proto: onnx.ModelProto, where: str | None) -> None:
    graph = proto.graph
    shapes = value_shapes(graph)
    total = sum(
        math.prod(shapes[value.name]) * itemsize(value.type.tensor_type.elem_type)
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.name in shapes
    )
    _refuse_bytes(total, "its values", where)


def _refuse_bytes(total: int, what: str, where: str | None) -> None:
    if total > MAX_TENSOR_BYTES:
        raise ModelError(
            f"{what} take {total:,} bytes together, over the limit of {MAX_TENSOR_BYTES:,}.",
            where=where,
            advice="Give smaller input shapes, or check the file's shapes.",
        )


def _spec(value: onnx.ValueInfoProto, where: str | None, *, strict: bool) -> TensorSpec:
    tensor = value.type.tensor_type
    dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    if strict and (not tensor.HasField("shape") or any(dim <= 0 for dim in dims)):
        raise ModelError(
            f"the shape of output {value.name!r} is not known before the model runs"
            f" ({'x'.join('?' if dim < 0 else str(dim) for dim in dims) or 'no rank'}).",
            where=where,
            advice="Export the model without the post-processing whose result varies in size.",
        )
    return TensorSpec(value.name, tuple(dims), _dtype(value))
