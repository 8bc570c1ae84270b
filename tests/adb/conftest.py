"""A private adb server, and what all tests of phones share."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.model import Model
from tests.adb.phones import FakePhone, adb, fake_phone, private_server
from tests.conftest import missing
from tests.device.processes import free_port, nothing_left, wait_until

Attach = Callable[..., FakePhone]


@pytest.fixture(scope="session")
def adb_client() -> None:
    """The real adb client."""
    if not shutil.which("adb"):
        missing("adb is not installed")


@pytest.fixture(autouse=True)
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every process that the test causes carries this mark; it fails if one, or a temporary file, remains."""
    # Whatever a test does, it is not the user's adb server that it talks to.
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free_port()))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    monkeypatch.delenv("EDGEVIT_ADB", raising=False)
    with nothing_left(tmp_path, monkeypatch) as text:
        yield text


@pytest.fixture
def server(adb_client: None, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An adb server of the test's own."""
    folder = tmp_path / "adb-home"
    folder.mkdir()
    port = free_port()
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    with private_server(folder, port):
        yield


@pytest.fixture
def attach(server: None, tmp_path: Path) -> Iterator[Attach]:
    """Attaches phones; afterwards nothing may be left on them, nor a forward to them."""
    with contextlib.ExitStack() as stack:
        phones: list[FakePhone] = []

        def attach_one(**options: Any) -> FakePhone:
            phones.append(stack.enter_context(fake_phone(tmp_path / f"phone-{len(phones)}", **options)))
            return phones[-1]

        yield attach_one
        for phone in phones:
            assert wait_until(phone.empty), phone.left()
        assert wait_until(lambda: not adb("forward", "--list").strip())


@pytest.fixture
def phone(attach: Attach, qemu: None) -> FakePhone:
    """One phone."""
    return attach()


@pytest.fixture(scope="session")
def arm64_artifact(small_model: Model) -> Artifact:
    """``small_model`` for phones of 64 bits, not yet checked."""
    return compile_model(small_model, "android-arm64", verify=False)


@pytest.fixture(scope="session")
def arm64_file(arm64_artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``arm64_artifact`` as a file, beside the model that it was compiled from."""
    import onnx

    from tests.models import small_proto

    folder = tmp_path_factory.mktemp("arm64")
    onnx.save(small_proto(), folder / "model.onnx")
    arm64_artifact.save(folder / "small.edgevit")
    return folder / "small.edgevit"
