"""Where the ONNX file of an artifact is looked for, and what is said when it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.errors import ArtifactError, EdgevitError
from edgevit.model import load
from edgevit.sources import load_source
from tests.models import small_proto


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Compiled from ``small.onnx`` in a folder of its own."""
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "small.onnx").write_bytes(small_proto().SerializeToString())
    return compile_model(load(folder / "small.onnx"), "host", verify=False).save(folder / "small.edgevit")


def test_beside_the_artifact(artifact: Artifact, tmp_path: Path) -> None:
    assert load_source(artifact, None, near=tmp_path / "work").sha256 == artifact.manifest.model.sha256


def test_a_file_that_cannot_be_loaded_is_named_not_called_missing(artifact: Artifact, tmp_path: Path) -> None:
    metadata = tmp_path / "work" / "small.toml"
    metadata.write_text("task = \n")
    with pytest.raises(EdgevitError) as raised:
        load_source(artifact, None, near=tmp_path / "work")
    assert str(metadata) in str(raised.value)


def test_another_model_of_that_name_is_not_it(artifact: Artifact, tmp_path: Path) -> None:
    for name in ("elsewhere", "cache"):
        (tmp_path / name).mkdir(exist_ok=True)
    other = small_proto()
    other.graph.name = "another"
    (tmp_path / "work" / "small.onnx").unlink()
    (tmp_path / "elsewhere" / "small.onnx").write_bytes(other.SerializeToString())
    with pytest.raises(ArtifactError, match=r"small\.onnx, is not beside it or where it was"):
        load_source(artifact, None, near=tmp_path / "elsewhere")
