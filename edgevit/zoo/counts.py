"""Parameters and multiply-accumulates of the zoo's models, counted on their graphs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.zoo.catalogue import Built, build

if TYPE_CHECKING:
    import onnx

_TRAINED = ("weight", "bias", "class_token", "positions")
"""Last part of the names of what training finds; the rest are running statistics and constants."""


@dataclass(frozen=True)
class Counts:
    """Size of a model.

    Attributes:
        parameters: trained ones: running statistics of batch norms and constants such as anchors are none.
        macs: multiply-accumulates of one image, as :mod:`edgevit.model.macs` counts them.
    """

    parameters: int
    macs: int


def count(built: Built) -> Counts:
    """Parameters of a model and its multiply-accumulates at the image size it was built at."""
    from onnx import shape_inference

    from edgevit.model.macs import count_macs

    proto = built.proto
    if built.dynamic:
        proto = build(
            built.entry.name,
            task=built.task,
            image_size=built.image_size,
            classes=built.classes,
            patches=built.patches,
        )
    macs, uncounted = count_macs(shape_inference.infer_shapes(proto, data_prop=True).graph)
    assert not uncounted, f"{built.entry.name}: {uncounted[0].name}"
    return Counts(_parameters(proto), macs)


def _parameters(proto: onnx.ModelProto) -> int:
    tensors = proto.graph.initializer
    return sum(math.prod(tensor.dims) for tensor in tensors if tensor.name.rpartition(".")[2] in _TRAINED)
