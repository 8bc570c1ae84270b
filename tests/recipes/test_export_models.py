"""The exporter of public architectures: what it does without PyTorch, and how it judges a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevit.errors import ModelError, ToolchainError, UserError
from recipes.export_models import RECIPES, export, verify

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "export_models.py"
# Stands in for an environment without PyTorch, whatever the tests run in.
WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60
    )


def test_help_and_list_need_no_pytorch() -> None:
    assert "--exporter" in script("--help").stdout
    listed = script("--list")
    assert listed.returncode == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == list(RECIPES)


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["resnet_51"], 2, "resnet_51"),
        (["resnet_18", "resnet_51"], 2, "resnet_51"),
        ([], 2, "--list"),
        (["resnet_18"], 3, "torch"),
    ],
)
def test_a_refusal_is_one_line_that_names_the_cause(
    arguments: list[str], code: int, named: str, tmp_path: Path
) -> None:
    done = script(*arguments, "-o", str(tmp_path))
    assert done.returncode == code
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("error: ")
    assert named in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_exporter_that_cannot_write_the_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--exporter dynamo"):
        export("mobilevit_v2", tmp_path, exporter="torchscript")


def test_a_missing_package_is_a_toolchain_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ToolchainError, match="torch"):
        export("resnet_18", tmp_path)


def judge(folder: Path, nodes: list[onnx.NodeProto], expected_gain: float = 2.0) -> None:
    """Verify a graph from ``x`` to ``y``, 1×4, that should multiply by ``expected_gain``."""
    graph = helper.make_graph(
        nodes,
        "line",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.float32(2), "two"), numpy_helper.from_array(np.float32(0), "zero")],
    )
    path = folder / "line.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    images = [np.random.default_rng(seed).standard_normal((1, 4)).astype(np.float32) for seed in range(2)]
    verify(path, images, [image * np.float32(expected_gain) for image in images], "line")


def test_a_faithful_file_passes(tmp_path: Path) -> None:
    judge(tmp_path, [helper.make_node("Mul", ["x", "two"], ["y"])])


def test_a_random_file_is_not_deterministic(tmp_path: Path) -> None:
    noise = [helper.make_node("RandomNormalLike", ["x"], ["n"]), helper.make_node("Add", ["x", "n"], ["y"])]
    with pytest.raises(ModelError, match="not deterministic"):
        judge(tmp_path, noise)


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="differ by"):
        judge(tmp_path, [helper.make_node("Mul", ["x", "two"], ["y"])], expected_gain=2.001)


def test_a_file_that_ignores_its_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="do not depend on the image"):
        judge(tmp_path, [helper.make_node("Mul", ["x", "zero"], ["y"])], expected_gain=0.0)


def test_infinite_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not finite"):
        judge(tmp_path, [helper.make_node("Div", ["x", "zero"], ["y"])], expected_gain=float("inf"))


def test_a_file_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot run it"):
        judge(tmp_path, [helper.make_node("NoSuchOperator", ["x"], ["y"])])
