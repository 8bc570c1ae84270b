"""MobileViT built from its definition: published figures, sound numbers, the same bytes every time."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from edgevit.errors import UserError
from edgevit.model import describe, from_proto
from edgevit.zoo import VARIANTS, build_mobilevit
from edgevit.zoo.graph import GraphBuilder
from edgevit.zoo.mobilevit_layers import Grid, fold, unfold

PUBLISHED = {"xxs": (1.3e6, 0.4e9), "xs": (2.3e6, 1.0e9), "s": (5.6e6, 2.0e9)}


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pixel_values": x})[0])


def images(size: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((1, 3, size, size), np.float32)


def parameters_in_use(proto: onnx.ModelProto) -> int:
    """Float elements that layers read, equal tensors that an exporter merged counted for each layer."""
    graph = proto.graph
    aliases = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    sizes = {
        tensor.name: math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.dims and tensor.data_type == TensorProto.FLOAT
    }
    total = 0
    for n in graph.node:
        names = [] if n.op_type == "Identity" else list(n.input)
        for name in names:
            while name in aliases:
                name = aliases[name]
            total += sizes.get(name, 0)
    return total


def running_statistics(proto: onnx.ModelProto) -> list[int]:
    """Channels of each batch normalization."""
    sizes = {tensor.name: tensor.dims[0] for tensor in proto.graph.initializer if tensor.dims}
    return [sizes[n.input[4]] for n in proto.graph.node if n.op_type == "BatchNormalization"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_figures(variant: str) -> None:
    parameters, macs = PUBLISHED[variant]
    proto = build_mobilevit(variant)
    # Running means and variances are not parameters.
    assert parameters_in_use(proto) - 2 * sum(running_statistics(proto)) == pytest.approx(parameters, rel=0.025)
    report = describe(from_proto(proto))
    assert report.macs == pytest.approx(macs, rel=0.03)
    assert report.task == "classification"
    assert report.compilable
    assert "BatchNormalization" not in report.operators


@pytest.mark.parametrize("variant", VARIANTS)
def test_as_many_parameters_as_a_public_implementation(variant: str, shared_models: Path) -> None:
    public = onnx.load(shared_models / f"mobilevit_{variant}.onnx")
    proto = build_mobilevit(variant)
    # The public export has its batch norms folded: of four vectors each, a bias is left.
    folded = parameters_in_use(proto) - 3 * sum(running_statistics(proto))
    assert folded == parameters_in_use(public)


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_are_finite_and_depend_on_the_input(variant: str) -> None:
    proto = build_mobilevit(variant)
    a, b = run(proto, images(seed=0)), run(proto, images(seed=1))
    assert a.shape == (1, 1000)
    assert np.isfinite(a).all()
    assert 0.1 < a.std() < 100
    assert np.abs(a - b).max() > 1e-3 * np.abs(a).max()


def test_loading_keeps_the_numbers() -> None:
    proto = build_mobilevit("xxs")
    want = run(proto, images())
    np.testing.assert_allclose(run(from_proto(proto).proto, images()), want, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("size", "resizes"), [(32, 1), (64, 0), (100, 2), (224, 1), (320, 0)])
def test_any_size(size: int, resizes: int) -> None:
    proto = build_mobilevit("xxs", image_size=size, classes=7)
    # Blocks whose feature map is no multiple of the patch resize it, and back.
    assert sum(n.op_type == "Resize" for n in proto.graph.node) == 2 * resizes
    logits = run(proto, images(size))
    assert logits.shape == (1, 7)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("patches", [(3, 3, 3), (4, 4, 4), (8, 4, 2)])
def test_other_patches_are_other_numbers_with_the_same_weights(patches: tuple[int, int, int]) -> None:
    base, other = build_mobilevit("xs"), build_mobilevit("xs", patches=patches)
    assert parameters_in_use(base) == parameters_in_use(other)
    assert not np.allclose(run(base, images()), run(other, images()))
    # Feature maps of 32, 16 and 8 cells.
    resizes = sum(n.op_type == "Resize" for n in other.graph.node)
    assert resizes == 2 * sum(cells % patch != 0 for cells, patch in zip((32, 16, 8), patches, strict=True))


@pytest.mark.parametrize(("patch", "rows", "columns"), [(2, 3, 5), (3, 2, 2), (8, 1, 2)])
def test_unfold_gives_a_sequence_to_every_position_in_a_patch(patch: int, rows: int, columns: int) -> None:
    channels = 6
    g = GraphBuilder("unfold", 0)
    x = g.input("pixel_values", (1, channels, rows * patch, columns * patch))
    grid = Grid(patch, rows, columns)
    tokens = unfold(g, x, "tokens", grid)
    g.output("image", fold(g, tokens, "folded", grid, (rows * patch, columns * patch)))
    proto = g.build()
    proto.graph.output.append(onnx.ValueInfoProto(name="tokens"))
    image = np.random.default_rng(0).random((1, channels, rows * patch, columns * patch), np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    folded, sequences = session.run(None, {"pixel_values": image})
    np.testing.assert_array_equal(folded, image)
    assert sequences.shape == (patch * patch, rows * columns, channels)
    for y in range(rows * patch):
        for x_ in range(columns * patch):
            position, token = y % patch * patch + x_ % patch, y // patch * columns + x_ // patch
            np.testing.assert_array_equal(sequences[position, token], image[0, :, y, x_])


@pytest.mark.parametrize("patches", [(2, 2, 2), (8, 4, 2)])
@pytest.mark.parametrize("size", [(160, 160), (256, 256), (224, 320), (33, 70)])
def test_open_size(size: tuple[int, int], patches: tuple[int, int, int]) -> None:
    x = np.random.default_rng(0).random((1, 3, *size), np.float32)
    static = build_mobilevit("xxs", image_size=size, patches=patches)
    want = run(static, x)
    proto = build_mobilevit("xxs", patches=patches, dynamic=True)
    shape = proto.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value or dim.dim_param for dim in shape] == [1, 3, "height", "width"]
    np.testing.assert_allclose(run(proto, x), want, atol=1e-5 * np.abs(want).max())
    loaded = from_proto(proto, shapes=(1, 3, *size)).proto
    np.testing.assert_allclose(run(loaded, x), want, atol=1e-5 * np.abs(want).max())
    # Nothing is computed from the size any more; what resizes to the same size is the compiler's to drop.
    counts, plain = (Counter(n.op_type for n in p.graph.node) for p in (loaded, from_proto(static).proto))
    assert set(counts - plain) <= {"Resize"}
    assert not plain - counts


def test_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    def weights(**kwargs: int) -> dict[str, bytes]:
        proto = build_mobilevit("xxs", **kwargs)
        return {t.name: t.raw_data for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT}

    base, other_seed, other_head = weights(), weights(seed=1), weights(classes=5, image_size=64)
    assert base["stem.conv.weight"] != other_seed["stem.conv.weight"]
    assert {name for name in base if base[name] != other_head[name]} == {
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_same_bytes_in_every_process() -> None:
    script = (
        "import hashlib; from edgevit.zoo import embedded_model;"
        "print(hashlib.sha256(embedded_model().SerializeToString(deterministic=True)).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize(
    ("variant", "kwargs", "match"),
    [
        ("xxl", {}, "no MobileViT"),
        ("xs", {"image_size": 16}, "too small"),
        ("xs", {"image_size": (64, 31)}, "too small"),
        ("s", {"classes": 0}, "no classifier"),
        ("s", {"patches": (2, 2)}, "fit no MobileViT"),
        ("s", {"patches": (2, 0, 2)}, "fit no MobileViT"),
    ],
)
def test_refusals(variant: str, kwargs: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        build_mobilevit(variant, **kwargs)
