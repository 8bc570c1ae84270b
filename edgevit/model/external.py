"""External data: weights that an ONNX file keeps in files beside it.

The paths come from the model file, so they are hostile until proven otherwise: only regular files inside
the model's own folder are read, after symbolic links are resolved.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NoReturn

from edgevit.errors import ModelError

if TYPE_CHECKING:
    import onnx


def tensors_of(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor a model holds: initializers, sparse values, attributes, in subgraphs and functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        yield from _node_tensors(function.node)


def inline_external_data(proto: onnx.ModelProto, model_path: Path, max_bytes: int) -> list[Path]:
    """Read all external tensors of ``proto`` into it, in place.

    Args:
        proto: a parsed model whose tensors may point at other files.
        model_path: the model's file; other files must lie in its folder or below.
        max_bytes: the most bytes to read in all.

    Returns:
        The files read, in name order.

    Raises:
        ModelError: a location that is missing, escapes the folder, or is too short for its tensor.
    """
    import onnx

    external = [t for t in tensors_of(proto) if t.data_location == onnx.TensorProto.EXTERNAL]
    sizes = [_stated_bytes(tensor, model_path) for tensor in external]
    if sum(sizes) > max_bytes:
        raise ModelError(
            f"the model holds {sum(sizes):,} bytes of external data, over the limit of {max_bytes:,}.",
            where=str(model_path),
            advice="Raise max_bytes if you trust the file.",
        )
    files: set[Path] = set()
    for tensor, size in zip(external, sizes, strict=True):
        location, offset = _place(tensor, size, model_path)
        files.add(location)
        with location.open("rb") as stream:
            stream.seek(offset)
            data = stream.read(size)
        if len(data) < size:
            _fail(tensor, model_path, f"file {location.name!r} is too short: {offset + size:,} bytes needed")
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return sorted(files)


def _graph_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: object) -> Iterator[onnx.TensorProto]:
    for node in nodes:  # type: ignore[attr-defined]
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _graph_tensors(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_tensors(graph)


def _stated_bytes(tensor: onnx.TensorProto, model_path: Path) -> int:
    from onnx import helper

    try:
        itemsize: int = helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError):
        _fail(tensor, model_path, f"element type {tensor.data_type} cannot be stored externally")
    if any(dim < 0 for dim in tensor.dims):
        _fail(tensor, model_path, f"shape {list(tensor.dims)} is negative")
    size: int = math.prod(tensor.dims) * itemsize
    return size


def _place(tensor: onnx.TensorProto, size: int, model_path: Path) -> tuple[Path, int]:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = _resolve(tensor, entries.get("location", ""), model_path)
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or size)
    except ValueError:
        _fail(tensor, model_path, "external data offset or length is not a number")
    if offset < 0 or length != size:
        _fail(tensor, model_path, f"offset {offset} and length {length} do not fit its {size:,} bytes")
    if location.stat().st_size < offset + size:
        _fail(tensor, model_path, f"file {location.name!r} is too short: {offset + size:,} bytes needed")
    return location, offset


def _resolve(tensor: onnx.TensorProto, location: str, model_path: Path) -> Path:
    if not location:
        _fail(tensor, model_path, "external data has no location")
    # Both flavours: a model written on one system is read on the other.
    for flavour in (PurePosixPath(location), PureWindowsPath(location)):
        if flavour.is_absolute() or flavour.drive or ".." in flavour.parts:
            _fail(tensor, model_path, f"external data {location!r} lies outside the model's folder")
    folder = model_path.parent.resolve()
    try:
        path = (folder / location).resolve()
        if not path.is_relative_to(folder):
            _fail(tensor, model_path, f"external data {location!r} lies outside the model's folder")
        regular = stat.S_ISREG(path.stat().st_mode)
    except (OSError, RuntimeError, ValueError):
        _fail(tensor, model_path, f"external data file {location!r} is missing")
    if not regular:
        _fail(tensor, model_path, f"external data {location!r} is not a regular file")
    return path


def _fail(tensor: onnx.TensorProto, model_path: Path, what: str) -> NoReturn:
    raise ModelError(
        f"tensor {tensor.name!r}: {what}.",
        where=str(model_path),
        advice="Keep the external data files beside the model, as its exporter wrote them.",
    )
