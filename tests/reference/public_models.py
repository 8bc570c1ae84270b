"""Public implementations with random weights, and the zoo's models that shall compute the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevit.zoo.deit import build_deit
from edgevit.zoo.mobilenet_v2 import build_mobilenet_v2
from edgevit.zoo.mobilevit import build_mobilevit
from edgevit.zoo.mobilevit_v2 import build_mobilevit_v2
from edgevit.zoo.weights import builder_options, import_weights, read_tensors

Array = NDArray[Any]

TOLERANCE = 1e-4
"""Largest error, as a share of the largest magnitude of the reference."""

FORMATS = ("safetensors", "zip", "legacy")


@dataclass(frozen=True)
class Pair:
    """A model of transformers and one of the zoo.

    Attributes:
        model: class of transformers.
        config: class of its configuration.
        settings: of the configuration.
        build: the zoo's.
        size: height and width of the image.
    """

    model: str
    config: str
    settings: dict[str, Any]
    build: Callable[..., onnx.ModelProto]
    size: int


_XXS = {"hidden_sizes": [64, 80, 96], "neck_hidden_sizes": [16, 16, 24, 48, 64, 80, 320], "expand_ratio": 2.0}
_XS = {"hidden_sizes": [96, 120, 144], "neck_hidden_sizes": [16, 32, 48, 64, 80, 96, 384]}
_S = {"hidden_sizes": [144, 192, 240], "neck_hidden_sizes": [16, 32, 64, 96, 128, 160, 640]}
_DEIT_TINY = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}


def _mobilevit(variant: str, settings: dict[str, Any]) -> Pair:
    return Pair(
        "MobileViTForImageClassification",
        "MobileViTConfig",
        {"num_labels": 1000, **settings},
        lambda **options: build_mobilevit(variant, **options),
        256,
    )


def _segmentation(variant: str, settings: dict[str, Any]) -> Pair:
    return Pair(
        "MobileViTForSemanticSegmentation",
        "MobileViTConfig",
        {"num_labels": 21, "output_stride": 16, **settings},
        lambda **options: build_mobilevit(variant, task="seg", **options),
        512,
    )


PAIRS = {
    "mobilevit-xxs": _mobilevit("xxs", _XXS),
    "mobilevit-xs": _mobilevit("xs", _XS),
    "mobilevit-s": _mobilevit("s", _S),
    "mobilevit-xxs-seg": _segmentation("xxs", _XXS),
    "mobilevit-s-seg": _segmentation("s", _S),
    "mobilevitv2-1.0": Pair(
        "MobileViTV2ForImageClassification", "MobileViTV2Config", {"num_labels": 1000}, build_mobilevit_v2, 256
    ),
    "mobilenetv2": Pair(
        "MobileNetV2ForImageClassification", "MobileNetV2Config", {"num_labels": 1001}, build_mobilenet_v2, 224
    ),
    # The published DeiT-tiny without a distillation token is a ViT in transformers.
    "deit-tiny": Pair("ViTForImageClassification", "ViTConfig", {"num_labels": 1000, **_DEIT_TINY}, build_deit, 224),
}


@dataclass(frozen=True)
class Sample:
    """What a public model computes.

    Attributes:
        model: of PyTorch.
        image: float32 (1, 3, size, size).
        logits: float32.
    """

    model: Any
    image: Array
    logits: Array

    def assert_close(self, got: Array) -> None:
        """Within the tolerance of the reference; ``pytest -s`` shows by how much."""
        assert got.shape == self.logits.shape
        assert np.isfinite(got).all()
        error = np.abs(got - self.logits).max() / np.abs(self.logits).max()
        print(f"max abs error {error:.1e} of max |torch|")
        assert error <= TOLERANCE


def sample(pair: Pair) -> Sample:
    """The public model with random weights and statistics, and its output for a random image."""
    import torch
    import transformers

    model = getattr(transformers, pair.model)(getattr(transformers, pair.config)(**pair.settings)).eval()
    draw = np.random.default_rng(0)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(_random(name, tuple(tensor.shape), draw)))
        _settle(model, draw.standard_normal((2, 3, pair.size, pair.size), dtype=np.float32))
        image = draw.standard_normal((1, 3, pair.size, pair.size), dtype=np.float32)
        logits = model(torch.from_numpy(image)).logits.numpy()
    return Sample(model, image, logits)


def save(model: Any, folder: Path, form: str) -> Path:
    """The model's weights as a file."""
    import torch

    if form == "safetensors":
        model.save_pretrained(folder)
        return folder / "model.safetensors"
    path = folder / f"{form}.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=form == "zip")
    return path


def imported(pair: Pair, path: Path) -> onnx.ModelProto:
    """The zoo's model with the weights of a file."""
    tensors = read_tensors(path)
    proto = pair.build(**builder_options(tensors))
    import_weights(proto, tensors)
    return proto


def _settle(model: Any, images: Array) -> None:
    """Give batch norms the statistics of some images, so that activations stay in a realistic range."""
    import torch

    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    model(torch.from_numpy(images))
    model.eval()


def _random(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> Array:
    """Weights that keep the variance of what they are applied to; scales near 1."""
    numbers = draw.standard_normal(shape, dtype=np.float32)
    if len(shape) < 2:
        return 0.1 * numbers + np.float32(name.endswith(("weight", "running_var")))
    if "token" in name or "position" in name:
        return 0.3 * numbers
    return numbers / np.float32(math.sqrt(math.prod(shape[1:])))
