"""An artifact is whole, verified and reproducible, or refused with a reason."""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgevit.artifact import Artifact, load_artifact
from edgevit.errors import ArtifactError, UserError


@pytest.fixture
def saved(small_artifact: Artifact, tmp_path: Path) -> Path:
    return small_artifact.save(tmp_path / "small").path or tmp_path


@pytest.mark.parametrize("name", ["small.edgevit", "small"])
def test_what_is_saved_is_what_is_loaded(small_artifact: Artifact, tmp_path: Path, name: str) -> None:
    small_artifact.save(tmp_path / name)
    loaded = load_artifact(tmp_path / name)
    assert loaded.manifest == small_artifact.manifest
    assert loaded.library == small_artifact.library
    assert loaded.sha256 == small_artifact.sha256


def test_a_file_and_a_folder_are_the_same_artifact(small_artifact: Artifact, tmp_path: Path) -> None:
    small_artifact.save(tmp_path / "a")
    small_artifact.save(tmp_path / "a.edgevit")
    with zipfile.ZipFile(tmp_path / "a.edgevit") as archive:
        for name in archive.namelist():
            assert archive.read(name) == (tmp_path / "a" / name).read_bytes()
        assert sorted(archive.namelist()) == _names(tmp_path / "a")


def test_saving_twice_gives_the_same_bytes(small_artifact: Artifact, tmp_path: Path) -> None:
    small_artifact.save(tmp_path / "a.edgevit")
    small_artifact.save(tmp_path / "b.edgevit")
    assert (tmp_path / "a.edgevit").read_bytes() == (tmp_path / "b.edgevit").read_bytes()


def test_saving_replaces_an_older_artifact_and_leaves_nothing_else(small_artifact: Artifact, tmp_path: Path) -> None:
    for _ in range(2):
        small_artifact.save(tmp_path / "a")
        small_artifact.save(tmp_path / "a.edgevit")
    assert _names(tmp_path) == ["a", "a.edgevit"]
    load_artifact(tmp_path / "a")


def test_saving_never_replaces_a_folder_that_is_not_an_artifact(small_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years")
    with pytest.raises(ArtifactError, match="not an artifact"):
        small_artifact.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years"


def test_an_interrupted_save_leaves_nothing(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    monkeypatch.setattr(Path, "rename", interrupted)
    for name in ("a.edgevit", "a"):
        with pytest.raises(KeyboardInterrupt):
            small_artifact.save(tmp_path / name)
    assert _names(tmp_path) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(
    small_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(data[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    for name in ("a.edgevit", "a"):
        with pytest.raises(UserError, match="No space left on device"):
            small_artifact.save(tmp_path / name)
    assert _names(tmp_path) == []


def test_an_unwritable_folder_is_one_clear_error(small_artifact: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write") as caught:
        small_artifact.save(tmp_path / "missing" / "a.edgevit")
    assert caught.value.exit_code == 2
    assert caught.value.advice


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _edit_manifest(change: Callable[[dict[str, object]], None]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return spoil


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda f: _flip(f / "model.so"), "differs from the hash"),
    "a truncated library": (lambda f: os.truncate(f / "model.so", 100), "differs from the hash"),
    "no library": (lambda f: (f / "model.so").unlink(), "is missing"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "no manifest.json"),
    "a stranger": (lambda f: (f / "extra.so").write_bytes(b"x"), "not named in the manifest"),
    "a symbolic link": (lambda f: (f / "model.so").rename(f / "x") and (f / "model.so").symlink_to("x"), "plain file"),
    "no JSON": (lambda f: (f / "manifest.json").write_text("{"), "not JSON"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "format version None"),
    "another version": (_edit_manifest(lambda m: m.update(format_version=99)), "format version 99"),
    "an unknown key": (_edit_manifest(lambda m: m.update(surprise=1)), "surprise"),
    "a missing key": (_edit_manifest(lambda m: m.pop("model")), "model"),
    "a path for a name": (
        _edit_manifest(lambda m: m["files"].update({"../x": m["files"]["model.so"]})),  # type: ignore[index,attr-defined]
        "String should match pattern",
    ),
    "a manifest that names no library": (
        _edit_manifest(lambda m: m["library"].update(file="other.so")),  # type: ignore[index,attr-defined]
        "names no library",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_folder_is_refused(saved: Path, how: str) -> None:
    spoil, message = SPOILED[how]
    spoil(saved)
    with pytest.raises(ArtifactError, match=message):
        load_artifact(saved)


@pytest.mark.parametrize("keep", [0, 1, 50, 1000, 0.5, 0.99])
def test_a_truncated_file_is_refused(small_artifact: Artifact, tmp_path: Path, keep: float) -> None:
    path = tmp_path / "a.edgevit"
    small_artifact.save(path)
    os.truncate(path, int(keep if keep >= 1 or keep == 0 else path.stat().st_size * keep))
    with pytest.raises(ArtifactError, match="not a whole artifact"):
        load_artifact(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.edgevit", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        load_artifact(tmp_path / "a.edgevit")


def test_a_compressed_bomb_is_refused_unread(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.edgevit", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * (64 << 20))
    with pytest.raises(ArtifactError, match="compressed or too large"):
        load_artifact(tmp_path / "a.edgevit")


def test_a_name_that_occurs_twice_is_refused(saved: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.edgevit", "w") as archive:
        archive.write(saved / "manifest.json", "manifest.json")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("manifest.json", "{}")
    with pytest.raises(ArtifactError, match="occurs twice"):
        load_artifact(tmp_path / "a.edgevit")


def test_a_missing_artifact_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact") as caught:
        load_artifact(tmp_path / "a.edgevit")
    assert "edgevit compile" in str(caught.value.advice)


def test_the_manifest_names_what_shaped_the_bytes(small_artifact: Artifact) -> None:
    manifest, resolution = small_artifact.manifest, small_artifact.resolution
    assert [info.name for info in resolution.inputs] == ["image"]
    assert resolution.inputs[0].layout == "NCHW"
    assert [info.name for info in resolution.outputs] == ["logits", "features"]
    assert manifest.precision == "fp32"
    assert {"edgevit", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxsim", "linker"} <= set(manifest.tools)
    assert resolution.check.status == "not run"
    assert sum(manifest.kernels.values()) > 0


def test_nothing_of_the_machine_is_in_the_artifact(small_artifact: Artifact, tmp_path: Path) -> None:
    whole = (small_artifact.save(tmp_path / "a.edgevit").path or tmp_path).read_bytes()
    for private in (str(tmp_path), str(Path.home()), str(Path.cwd()), shutil.os.uname().nodename):  # type: ignore[attr-defined]
        assert private.encode() not in whole or len(private) < 5
