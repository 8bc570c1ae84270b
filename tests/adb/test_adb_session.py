"""A session with a phone through the real adb client, and each way not to get one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.adb_client import choose_phone
from edgevit.device.connect import connect
from edgevit.errors import DeviceError, DeviceLost, DeviceMismatch, DeviceUnreachable, ToolchainError, UserError
from edgevit.model import Model
from tests.adb.conftest import Attach
from tests.adb.phones import FakePhone, adb
from tests.device.processes import client_that_times, later, marked, wait_until
from tests.device.reference import LONG, assert_same, expected, small_input

pytestmark = pytest.mark.emulated


def test_computes_the_same_and_leaves_nothing(phone: FakePhone, small_model: Model, arm64_artifact: Artifact) -> None:
    adb("-s", phone.serial, "forward", "tcp:0", "tcp:4711")  # somebody else's
    theirs = adb("forward", "--list")
    with connect(adb="") as session:
        info = session.describe()
        assert (info.kind, info.emulated, info.address) == ("adb", True, f"adb {phone.serial}")
        assert info.phone is not None
        assert info.phone.text == "Google Pixel 8, Google Tensor G3, Android 14"
        state = session.condition()
        assert state is not None
        assert (state.cpu_temperature_c, state.battery_percent, state.screen_on) == (41.0, 87, True)
        with session.load(arm64_artifact) as loaded:
            for seed in (0, 1):
                assert_same(loaded.run(small_input(seed)), expected(small_model, small_input(seed)))
        assert not phone.empty()
        assert len(adb("forward", "--list").split("\n")) > len(theirs.split("\n"))
    assert wait_until(phone.empty)
    assert wait_until(lambda: adb("forward", "--list") == theirs)
    adb("forward", "--remove-all")


def test_an_old_phone_without_the_shell_protocol(attach: Attach, qemu: None, small_model: Model) -> None:
    """It runs what is for Linux, too: the server brings its own loader."""
    attach(features="cmd")
    artifact = compile_model(small_model, "arm64-linux", verify=False)
    with connect(adb="") as session, session.load(artifact) as loaded:
        assert_same(loaded.run(small_input(0)), expected(small_model, small_input(0)))


def test_an_artifact_for_the_gpu(phone: FakePhone, small_model: Model) -> None:
    artifact = compile_model(small_model, "android-opencl-adreno", verify=False)
    with connect(adb="") as session, pytest.raises(DeviceMismatch, match="has no OpenCL device"):
        session.load(artifact)


def test_what_a_switched_off_phone_left_is_removed(phone: FakePhone, arm64_artifact: Artifact) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    storage = phone.root / "data/local/tmp"
    (storage / f"edgevit-{ended.pid}-0123").mkdir()
    (storage / f"edgevit-{os.getpid()}-0123").mkdir()
    (storage / "mine").mkdir()
    with connect(adb="") as session:
        session.describe()
    assert wait_until(lambda: phone.left() == [f"edgevit-{os.getpid()}-0123", "mine"])
    for path in storage.iterdir():
        path.rmdir()


@pytest.mark.parametrize("variable", [False, True])
def test_several_phones(variable: bool, attach: Attach, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = attach(), attach(phone="samsung")
    with pytest.raises(UserError, match=r"2 phones are attached(?=.*Pixel 8)(?=.*SM S911B).*--adb SERIAL"):
        choose_phone()
    if variable:
        monkeypatch.setenv("ANDROID_SERIAL", second.serial)
    assert choose_phone("" if variable else second.serial).serial == second.serial
    assert choose_phone(first.serial).serial == first.serial
    with pytest.raises(DeviceUnreachable, match=r"no phone of that serial.*Pixel 8"):
        connect(adb="R58M12ABCDE")


@pytest.mark.usefixtures("server")
def test_no_phone() -> None:
    with pytest.raises(DeviceUnreachable, match=r"no phone is attached.*USB debugging"):
        connect(adb="")


def test_a_phone_that_does_not_trust_this_machine(attach: Attach) -> None:
    attach(authorised=False)
    with pytest.raises(DeviceUnreachable, match=r"does not allow debugging.*accept the dialog"):
        connect(adb="")


def test_no_space(phone: FakePhone) -> None:
    phone.tell("full")
    with pytest.raises(DeviceError, match=r"no space left in /data/local/tmp"):
        connect(adb="")


def test_a_processor_without_server(attach: Attach) -> None:
    attach(properties={"ro.product.cpu.abi": "x86", "ro.product.cpu.abilist": "x86"})
    with pytest.raises(DeviceMismatch, match=r"no server for x86\."):
        connect(adb="")


def test_artifact_for_another_processor(phone: FakePhone, small_artifact: Artifact) -> None:
    with connect(adb="") as session, pytest.raises(DeviceMismatch, match=r"artifact is for .*architecture is aarch64"):
        session.load(small_artifact)


def test_no_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_ADB", "/no/such/adb")
    with pytest.raises(ToolchainError, match=r"not installed.*platform-tools"):
        connect(adb="")


def test_unplugged_in_the_middle_of_a_call(phone: FakePhone, arm64_artifact: Artifact) -> None:
    with connect(adb="") as session, session.load(arm64_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        with later(0.5, lambda: phone.tell("unplug")), pytest.raises(DeviceLost, match="Is the cable in"):
            loaded.time(LONG)
    assert wait_until(phone.empty)
    with pytest.raises(DeviceUnreachable):
        connect(adb=phone.serial, timeout=1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_client_ends(number: signal.Signals, phone: FakePhone, arm64_file: Path, mark: str) -> None:
    client = client_that_times('adb=""', arm64_file)
    with contextlib.ExitStack() as stack:
        stack.callback(client.communicate)
        stack.callback(client.kill)
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.readline() == b"ready\n", client.stderr.read()
        assert not phone.empty()
        client.send_signal(number)
        client.wait(timeout=30)
        if number == signal.SIGINT:
            assert client.stderr.read() == b""
        assert wait_until(phone.empty)
        assert wait_until(lambda: not adb("forward", "--list").strip())
        assert wait_until(lambda: not marked(mark, containing=" shell "))
