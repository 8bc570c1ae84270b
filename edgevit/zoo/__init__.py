"""Models built as ONNX from their definitions, without a training framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.zoo.catalogue import CATALOGUE, build
from edgevit.zoo.mobilevit import VARIANTS, build_mobilevit
from edgevit.zoo.trained import make_trained

if TYPE_CHECKING:
    import onnx

__all__ = ["CATALOGUE", "VARIANTS", "build", "build_mobilevit", "embedded_model", "make_trained"]


def embedded_model() -> onnx.ModelProto:
    """The demonstration's model: MobileViT-XXS, trained to tell apart the classes of :mod:`edgevit.data`."""
    return make_trained("cls").proto
