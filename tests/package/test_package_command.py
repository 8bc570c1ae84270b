"""``edgevit package``: what it says, what it refuses, what it leaves alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

import edgevit
from edgevit.compiler.compile import compile_model
from edgevit.errors import EdgevitError
from edgevit.package import package_artifact
from tests.models import small_proto
from tests.package.conftest import Compiled


def package(*arguments: object) -> str:
    from edgevit.cli.main import app

    result = CliRunner().invoke(app, ["package", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_says_what_was_written_and_executed(small: Compiled, tmp_path: Path) -> None:
    said = package(small.path, "--for", "ios", "-o", tmp_path / "app")
    assert "an Xcode project" in said
    assert "executed in emulation: largest error" in said
    assert "no Mac has compiled it and no GPU has run it" in said
    assert (tmp_path / "app" / "EdgevitApp.xcodeproj" / "project.pbxproj").is_file()


def test_json_and_the_default_folder(small: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = json.loads(package(small.path, "--for", "macos", "--no-verify", "--json"))
    assert (said["path"], said["for"], said["launches"], said["emulated"]) == ("small-macos", "macos", 4, False)
    assert said["reason"] == "the user asked for no check"
    assert said["bytes"] == sum(map(len, contents(tmp_path / "small-macos").values()))


def test_the_same_artifact_gives_the_same_bytes(small: Compiled, tmp_path: Path) -> None:
    for name in ("one", "other"):
        package(small.path, "--for", "macos", "-o", tmp_path / name)
    assert contents(tmp_path / "one") == contents(tmp_path / "other")


def test_shape_chooses_the_program(two_sizes: Compiled, tmp_path: Path) -> None:
    package(two_sizes.path, "--for", "macos", "-o", tmp_path / "p", "--shape", "1x3x48x48", "--no-verify")
    plan = json.loads((tmp_path / "p" / "Sources" / "EdgevitKit" / "Model" / "plan.json").read_text())
    assert plan["inputs"][0]["shape"] == [1, 3, 48, 48]


def test_a_folder_with_content_stays_unless_forced(small: Compiled, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    package(small.path, "--for", "ios", "--no-verify", "-o", folder)
    (folder / "notes.txt").write_text("mine")
    before = contents(folder)
    with pytest.raises(EdgevitError, match="not empty") as refused:
        package(small.path, "--for", "ios", "--no-verify", "-o", folder)
    assert refused.value.exit_code == 2
    assert contents(folder) == before
    package(small.path, "--for", "ios", "--no-verify", "-o", folder, "--force")
    assert "notes.txt" not in contents(folder)


def test_a_file_is_never_replaced(small: Compiled, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(EdgevitError, match="a file is there"):
        package(small.path, "--for", "ios", "-o", tmp_path / "file", "--force")


def test_other_systems_do_not_exist_so_far(small: Compiled, tmp_path: Path) -> None:
    with pytest.raises(EdgevitError, match="'android': only ios and macos exist so far") as refused:
        package(small.path, "--for", "android", "-o", tmp_path / "p")
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("target", "said"), [("host", "for the CPU of host"), ("android-opencl-adreno", "for OpenCL, on the GPU of")]
)
def test_other_artifacts_are_refused(small: Compiled, tmp_path: Path, target: str, said: str) -> None:
    path = tmp_path / "other.edgevit"
    compile_model(small.model, target, verify=False).save(path)
    with pytest.raises(EdgevitError, match=said) as refused:
        package(path, "--for", "ios", "-o", tmp_path / "p")
    assert refused.value.exit_code == 2
    assert not (tmp_path / "p").exists()


def test_another_model_is_refused(small: Compiled, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    onnx.save(small_proto(seed=1), other)
    with pytest.raises(EdgevitError, match="not the model"):
        package(small.path, "--for", "ios", "-o", tmp_path / "p", "--reference", other)
    with pytest.raises(EdgevitError, match="another model"):
        package_artifact(small.artifact, edgevit.load(other), "ios", tmp_path / "p")
    assert list(tmp_path.iterdir()) == [other]


def test_exit_code_and_advice(small: Compiled, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from edgevit.cli.main import run; run()", "package", str(small.path), "--for", "linux"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "Use --for ios or --for macos." in done.stderr


def test_a_machine_that_cannot_emulate_says_so(
    small: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevit.package.write.available", lambda _target: "kernels of GPUs are emulated on Linux only")
    said = package(small.path, "--for", "macos", "-o", tmp_path / "p")
    assert "not executed: kernels of GPUs are emulated on Linux only" in said
    assert "have not been executed: kernels of GPUs" in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
