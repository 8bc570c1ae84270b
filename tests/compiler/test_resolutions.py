"""One artifact for several input shapes: right at each, chosen by the inputs, with one copy of the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import edgevit
from edgevit.artifact import Artifact
from edgevit.errors import UserError
from edgevit.link import Linker
from edgevit.model import Model, load, parse_resolutions
from edgevit.targets import get_target
from edgevit.tuning.records import Choice, Pick, TuningLog
from edgevit.zoo.mobilevit import build_mobilevit
from tests.tuning.making import pick

# 128 pixels: 4 × 4 cells at stride 32; 96: 3 × 3, which the last block must resize.
SIZES = ((128, 128), (96, 96), (64, 160))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MobileViT-XXS that leaves the image size open."""
    path = tmp_path_factory.mktemp("resolutions") / "open.onnx"
    onnx.save(build_mobilevit("xxs", classes=7, image_size=64, dynamic=True), path)
    return path


@pytest.fixture(scope="module")
def models(source: Path) -> list[Model]:
    return [load(source, shapes=(1, 3, *size)) for size in SIZES]


@pytest.fixture(scope="module")
def artifact(models: list[Model]) -> Artifact:
    """All sizes in one, each checked against ONNX Runtime."""
    return edgevit.compile(models, "host")


def image(height: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"pixel_values": np.random.default_rng(seed).random((1, 3, height, width), np.float32)}


def test_every_resolution_was_checked(artifact: Artifact) -> None:
    resolutions = artifact.manifest.resolutions
    assert [resolution.text for resolution in resolutions] == ["1x3x128x128", "1x3x96x96", "1x3x64x160"]
    assert {resolution.check.status for resolution in resolutions} == {"passed"}
    assert all(resolution.rest == {} for resolution in resolutions)
    assert len({resolution.entry for resolution in resolutions}) == len(SIZES)


@pytest.mark.parametrize("in_process", [True, False])
def test_the_inputs_shape_chooses_the_program(artifact: Artifact, source: Path, in_process: bool) -> None:
    reference = onnxruntime.InferenceSession(source)
    with edgevit.connect(in_process=in_process) as session, session.load(artifact) as loaded:
        for seed, size in enumerate([*SIZES, *reversed(SIZES)]):
            inputs = image(*size, seed)
            (expected,) = reference.run(None, inputs)
            for _ in range(2):
                np.testing.assert_allclose(loaded.run(inputs)["logits"], expected, atol=1e-5 * np.abs(expected).max())
            assert loaded.inputs[0].shape == (1, 3, *size)


def test_weights_are_there_once(models: list[Model]) -> None:
    from edgevit.compiler.lower import lower

    target = get_target("x86-64-v3")
    alone = [len(lower([model], target, TuningLog([])).weights) for model in models]
    # Layers that would pack their weights otherwise at another size take them as they are.
    assert len(lower(models, target, TuningLog([])).weights) <= max(alone) * 1.01


def test_records_do_not_unpack_what_is_packed(models: list[Model]) -> None:
    """A record for one size only must not cost the others a copy, nor their correctness."""
    from edgevit.accuracy.check import check
    from edgevit.compiler.compile import build
    from edgevit.compiler.program import KernelLibrary

    class Narrow(TuningLog):
        def find(self, workload: str, usable: Callable[[Choice], bool] = lambda _: True) -> Pick | None:
            wanted = workload.startswith("conv/") and int(workload[-1], 16) % 2
            choice = {"rows": 1, "vectors": 1, "block": 1, "panels": 1, "unroll": 1}
            return pick(workload, choice) if wanted and usable(choice, 1) else None

    target = get_target("host")
    assert KernelLibrary(target, Narrow([])).weights.size == 0
    built = build(models[:2], target, Linker(target), Narrow([]))
    with edgevit.connect() as session:
        for part, model in zip(built.resolutions(), models, strict=False):
            assert check(part, session, model, seeds=(0,)).passed


