"""What a loaded model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.model.metadata import Metadata

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape and element type of one input or output.

    Attributes:
        name: the tensor's name in the ONNX graph.
        shape: extent of every dimension, all known and positive.
        dtype: numpy name of the element type, such as ``float32``.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True)
class Model:
    """An ONNX model ready to compile.

    Attributes:
        proto: simplified, with static shapes, in inference form, weights inline.
        source: the file it came from, if any.
        sha256: of the source bytes; external data files are folded in, in name order.
        inputs: in graph order.
        outputs: in graph order.
        opset: version of the default ONNX operator set.
        notes: what loading changed, one sentence each.
        metadata: the file's own key-value metadata (``metadata_props``).
        about: what the model says of itself, merged from all sources: task, labels, preprocessing, detection.
    """

    proto: onnx.ModelProto
    source: Path | None
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    about: Metadata = field(default_factory=Metadata)
