"""Files of PyTorch, read as PyTorch reads them; positions resized as PyTorch resizes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit.errors import ModelError
from edgevit.zoo.weights import read_tensors
from edgevit.zoo.weights.positions import resized

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def same(path: Path, wanted: dict[str, Any]) -> None:
    import torch

    got = read_tensors(path)
    assert list(got) == list(wanted)
    for name, tensor in wanted.items():
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()
        assert got[name].dtype == array.dtype
        np.testing.assert_array_equal(got[name], array)


@FORMATS
def test_types_and_views(tmp_path: Path, zipped: bool) -> None:
    import torch

    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tensors = {
        **{
            str(kind): base.to(kind)
            for kind in (
                *(torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32),
                *(torch.int16, torch.int8, torch.uint8, torch.bool),
            )
        },
        "base": base,
        "permuted": base.permute(2, 0, 1),
        "slice": base[1:, ::2, 3],
        "tied": base.view(12, 5),
        "parameter": torch.nn.Parameter(base[0].T),
        "channels last": torch.randn(1, 3, 4, 5).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
    }
    path = tmp_path / "a.pt"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    same(path, tensors)


@FORMATS
def test_training_checkpoint(tmp_path: Path, zipped: bool) -> None:
    import argparse

    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "arguments": argparse.Namespace(lr=0.1),
        "best": np.float64(0.5),
        "rng": torch.get_rng_state(),
        "state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
    }
    path = tmp_path / "checkpoint.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    same(path, model.state_dict())


@FORMATS
def test_whole_models_are_refused(tmp_path: Path, zipped: bool) -> None:
    import torch

    path = tmp_path / "model.pt"
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"whole object \(torch\.nn\.modules\.linear\.Linear\)"):
        read_tensors(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "model.pt"
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(ModelError, match="TorchScript"):
        read_tensors(path)


@pytest.mark.parametrize("size", [(24, 24), (7, 7), (20, 10), (14, 14), (3, 40)])
def test_positions_are_resized_alike(size: tuple[int, int]) -> None:
    import torch

    table = np.random.default_rng(0).standard_normal((1, 8, 14, 14), dtype=np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(table), size=size, mode="bicubic", align_corners=False)
    np.testing.assert_allclose(resized(table, *size), wanted.numpy(), atol=1e-5)
