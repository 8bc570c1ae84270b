"""Packages' files, executed as an app executes them, against ONNX Runtime."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from edgevit.accuracy.images import prepare
from edgevit.accuracy.inputs import seeded_inputs
from edgevit.emulate.library import read_shipped
from edgevit.errors import ArtifactError, CheckFailed
from edgevit.model.metadata import Preprocessing
from edgevit.package import package_artifact
from edgevit.package.plan import Plan
from edgevit.package.project import MODEL_FOLDER
from edgevit.package.run import PackagedModel, verify
from tests.package.conftest import Compiled


@pytest.fixture(scope="module")
def vit_folder(vit: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder ``Model`` of a package for macOS."""
    folder = tmp_path_factory.mktemp("package") / "vit"
    packaged = package_artifact(vit.artifact, vit.model, "macos", folder)
    assert packaged.error is not None
    assert packaged.error < 0.005
    return folder / MODEL_FOLDER["macos"]


def plan_of(folder: Path) -> Plan:
    return Plan.model_validate_json((folder / "plan.json").read_bytes())


def test_mobilevit_computes_what_onnx_runtime_computes(vit: Compiled, vit_folder: Path) -> None:
    packaged = PackagedModel(vit_folder)
    assert packaged.plan.emulated
    session = ort.InferenceSession(str(vit.source), providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(77)
    pictures = [draw.random((1, 3, 64, 64), np.float32) for _ in range(2)]
    for picture in (*pictures, pictures[0]):
        (expected,) = session.run(["logits"], {"pixel_values": picture})
        actual = packaged.predict({"pixel_values": picture})["logits"]
        assert np.abs(actual - expected).max() < 0.005 * np.abs(expected).max()
        assert actual.argmax() == expected.argmax()


def test_texts_are_those_of_the_artifact(vit: Compiled, vit_folder: Path) -> None:
    shipped = read_shipped(vit.artifact).kernels
    files = {path.name.removesuffix(".metal.txt"): path.read_bytes() for path in (vit_folder / "kernels").iterdir()}
    assert files == {name: kernel.text.encode() for name, kernel in shipped.items()}
    assert {launch.kernel for launch in plan_of(vit_folder).launches} == files.keys()


def test_expected_outputs_are_onnx_runtimes(small: Compiled, tmp_path: Path) -> None:
    package_artifact(small.artifact, small.model, "ios", tmp_path / "p", verify=False)
    folder = tmp_path / "p" / MODEL_FOLDER["ios"]
    check = plan_of(folder).check
    (at,) = check.inputs
    given = np.frombuffer((folder / "input.bin").read_bytes(), np.float32, at.bytes // 4, at.offset)
    session = ort.InferenceSession(str(small.source), providers=["CPUExecutionProvider"])
    wanted = session.run(["logits", "features"], {"image": given.reshape(1, 3, 32, 32)})
    expected = (folder / "expected.bin").read_bytes()
    for stretch, array in zip(check.outputs, wanted, strict=True):
        part = np.frombuffer(expected, np.float32, stretch.bytes // 4, stretch.offset).reshape(array.shape)
        np.testing.assert_allclose(part, array, atol=1e-5)
    assert (check.tolerance, check.reference) == (0.005, f"onnxruntime {ort.__version__}")


def test_sample_picture_and_its_tensor_belong_together(vit_folder: Path) -> None:
    plan = plan_of(vit_folder)
    assert plan.preprocessing is not None
    assert plan.labels is not None
    assert (plan.image_input, plan.task, len(plan.labels)) == (0, "classification", 1000)
    stated: Preprocessing = plan.preprocessing
    with Image.open(vit_folder / "sample.png") as picture:
        wanted = prepare(picture, stated, 64, 64)
    assert (vit_folder / "sample.bin").read_bytes() == wanted.tobytes()


@pytest.mark.parametrize("size", [32, 48])
def test_each_size_of_an_artifact_can_be_packaged(two_sizes: Compiled, tmp_path: Path, size: int) -> None:
    import edgevit

    artifact = two_sizes.artifact.at((1, 3, size, size))
    model = edgevit.load(two_sizes.source, shapes=(1, 3, size, size))
    assert package_artifact(artifact, model, "macos", tmp_path / "p").error is not None
    plan = plan_of(tmp_path / "p" / MODEL_FOLDER["macos"])
    assert plan.inputs[0].shape == (1, 3, size, size)
    assert plan.outputs[1].shape == (1, 8, size // 2, size // 2)


def test_a_wrong_weight_fails_verification(small: Compiled, tmp_path: Path) -> None:
    package_artifact(small.artifact, small.model, "ios", tmp_path / "p", verify=False)
    folder = tmp_path / "p" / MODEL_FOLDER["ios"]
    weights = np.frombuffer((folder / "weights.bin").read_bytes(), np.float16).copy()
    weights[5] += 1
    (folder / "weights.bin").write_bytes(weights.tobytes())
    with pytest.raises(CheckFailed, match="fp16 allows"):
        verify(folder, small.model, seeds=(0,), calls=1)


def test_launches_in_another_order_fail_verification(small: Compiled, tmp_path: Path) -> None:
    """A kernel then reads what nobody has written yet."""
    package_artifact(small.artifact, small.model, "ios", tmp_path / "p", verify=False)
    folder = tmp_path / "p" / MODEL_FOLDER["ios"]
    plan = json.loads((folder / "plan.json").read_text())
    plan["launches"].reverse()
    (folder / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(CheckFailed, match="uninitialised read"):
        verify(folder, small.model, seeds=(0,), calls=1)


def test_nothing_is_left_of_an_earlier_call(small: Compiled, tmp_path: Path) -> None:
    package_artifact(small.artifact, small.model, "ios", tmp_path / "p", verify=False)
    packaged = PackagedModel(tmp_path / "p" / MODEL_FOLDER["ios"])
    first, other = (seeded_inputs(packaged.plan.inputs, seed) for seed in (3, 4))
    wanted = packaged.predict(first)
    packaged.predict(other)
    again = packaged.predict(first)
    assert all((wanted[name] == again[name]).all() for name in wanted)


@pytest.mark.parametrize("name", ["weights.bin", "plan.json", "kernels/reduce_1_kernel.metal.txt"])
def test_missing_files_are_named(small: Compiled, tmp_path: Path, name: str) -> None:
    package_artifact(small.artifact, small.model, "ios", tmp_path / "p", verify=False)
    folder = tmp_path / "p" / MODEL_FOLDER["ios"]
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=Path(name).name):
        PackagedModel(folder)
