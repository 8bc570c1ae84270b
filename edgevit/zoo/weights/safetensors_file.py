"""Tensors of safetensors files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgevit.errors import ModelError
from edgevit.zoo.seeding import Array
from edgevit.zoo.weights.checkpoint import unwrapped
from edgevit.zoo.weights.floats import from_bfloat16

_CODES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "?",
}


def read_safetensors(path: Path) -> dict[str, Array]:
    """Tensors by name; bfloat16 becomes float32.

    Raises:
        ModelError: the file is damaged, or a tensor's elements cannot be imported.
    """
    from safetensors import SafetensorError, deserialize

    read: Any = deserialize
    try:
        entries = read(path.read_bytes())
    except (SafetensorError, ValueError, OverflowError) as error:
        raise ModelError(
            f"the file is damaged: {str(error)[:200]}.", where=str(path), advice="Fetch or save the file again."
        ) from error
    return unwrapped({name: _array(name, entry, path) for name, entry in entries})


def _array(name: str, entry: dict[str, object], path: Path) -> Array:
    code = _CODES.get(str(entry["dtype"]))
    if code is None:
        raise ModelError(
            f"tensor {name} has elements of type {entry['dtype']}, which cannot be imported.",
            where=str(path),
            advice="Save the model in float32, not quantized.",
        )
    flat: Array = np.frombuffer(entry["data"], code).reshape(entry["shape"])  # type: ignore[call-overload]
    return from_bfloat16(flat) if entry["dtype"] == "BF16" else flat
