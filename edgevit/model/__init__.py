"""ONNX models: load, check, simplify, describe. Knows nothing of the compiler that comes after."""

from __future__ import annotations

from edgevit.model.describe import ModelReport, describe
from edgevit.model.load import from_proto, load
from edgevit.model.shapes import parse_resolutions, parse_shape, parse_shapes
from edgevit.model.types import Model, TensorSpec

__all__ = [
    "Model",
    "ModelReport",
    "TensorSpec",
    "describe",
    "from_proto",
    "load",
    "parse_resolutions",
    "parse_shape",
    "parse_shapes",
]
