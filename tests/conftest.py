"""Fixtures every test may use."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgevit.artifact import Artifact
from edgevit.model import Model

REQUIRE_ALL = bool(os.environ.get("EDGEVIT_REQUIRE_ALL"))
"""Set where everything is installed: then a missing tool is a failure, not a skip."""


def missing(reason: str) -> None:
    """Skip the test, or fail it where nothing may be missing."""
    if REQUIRE_ALL:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session", autouse=True)
def _no_records_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What somebody has tuned on this machine decides nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_TUNING_DIR", str(tmp_path_factory.mktemp("no-records")))
        yield


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder with MobileViT exports that edgevit did not make."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "models"
    if not (folder / "mobilevit_xxs.onnx").is_file():
        missing("the folder of public MobileViT exports is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def qemu() -> None:
    """Both QEMU user-mode emulators."""
    for name in ("qemu-aarch64", "qemu-arm"):
        if not (shutil.which(f"{name}-static") or shutil.which(name)):
            missing(f"{name}-static is not installed")


@pytest.fixture(scope="session")
def small_model() -> Model:
    """A convolution, an activation and a matrix product, with two outputs."""
    from edgevit.model import from_proto
    from tests.models import small_proto

    return from_proto(small_proto())


@pytest.fixture(scope="session")
def small_artifact(small_model: Model) -> Artifact:
    """``small_model`` compiled for this machine, not yet checked."""
    from edgevit.compiler.compile import compile_model

    return compile_model(small_model, "host", verify=False)
