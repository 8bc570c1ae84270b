"""Artifacts for Metal, each compiled once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

import edgevit
from edgevit import zoo
from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.model import Model
from tests.models import small_proto


@dataclass(frozen=True)
class Compiled:
    """A model's file and its artifact, saved beside it."""

    source: Path
    model: Model
    artifact: Artifact

    @property
    def path(self) -> Path:
        assert self.artifact.path is not None
        return self.artifact.path


def compiled(folder: Path, proto: onnx.ModelProto, name: str, target: str, *sizes: int) -> Compiled:
    """Compile a model, at several image sizes if they are given."""
    source = folder / f"{name}.onnx"
    onnx.save(proto, source)
    shapes = [(1, 3, size, size) for size in sizes] or [None]
    models = [edgevit.load(source, shapes=shape) for shape in shapes]
    artifact = compile_model(models, target, verify=False)
    return Compiled(source, models[0], artifact.save(folder / f"{name}-{target}.edgevit"))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Two outputs, no preprocessing."""
    return compiled(tmp_path_factory.mktemp("small"), small_proto(), "small", "metal-ios")


@pytest.fixture(scope="session")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """MobileViT-XXS at 64 pixels, with labels and preprocessing."""
    proto = zoo.build("mobilevit-xxs", image_size=64)
    return compiled(tmp_path_factory.mktemp("vit"), proto, "vit", "metal-macos")


@pytest.fixture(scope="session")
def two_sizes(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """One artifact for 32 and 48 pixels."""
    proto = small_proto()
    for value in (proto.graph.input[0], proto.graph.output[1]):
        for axis, name in ((2, "height"), (3, "width")):
            dimension = value.type.tensor_type.shape.dim[axis]
            dimension.Clear()
            dimension.dim_param = f"{value.name}_{name}"
    return compiled(tmp_path_factory.mktemp("sizes"), proto, "sizes", "metal-macos", 32, 48)
