"""Models built as ONNX from their definitions, without a training framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.zoo.catalogue import CATALOGUE, build
from edgevit.zoo.mobilevit import VARIANTS, build_mobilevit

if TYPE_CHECKING:
    import onnx

__all__ = ["CATALOGUE", "VARIANTS", "build", "build_mobilevit", "embedded_model"]


def embedded_model() -> onnx.ModelProto:
    """The demonstration's model: MobileViT-XXS at 256 pixels, 1,000 classes, seeded weights, with its metadata."""
    return build("mobilevit-xxs")
