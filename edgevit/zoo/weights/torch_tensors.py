"""Tensors as ``torch.save`` pickles them: strided views of storages that are kept outside the pickle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgevit.errors import ModelError
from edgevit.zoo.seeding import Array
from edgevit.zoo.weights.floats import from_bfloat16
from edgevit.zoo.weights.pickle_reader import Opaque, PickleMachine, kind_of

ByteOrder = Literal["<", ">"]

_MOST_AXES = 16

_ELEMENTS = {
    "FloatStorage": ("f4", 4),
    "DoubleStorage": ("f8", 8),
    "HalfStorage": ("f2", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("i8", 8),
    "IntStorage": ("i4", 4),
    "ShortStorage": ("i2", 2),
    "CharStorage": ("i1", 1),
    "ByteStorage": ("u1", 1),
    "BoolStorage": ("?", 1),
    # Elements that cannot be imported; their size is needed to find what lies behind them.
    "ComplexFloatStorage": (None, 8),
    "ComplexDoubleStorage": (None, 16),
    "QUInt8Storage": (None, 1),
    "QInt8Storage": (None, 1),
    "QInt32Storage": (None, 4),
    "QUInt4x2Storage": (None, 1),
    "QUInt2x4Storage": (None, 1),
}
"""NumPy's code and the bytes of one element, by class of storage."""


@dataclass(frozen=True)
class Storage:
    """A run of elements.

    Attributes:
        kind: class of storage.
        key: of the data in the file.
        start: element of the data that is its first.
        size: elements.
    """

    kind: str
    key: str
    start: int
    size: int

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return _ELEMENTS[self.kind][1]


@dataclass(frozen=True)
class Tensor:
    """A view of a storage; offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Of its elements."""
        return math.prod(self.shape) * self.storage.width


def machine(persistent: Callable[[Any], Any], where: str) -> PickleMachine:
    """A pickle machine that knows what state dicts are made of.

    Args:
        persistent: turns a persistent id into a :class:`Storage`, or something opaque.
        where: the file, for errors.
    """
    calls: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _ordered,
        "collections.defaultdict": lambda *_: {},
        "torch.Size": lambda sizes=(): tuple(sizes),
        "torch._utils._rebuild_tensor": _view,
        "torch._utils._rebuild_tensor_v2": _view,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    }
    return PickleMachine(calls, persistent, where)


def storage(kind: Any, key: Any, start: Any, size: Any) -> Storage | Opaque:
    """The storage that a persistent id names, opaque where its class is unknown.

    Raises:
        ValueError: the numbers are no sizes.
    """
    module, _, name = kind_of(kind).rpartition(".")
    if module not in ("torch", "torch.cuda") or name not in _ELEMENTS or not isinstance(key, str):
        return Opaque(kind_of(kind))
    if not _sizes((start, size)):
        raise ValueError("a storage's size is no size")
    return Storage(name, key, start, size)


def to_array(name: str, tensor: Tensor, data: bytes, byte_order: ByteOrder, where: str) -> Array:
    """A tensor's elements, as a read-only view of the data where that is possible; bfloat16 becomes float32.

    Args:
        name: of the tensor, for errors.
        tensor: read from the pickle.
        data: of its storage's key.
        byte_order: of the data, ``<`` or ``>``.
        where: the file, for errors.

    Raises:
        ModelError: it reaches outside its storage, repeats elements, or has elements that cannot be imported.
    """
    store = tensor.storage
    code, width = _ELEMENTS[store.kind]
    if code is None:
        raise ModelError(
            f"tensor {name} has the elements of a {store.kind}, which cannot be imported.",
            where=where,
            advice="Save the model in float32, not quantized.",
        )
    count = math.prod(tensor.shape)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    if (count and last >= store.size) or len(data) < (store.start + store.size) * width:
        raise ModelError(
            f"tensor {name} reaches outside its storage.", where=where, advice="Fetch or save the file again."
        )
    if count > store.size:
        raise ModelError(
            f"tensor {name} repeats the elements of its storage.",
            where=where,
            advice="Save it after calling .contiguous().",
        )
    kind = np.dtype("u2" if code == "bfloat16" else code).newbyteorder(byte_order)
    run = np.frombuffer(data, kind, count=store.size, offset=store.start * width)
    # Strides that are never taken may be any number, also one that NumPy cannot hold.
    steps = [step * width if count and size > 1 else 0 for size, step in zip(tensor.shape, tensor.strides, strict=True)]
    view = np.lib.stride_tricks.as_strided(run[tensor.offset :], tensor.shape, steps, writeable=False)
    return from_bfloat16(view) if code == "bfloat16" else view


def _ordered(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    return {key: value for key, value in pairs if isinstance(key, (str, int))}


def _view(store: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor | Opaque:
    if not isinstance(store, Storage):
        return Opaque(f"torch.Tensor of {kind_of(store)}")
    if len(shape) != len(strides) or len(shape) > _MOST_AXES or not _sizes((offset, *shape, *strides)):
        raise ValueError("a tensor's shape or strides are no sizes")
    if math.prod(size for size in shape if size) >= 1 << 48:
        raise ValueError("a tensor is larger than any memory")
    return Tensor(store, offset, tuple(shape), tuple(strides))


def _sizes(numbers: Iterable[Any]) -> bool:
    return all(type(number) is int and 0 <= number < 1 << 48 for number in numbers)
