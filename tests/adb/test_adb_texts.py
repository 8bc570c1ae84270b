"""What adb prints, in its versions and its moods, is read as it is meant."""

from __future__ import annotations

import pytest

from edgevit.device.adb_client import AdbDevice, adb_failure, parse_devices
from edgevit.device.adb_fleet import phone_key
from edgevit.device.adb_server import triple_for
from edgevit.errors import DeviceError, DeviceMismatch, DeviceUnreachable, ToolchainError

LISTED = """\
* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
38261FDJH001AB         device usb:1-4 product:shiba model:Pixel_8 device:shiba transport_id:1
R5CT20ABCDE            unauthorized usb:1-3 transport_id:2
192.0.2.7:5555         offline transport_id:3
emulator-5554          device product:sdk_gphone64_arm64 model:sdk_gphone64_arm64 device:emu64a transport_id:4
0123456789ABCDEF       no permissions (missing udev rules? user is in the plugdev group); see \
[http://developer.android.com/tools/device.html] usb:1-2 transport_id:5
adb-R5CT20ABCDE-xyZ._adb-tls-connect._tcp device product:dm1q model:SM_S911B device:dm1q transport_id:6

"""


def test_list() -> None:
    assert parse_devices(LISTED) == [
        AdbDevice("38261FDJH001AB", "device", "Pixel_8"),
        AdbDevice("R5CT20ABCDE", "unauthorized"),
        AdbDevice("192.0.2.7:5555", "offline"),
        AdbDevice("emulator-5554", "device", "sdk_gphone64_arm64"),
        AdbDevice("0123456789ABCDEF", "no permissions"),
        AdbDevice("adb-R5CT20ABCDE-xyZ._adb-tls-connect._tcp", "device", "SM_S911B"),
    ]
    assert [device.text for device in parse_devices(LISTED)][:2] == [
        "38261FDJH001AB (Pixel 8)",
        "R5CT20ABCDE (unauthorized)",
    ]


@pytest.mark.parametrize(
    "text", ["", "List of devices attached\n\n", "List of devices attached\n* daemon started successfully\n", "what?\n"]
)
def test_empty_list(text: str) -> None:
    assert parse_devices(text) == []


@pytest.mark.parametrize(
    ("said", "kind", "message"),
    [
        ("error: device 'R5CT20ABCDE' not found\n", DeviceUnreachable, "device 'R5CT20ABCDE' not found"),
        ("adb: device 'R5CT20ABCDE' not found\n", DeviceUnreachable, "device 'R5CT20ABCDE' not found"),
        ("adb: error: failed to get feature set: no devices/emulators found\n", DeviceUnreachable, "has gone"),
        ("error: closed\n", DeviceUnreachable, "has gone"),
        ("adb: device offline\n", DeviceUnreachable, "offline"),
        (
            "adb server version (41) doesn't match this client (39); killing...\n* daemon started successfully\n"
            "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
            "Try 'adb kill-server' if that seems wrong.\n",
            DeviceUnreachable,
            "does not allow debugging",
        ),
        (
            "* daemon not running; starting now at tcp:5037\nADB server didn't ACK\n* failed to start daemon\n"
            "adb: failed to check server version: cannot connect to daemon\n",
            ToolchainError,
            "cannot connect to daemon",
        ),
        (
            "adb: error: failed to copy 'server' to '/data/local/tmp/x/server': remote write failed: "
            "No space left on device\n",
            DeviceError,
            "no space left",
        ),
        ("/system/bin/sh: getprop: not found\n", DeviceError, "getprop: not found"),
        ("", DeviceError, "exit status 1"),
    ],
)
def test_failures(said: str, kind: type[Exception], message: str) -> None:
    error = adb_failure(said, 1, "adb R5CT20ABCDE")
    assert type(error) is kind
    assert message in error.message
    assert error.where == "adb R5CT20ABCDE"
    assert error.advice


@pytest.mark.parametrize(
    ("abis", "triple"),
    [
        (("arm64-v8a", "armeabi-v7a", "armeabi"), "aarch64-linux-gnu"),
        (("armeabi-v7a", "armeabi"), "armv7a-linux-gnueabihf"),
        (("x86_64", "x86"), "x86_64-linux-gnu"),
    ],
)
def test_servers(abis: tuple[str, ...], triple: str) -> None:
    assert triple_for(abis, "adb") == triple


def test_no_server() -> None:
    with pytest.raises(DeviceMismatch, match="does not name its processor"):
        triple_for((), "adb")


def test_keys() -> None:
    assert phone_key("R5CT20ABCDE") == "R5CT20ABCDE"
    assert phone_key("192.0.2.7:5555", "lab") == "lab-192.0.2.7_5555"
