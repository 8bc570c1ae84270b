"""Artifacts of GPU targets, executed through sessions and the command line; faults planted in the shipped text."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import edgevit
from edgevit.artifact import Artifact, file_info, load_artifact
from edgevit.device.connect import connect
from edgevit.device.emulate import connect_emulated
from edgevit.emulate import available
from edgevit.emulate.library import Shipped, read_shipped
from edgevit.emulate.session import connect_gpu
from edgevit.errors import ArtifactError, DeviceError, DeviceLost, DeviceMismatch, ToolchainError, UserError
from edgevit.targets import get_target
from tests.models import small_proto

TARGETS = {"opencl": "android-opencl-adreno", "metal": "metal-macos", "archive": "metal-ios"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.onnx`` and its artifacts, not checked."""
    from edgevit.compiler.compile import compile_model

    path = tmp_path_factory.mktemp("gpu")
    onnx.save(small_proto(), path / "small.onnx")
    model = edgevit.load(path / "small.onnx")
    for name, target in TARGETS.items():
        compile_model(model, target, verify=False).save(path / f"{name}.edgevit")
    compile_model(model, TARGETS["opencl"], precision="fp32", verify=False).save(path / "opencl32.edgevit")
    return path


def check(path: Path, *options: str, code: int = 0) -> str:
    from edgevit.cli.main import app

    result = CliRunner().invoke(app, ["check", str(path), "--emulate", *options], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def edited(artifact: Artifact, change: Callable[[bytes], bytes]) -> Artifact:
    """The artifact with other bytes in its library, and a manifest that fits them."""
    name = artifact.manifest.library.file
    library = change(artifact.library)
    assert library != artifact.library
    assert len(library) == len(artifact.library)
    files = {**artifact.files, name: library}
    infos = {**artifact.manifest.files, name: file_info(library)}
    return replace(artifact, files=files, manifest=artifact.manifest.model_copy(update={"files": infos}))


def blanked(part: bytes) -> Callable[[bytes], bytes]:
    def change(library: bytes) -> bytes:
        assert part in library
        return library.replace(part, b" " * len(part))

    return change


@pytest.mark.parametrize("name", ["opencl", "opencl32", "metal", "archive"])
def test_check_passes_and_records_what_it_proved(folder: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.edgevit"
    shutil.copy(folder / f"{name}.edgevit", path)
    said = json.loads(check(path, "--json", "--seeds", "1", "--reference", str(folder / "small.onnx")))
    assert said["passed"]
    assert said["emulated"]
    launches = load_artifact(path).resolution.launches
    assert said["proof"]["launches"] == len(launches)
    assert said["proof"]["kernels"] == len({launch.kernel for launch in launches})
    assert said["proof"]["issued_bytes"] >= said["proof"]["distinct_bytes"] > 0
    verdict = load_artifact(path).resolution.check
    assert (verdict.status, verdict.hardware, verdict.where) == ("passed", False, "emulated kernels")
    assert any("no race" in line for line in verdict.proof)
    assert verdict.unconfirmed
    assert any("front end" in line for line in verdict.proof) == name.startswith("opencl")


def test_check_says_what_was_not_confirmed(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "metal.edgevit"
    shutil.copy(folder / "metal.edgevit", path)
    arguments = ("--seeds", "1", "--reference", str(folder / "small.onnx"))
    said = check(path, *arguments)
    assert "not confirmed: no GPU" in said
    assert "The artifact's manifest now says so." in said
    assert "The artifact's manifest says so already." in check(path, *arguments)


def test_pocl_agrees(folder: Path, tmp_path: Path, pocl: None) -> None:
    path = tmp_path / "opencl32.edgevit"
    shutil.copy(folder / "opencl32.edgevit", path)
    said = json.loads(check(path, "--json", "--seeds", "1", "--reference", str(folder / "small.onnx")))
    assert said["proof"]["second"].startswith("PoCL ")
    verdict = load_artifact(path).resolution.check
    assert any(line.startswith("PoCL ") for line in verdict.proof)


def test_pocl_is_not_asked_about_fp16(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "opencl.edgevit"
    shutil.copy(folder / "opencl.edgevit", path)
    said = check(path, "--seeds", "1", "--reference", str(folder / "small.onnx"))
    assert "not run: PoCL (PoCL computes no fp16)" in said


@pytest.mark.parametrize(
    ("name", "part"),
    [("opencl", b"barrier(CLK_LOCAL_MEM_FENCE);"), ("metal", b"threadgroup_barrier(mem_flags::mem_threadgroup);")],
)
def test_shipped_text_without_barriers_fails(folder: Path, tmp_path: Path, name: str, part: bytes) -> None:
    artifact = edited(load_artifact(folder / f"{name}.edgevit"), blanked(part)).save(tmp_path / "bad.edgevit")
    assert artifact.path
    before = artifact.path.read_bytes()
    with pytest.raises(edgevit.errors.CheckFailed, match=r"race|uninitialised") as caught:
        check(artifact.path, "--reference", str(folder / "small.onnx"))
    assert caught.value.exit_code == 1
    assert artifact.path.read_bytes() == before


def test_shipped_text_with_a_wrong_index_fails(folder: Path, tmp_path: Path) -> None:
    def change(library: bytes) -> bytes:
        return library.replace(b"get_group_id(0)", b"get_group_id(1)")

    bad = edited(load_artifact(folder / "opencl.edgevit"), change).save(tmp_path / "bad.edgevit")
    assert bad.path
    with pytest.raises(edgevit.errors.CheckFailed) as caught:
        check(bad.path, "--reference", str(folder / "small.onnx"))
    assert caught.value.exit_code == 1


def test_a_library_without_its_blob(folder: Path, tmp_path: Path) -> None:
    bad = edited(load_artifact(folder / "opencl.edgevit"), blanked(b"relax.VMExecutable"))
    with connect_emulated(get_target(TARGETS["opencl"])) as session, pytest.raises(ArtifactError, match="no program"):
        session.load(bad)


def test_a_program_that_calls_what_the_manifest_does_not_launch(folder: Path) -> None:
    artifact = load_artifact(folder / "opencl.edgevit")
    resolution = artifact.resolution.model_copy(update={"launches": artifact.resolution.launches[1:]})
    missing = artifact.resolution.launches[0].function
    manifest = artifact.manifest.model_copy(update={"resolutions": (resolution,)})
    with (
        connect_emulated(get_target(TARGETS["opencl"])) as session,
        pytest.raises(edgevit.errors.CheckFailed, match=f"the program calls {missing}, which launches no kernel"),
    ):
        session.load(replace(artifact, manifest=manifest))


def test_a_manifest_cannot_replace_functions_of_the_runtime(folder: Path) -> None:
    artifact = load_artifact(folder / "opencl.edgevit")
    bad = artifact.resolution.launches[0].model_copy(update={"function": "vm.builtin.copy"})
    resolution = artifact.resolution.model_copy(update={"launches": (*artifact.resolution.launches, bad)})
    manifest = artifact.manifest.model_copy(update={"resolutions": (resolution,)})
    with (
        connect_emulated(get_target(TARGETS["opencl"])) as session,
        pytest.raises(DeviceError, match=r"'vm\.builtin\.copy' is no name of a compiled function"),
    ):
        session.load(replace(artifact, manifest=manifest))


def test_a_fault_names_the_layers(folder: Path, tmp_path: Path) -> None:
    def change(library: bytes) -> bytes:
        return library.replace(b"get_local_id(0)", b"get_group_id(0)")

    bad = edited(load_artifact(folder / "opencl.edgevit"), change).save(tmp_path / "bad.edgevit")
    assert bad.path
    with pytest.raises(edgevit.errors.CheckFailed, match="race") as caught:
        check(bad.path, "--reference", str(folder / "small.onnx"))
    assert caught.value.where
    assert "conv" in caught.value.where


def test_a_kernel_that_crashes_is_an_error_here(folder: Path) -> None:
    import numpy as np

    artifact = load_artifact(folder / "opencl.edgevit")
    shipped = read_shipped(artifact)
    name = artifact.resolution.launches[0].kernel
    text = shipped.kernels[name].text
    start = text.rindex("{", 0, text.index(";", text.rindex(name)) + 1)
    crash = replace(shipped.kernels[name], text=text[: start + 1] + " __builtin_trap(); " + text[start + 1 :])
    with pytest.MonkeyPatch.context() as patch, connect_emulated(get_target(TARGETS["opencl"])) as session:
        other = Shipped(shipped.api, {**shipped.kernels, name: crash}, shipped.machine)
        patch.setattr("edgevit.emulate.session.read_shipped", lambda _: other)
        model = session.load(artifact)
        with pytest.raises(DeviceLost):
            model.run({"image": np.zeros((1, 3, 32, 32), np.float32)})


def test_times_are_refused(folder: Path) -> None:
    artifact = load_artifact(folder / "metal.edgevit")
    with connect(emulate=artifact.manifest.target) as session, session.load(artifact) as model:
        assert session.describe().kind == "emulated"
        assert session.describe().emulated
        for ask in (model.time, model.profile):
            with pytest.raises(UserError, match="no times"):
                ask(1)
        with pytest.raises(UserError, match="not tuned"):
            session.workbench()


def test_a_batch_is_as_good_as_single_runs(folder: Path) -> None:
    import numpy as np

    artifact = load_artifact(folder / "opencl.edgevit")
    draw = np.random.default_rng(0)
    inputs = [{"image": draw.standard_normal((1, 3, 32, 32)).astype(np.float32)} for _ in range(3)]
    with connect(emulate=artifact.manifest.target, checked=False) as session, session.load(artifact) as model:
        for single, one in zip(inputs, model.run_batch(inputs), strict=True):
            for name, array in model.run(single).items():
                np.testing.assert_array_equal(one[name], array)


def test_artifacts_for_cpus_are_refused(small_artifact: Artifact) -> None:
    with connect_emulated(get_target(TARGETS["opencl"])) as session, pytest.raises(DeviceMismatch, match="for the CPU"):
        session.load(small_artifact)


def test_targets_without_a_gpu() -> None:
    target = get_target("android-arm64")
    assert available(target) == "android-arm64 has no GPU"
    with pytest.raises(ToolchainError, match="has no GPU"):
        connect_gpu(target)


def test_compiling_for_a_gpu_executes_the_kernels(folder: Path) -> None:
    from edgevit.compiler.compile import compile_model

    artifact = compile_model(edgevit.load(folder / "small.onnx"), TARGETS["opencl"])
    verdict = artifact.resolution.check
    assert (verdict.status, verdict.where, verdict.hardware) == ("passed", "emulated kernels", False)
    assert verdict.proof
