"""``edgevit info``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx_graphs import conv_model, model, node, save, value

from edgevit.cli.info import info
from edgevit.errors import CheckFailed, ModelError


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(save(conv_model(), tmp_path))
    out = capsys.readouterr().out
    assert "1x3x8x8 float32" in out
    assert "classification" in out
    assert "198" in out  # parameters
    assert "GlobalAveragePool" in out


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info(save(conv_model(), tmp_path), as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert content["parameters"] == 198
    assert content["compilable"] is True


def test_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(model([node("Relu", ["x"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])]), tmp_path)
    with pytest.raises(ModelError, match="no fixed dimension"):
        info(path)
    info(path, shape=["x=2x4"], as_json=True)
    assert json.loads(capsys.readouterr().out)["outputs"][0]["shape"] == [2, 4]


def test_unsupported_operators_are_listed_and_the_answer_is_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(model([node("Frobnicate", ["x"], ["y"], name="bad[red]node")]), tmp_path)
    with pytest.raises(CheckFailed) as caught:
        info(path)
    assert caught.value.exit_code == 1
    assert "bad[red]node" in capsys.readouterr().out
