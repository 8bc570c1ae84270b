"""Weights in files beside the model: read, hashed, and never from outside its folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx_graphs import conv_model, run, save

from edgevit.errors import ModelError
from edgevit.model import load


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """A model in a folder of its own whose weights lie in ``weights.bin`` beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save_model(conv_model(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def redirect(path: Path, location: str, **entries: str) -> None:
    """Let every external tensor point at ``location``."""
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
            elif entry.key in entries:
                entry.value = entries[entry.key]
    path.write_bytes(proto.SerializeToString())


def test_external_data_is_read(split: Path, tmp_path: Path) -> None:
    loaded, inline = load(split), load(save(conv_model(), tmp_path))
    assert loaded.proto.SerializeToString() == inline.proto.SerializeToString()
    assert all(tensor.data_location == TensorProto.DEFAULT for tensor in loaded.proto.graph.initializer)
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8), np.float32)
    np.testing.assert_allclose(run(loaded.proto, x=x)[0], run(conv_model(), x=x)[0], rtol=1e-5, atol=1e-6)


def test_hash_covers_the_weights(split: Path) -> None:
    before = load(split).sha256
    weights = split.with_name("weights.bin")
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.write_bytes(data)
    assert load(split).sha256 != before


def test_hash_does_not_depend_on_the_folder(split: Path) -> None:
    before = load(split).sha256
    moved = split.parent.rename(split.parent.with_name("moved")) / split.name
    assert load(moved).sha256 == before


def test_subfolder(split: Path) -> None:
    folder = split.with_name("data")
    folder.mkdir()
    split.with_name("weights.bin").rename(folder / "weights.bin")
    redirect(split, "data/weights.bin")
    assert load(split).inputs


def test_missing(split: Path) -> None:
    split.with_name("weights.bin").unlink()
    with pytest.raises(ModelError, match=r"tensor 'w': external data file 'weights\.bin' is missing"):
        load(split)


def test_too_short(split: Path) -> None:
    weights = split.with_name("weights.bin")
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"tensor '\w': file 'weights\.bin' is too short"):
        load(split)


@pytest.mark.parametrize(
    "location",
    [
        "../weights.bin",
        "data/../../weights.bin",
        "/etc/hostname",
        "..\\weights.bin",
        "C:\\weights.bin",
        "C:weights.bin",
    ],
)
def test_paths_out_of_the_folder(split: Path, location: str) -> None:
    (split.parent.parent / "weights.bin").write_bytes(split.with_name("weights.bin").read_bytes())
    redirect(split, location)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(split)


def test_link_out_of_the_folder(split: Path) -> None:
    weights = split.with_name("weights.bin")
    outside = weights.rename(split.parent.parent / "outside.bin")
    weights.symlink_to(outside)
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(split)


def test_linked_folder(split: Path) -> None:
    outside = split.parent.parent / "outside"
    outside.mkdir()
    split.with_name("weights.bin").rename(outside / "weights.bin")
    split.with_name("data").symlink_to(outside)
    redirect(split, "data/weights.bin")
    with pytest.raises(ModelError, match="outside the model's folder"):
        load(split)


def test_link_within_the_folder(split: Path) -> None:
    weights = split.with_name("weights.bin")
    weights.rename(split.with_name("blob"))
    weights.symlink_to("blob")
    assert load(split).inputs


@pytest.mark.parametrize("location", ["", ".", "a\0b", "x" * 5000, "data/"])
def test_odd_locations(split: Path, location: str) -> None:
    split.with_name("data").mkdir()
    redirect(split, location)
    with pytest.raises(ModelError, match="tensor 'w'"):
        load(split)


@pytest.mark.parametrize("entries", [{"offset": "-1"}, {"offset": "many"}, {"length": "1"}, {"offset": "99999999999"}])
def test_odd_extents(split: Path, entries: dict[str, str]) -> None:
    redirect(split, "weights.bin", **entries)
    with pytest.raises(ModelError, match="tensor"):
        load(split)


def test_limit_counts_external_data(split: Path) -> None:
    size = split.stat().st_size + split.with_name("weights.bin").stat().st_size
    with pytest.raises(ModelError, match="over the limit"):
        load(split, max_bytes=size // 2)
    assert load(split, max_bytes=size).inputs


def test_tensor_of_petabytes(split: Path) -> None:
    proto = onnx.load(split, load_external_data=False)
    proto.graph.initializer[0].dims[:] = [1 << 40, 1 << 10]
    split.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="over the limit"):
        load(split)
