"""Weight files made by hand, byte by byte, from what is documented of their formats."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STORAGES = {
    "f4": "FloatStorage",
    "f8": "DoubleStorage",
    "f2": "HalfStorage",
    "i8": "LongStorage",
    "i4": "IntStorage",
    "i2": "ShortStorage",
    "i1": "CharStorage",
    "u1": "ByteStorage",
    "b1": "BoolStorage",
}


@dataclass(frozen=True)
class Raw:
    """Pickle opcodes that push one value."""

    code: bytes


@dataclass(frozen=True)
class Run:
    """A storage: its class, its key and its elements as they lie in the file."""

    kind: str
    key: str
    data: Array
    view: tuple[str, int, int] | None = None
    count: int | None = None

    @property
    def size(self) -> int:
        """Elements that the pickle claims."""
        return self.data.size if self.count is None else self.count


def bfloat16(numbers: Array) -> Array:
    """The upper halves of float32 numbers."""
    return (np.asarray(numbers, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def push(value: Any) -> bytes:
    """Opcodes, of protocol 2, that push a value."""
    if isinstance(value, Raw):
        return value.code
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, float):
        return b"G" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(push, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(push, value)) + b"e"
    if isinstance(value, Mapping):
        return b"}(" + b"".join(push(key) + push(item) for key, item in value.items()) + b"u"
    raise TypeError(type(value))


def call(module: str, name: str, *arguments: Any) -> Raw:
    """What REDUCE would make."""
    return Raw(f"c{module}\n{name}\n".encode() + push(arguments) + b"R")


def pickled(value: Any) -> bytes:
    """A whole pickle."""
    return b"\x80\x02" + push(value) + b"."


def run(data: Array, key: str) -> Run:
    """A storage of little-endian elements."""
    data = np.ascontiguousarray(data).reshape(-1)
    return Run(STORAGES[data.dtype.str[1:]], key, data.astype(data.dtype.newbyteorder("<")))


def tensor(
    storage: Run,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    *,
    legacy: bool = False,
    parameter: bool = False,
) -> Raw:
    """A view of a storage; strides of rows that follow each other if none are given."""
    if strides is None:
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    kind = Raw(f"ctorch\n{storage.kind}\n".encode())
    identifier = ("storage", kind, storage.key, "cuda:0", storage.size, *((storage.view,) if legacy else ()))
    stored = Raw(push(identifier) + b"Q")
    hooks = call("collections", "OrderedDict")
    view = call("torch._utils", "_rebuild_tensor_v2", stored, offset, shape, strides, False, hooks)
    return call("torch._utils", "_rebuild_parameter", view, True, hooks) if parameter else view


def state_dict(tensors: Mapping[str, Raw]) -> Raw:
    """An OrderedDict with the version numbers that PyTorch hangs on it."""
    empty = call("collections", "OrderedDict")
    items = b"(" + b"".join(push(name) + push(value) for name, value in tensors.items()) + b"u"
    return Raw(empty.code + items + push({"_metadata": {"": {"version": 1}}}) + b"b")


def zip_file(content: Any, runs: list[Run], *, byte_order: str = "little", root: str = "archive") -> bytes:
    """What torch.save writes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{root}/data.pkl", pickled(content))
        archive.writestr(f"{root}/byteorder", byte_order)
        for stored in runs:
            archive.writestr(f"{root}/data/{stored.key}", stored.data.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return buffer.getvalue()


def legacy_file(content: Any, runs: list[Run], *, little: bool = True) -> bytes:
    """What torch.save wrote before PyTorch 1.6."""
    about = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [0x1950A86A20F9469CFC6C, 1001, about, content, [stored.key for stored in runs]]
    data = [struct.pack("<q" if little else ">q", stored.data.size) + stored.data.tobytes() for stored in runs]
    return b"".join(map(pickled, parts)) + b"".join(data)


def safetensors_file(entries: Mapping[str, tuple[str, Array]], *, pad_to: int = 8) -> bytes:
    """Tensors as (name of the type, elements)."""
    header, data = {}, b""
    for name, (kind, array) in entries.items():
        raw = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % pad_to)
    return struct.pack("<Q", len(text)) + text + data


def simple(tensors: Mapping[str, Array], *, legacy: bool = False) -> bytes:
    """A state dict with a storage for every tensor."""
    runs = [run(array, str(index)) for index, array in enumerate(tensors.values())]
    views = [tensor(stored, array.shape, legacy=legacy) for stored, array in zip(runs, tensors.values(), strict=True)]
    content = state_dict(dict(zip(tensors, views, strict=True)))
    return legacy_file(content, runs) if legacy else zip_file(content, runs)
