"""From a path to a parsed model with all its weights, or one clear refusal."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ModelError
from edgevit.files import sha256_file
from edgevit.model.external import inline_external_data

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2 << 30
"""Largest model read by default, external data included: 2 GiB, the limit of a serialised ONNX model."""

_FOREIGN = (
    (0, b"\x89PNG", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (4, b"TFL3", "a LiteRT (TFLite) model"),
    (0, b"PK\x03\x04", "a zip archive (a PyTorch checkpoint, perhaps)"),
    (0, b"\x80\x02", "a Python pickle"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"GGUF", "a GGUF model"),
    (0, b"\x7fELF", "a compiled program or library"),
    (0, b"ORTM", "an ONNX Runtime (.ort) model"),
    (4, b"ORTM", "an ONNX Runtime (.ort) model"),
    (0, b"version https://git-lfs", "a Git LFS pointer; run 'git lfs pull'"),
)


@dataclass(frozen=True)
class Source:
    """A parsed file: the model with its weights inline, and the hash of what was read."""

    proto: onnx.ModelProto
    path: Path
    sha256: str


def read_source(path: Path, max_bytes: int = MAX_BYTES) -> Source:
    """Read and parse an ONNX file and its external data.

    Raises:
        ModelError: the file is absent, unreadable, too large, not ONNX, truncated, or its external data is
            missing, too short or outside its folder.
    """
    _check_file(path, max_bytes)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}.", where=str(path)) from error
    proto = _parse(data, path)
    digest = hashlib.sha256(data)
    files = inline_external_data(proto, path, max_bytes - len(data))
    for file in files:
        digest.update(file.name.encode() + b"\0" + bytes.fromhex(sha256_file(file)))
    return Source(proto, path, digest.hexdigest())


def _check_file(path: Path, max_bytes: int) -> None:
    try:
        if path.is_dir():
            raise ModelError("this is a folder.", where=str(path), advice="Name the .onnx file inside it.")
        if not path.exists():
            raise ModelError("no such file.", where=str(path), advice="Check the path.")
        if not path.is_file():
            raise ModelError("not a regular file.", where=str(path), advice="Name an .onnx file.")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read: {error}.", where=str(path), advice="Check the path.") from error
    if size == 0:
        raise ModelError("the file is empty.", where=str(path), advice="Export or download it again.")
    if size > max_bytes:
        raise ModelError(
            f"the file has {size:,} bytes, over the limit of {max_bytes:,}.",
            where=str(path),
            advice="Raise max_bytes if you trust the file.",
        )


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx

    for offset, magic, what in _FOREIGN:
        if data[offset : offset + len(magic)] == magic:
            raise ModelError(f"not an ONNX model but {what}.", where=str(path), advice="Name an .onnx file instead.")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's DecodeError, whose module has no types
        raise _unparsable(data, path) from error
    # Random bytes can parse as unknown fields: a model has at least a version and a graph.
    if not 0 < proto.ir_version < 1000 or not proto.HasField("graph"):
        raise _unparsable(data, path)
    return proto


def _unparsable(data: bytes, path: Path) -> ModelError:
    # ONNX files start with field 1, the IR version, a small number.
    if len(data) > 2 and data[0] == 0x08 and 2 < data[1] < 32:
        return ModelError("the file is truncated or damaged.", where=str(path), advice="Export or download it again.")
    return ModelError("not an ONNX model.", where=str(path), advice="Export one, for example with torch.onnx.export().")