def test_a_resolution_can_be_selected(artifact: Artifact) -> None:
    assert artifact.at((1, 3, 96, 96)).selected == 1
    assert artifact.at({"pixel_values": (1, 3, 64, 160)}).resolution.outputs[0].shape == (1, 7)
    assert artifact.at(None) is artifact
    with pytest.raises(UserError, match="not compiled for these") as caught:
        artifact.at((1, 3, 32, 32))
    assert "1x3x128x128, 1x3x96x96, 1x3x64x160" in str(caught.value.advice)


def test_a_shape_that_is_not_served_is_refused(artifact: Artifact) -> None:
    with edgevit.connect(in_process=True) as session, session.load(artifact) as loaded:
        with pytest.raises(UserError, match=r"float32\[1, 3, 128, 128\] or float32\[1, 3, 96, 96\]"):
            loaded.run(image(32, 32))
        assert loaded.run(image(*SIZES[0]))["logits"].shape == (1, 7)


def test_benchmarks_measure_the_selected_one(artifact: Artifact) -> None:
    from edgevit.bench.result import Protocol

    brief = Protocol(name="brief", warmup_seconds=0, min_samples=2, min_seconds=0, max_seconds=60)
    with edgevit.connect() as session:
        result = edgevit.bench(artifact.at((1, 3, 64, 160)), session, protocol=brief)
    assert result.shapes == {"pixel_values": (1, 3, 64, 160)}


def test_saved_and_loaded_it_is_the_same(artifact: Artifact, tmp_path: Path) -> None:
    saved = artifact.save(tmp_path / "a.edgevit")
    again = edgevit.load_artifact(tmp_path / "a.edgevit")
    assert again.manifest == saved.manifest
    assert again.sha256 == saved.sha256


def test_what_is_no_set_of_resolutions(models: list[Model], small_model: Model) -> None:
    with pytest.raises(UserError, match="holds one model"):
        edgevit.compile([models[0], small_model])
    with pytest.raises(UserError, match="given twice"):
        edgevit.compile([models[0], models[0]])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], [None]),
        (["1x3x8x8"], [(1, 3, 8, 8)]),
        (["1x3x8x8", "1x3x9x9"], [(1, 3, 8, 8), (1, 3, 9, 9)]),
        (["a=1x2", "a=1x3"], [{"a": (1, 2)}, {"a": (1, 3)}]),
        (["a=1x2", "b=1x3"], [{"a": (1, 2), "b": (1, 3)}]),
        (["a=1,b=2", "a=3,b=4"], [{"a": (1,), "b": (2,)}, {"a": (3,), "b": (4,)}]),
    ],
)
def test_shape_options(texts: list[str], expected: object) -> None:
    assert parse_resolutions(texts) == expected


@pytest.mark.parametrize("texts", [["a=1", "b=2", "a=3"], ["1x2,3x4"], ["a=1,a=2"]])
def test_shape_options_that_leave_something_open(texts: list[str]) -> None:
    with pytest.raises(UserError, match="cannot read the shape"):
        parse_resolutions(texts)


def test_the_command_line(source: Path, tmp_path: Path) -> None:
    shapes = [option for size in (64, 96) for option in ("--shape", f"1x3x{size}x{size}")]
    done = run("compile", str(source), "--target", "host", *shapes, "-o", str(tmp_path / "m.edgevit"), "--json")
    manifest = json.loads(done.stdout)
    assert [entry["inputs"][0]["shape"] for entry in manifest["resolutions"]] == [[1, 3, 64, 64], [1, 3, 96, 96]]
    checked = run("check", str(tmp_path / "m.edgevit"), "--seeds", "1", "--calls", "1")
    assert "1x3x64x64" in checked.stdout
    assert "1x3x96x96" in checked.stdout
    timed = run(
        "bench", str(tmp_path / "m.edgevit"), "--shape", "1x3x96x96", "--samples", "2", "--seconds", "0", "--json"
    )
    assert json.loads(timed.stdout)["shapes"] == {"pixel_values": [1, 3, 96, 96]}


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_on_an_emulated_board(models: list[Model]) -> None:
    artifact = edgevit.compile(models[:2], "arm64-linux")
    assert [entry.check.where for entry in artifact.manifest.resolutions] == ["qemu", "qemu"]
    assert {entry.check.status for entry in artifact.manifest.resolutions} == {"passed"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from edgevit.cli.main import run; run()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)
