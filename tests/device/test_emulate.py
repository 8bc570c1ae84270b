"""Other processors' code under QEMU: the whole way over RPC."""

from __future__ import annotations

import psutil
import pytest

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.errors import DeviceLost, DeviceMismatch, DeviceTimeout, ToolchainError
from edgevit.model import Model
from edgevit.targets import get_target
from tests.device.processes import later, marked, wait_until
from tests.device.reference import LONG, assert_same, expected, small_input, typed_input

pytestmark = [pytest.mark.emulated, pytest.mark.usefixtures("qemu")]

TARGETS = ("arm64-linux", "armv7-linux")


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Name of a target that QEMU runs."""
    return str(request.param)


@pytest.fixture(scope="module")
def artifact(target: str, small_model: Model) -> Artifact:
    """``small_model`` for it."""
    return compile_model(small_model, target, verify=False)


def test_computes_the_same(target: str, artifact: Artifact, small_model: Model, typed_model: Model) -> None:
    with connect(emulate=get_target(target)) as session:
        info = session.describe()
        assert session.emulated
        assert info.emulated
        assert info.architecture == get_target(target).architecture
        typed = compile_model(typed_model, target, verify=False)
        for model, built, draw in (
            (small_model, artifact, small_input),
            (typed_model, typed, typed_input),
            (small_model, artifact, small_input),
        ):
            with session.load(built) as loaded:
                for seed in (0, 1):
                    assert_same(loaded.run(draw(seed)), expected(model, draw(seed)))
                    assert_same(loaded.invoke(), expected(model, draw(seed)))
        with session.load(artifact) as loaded:
            assert loaded.set_threads(1) == 1
            usage = loaded.usage()
            assert usage.threads == 1
            assert usage.cpu_seconds is not None


def test_foreign_artifact(target: str, small_artifact: Artifact) -> None:
    with connect(emulate=get_target(target)) as session, pytest.raises(DeviceMismatch):
        session.load(small_artifact)


@pytest.mark.parametrize("which", ["all", "oldest", "youngest"])
def test_killed_in_the_middle_of_a_call(which: str, mark: str, target: str, artifact: Artifact) -> None:
    def kill() -> None:
        servers = sorted(
            (p for p in marked(mark, containing="edgevit-server") if p.cmdline()[0] != "/bin/sh"),
            key=psutil.Process.create_time,
        )
        for process in {"all": servers, "oldest": servers[:1], "youngest": servers[-1:]}[which]:
            process.kill()

    with connect(emulate=get_target(target)) as session, session.load(artifact) as loaded:
        loaded.set_inputs(small_input(0))
        with later(0.5, kill), pytest.raises(DeviceLost):
            loaded.time(LONG)
    assert wait_until(lambda: not marked(mark))


def test_hangs_in_the_middle_of_a_call(mark: str, target: str, artifact: Artifact) -> None:
    def stop() -> None:
        for process in marked(mark, containing="edgevit-server"):
            process.suspend()

    with connect(emulate=get_target(target)) as session, session.load(artifact) as loaded:
        loaded.set_inputs(small_input(0))
        with later(0.3, stop), pytest.raises(DeviceTimeout):
            loaded.time(LONG, timeout=1)


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ToolchainError, match="not installed"):
        connect(emulate=get_target("arm64-linux"))
    with pytest.raises(ToolchainError, match="no emulator"):
        connect(emulate=get_target("apple-silicon"))
