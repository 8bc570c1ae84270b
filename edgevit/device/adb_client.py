"""The adb client: which phones are attached, and commands on one of them.

Every command goes to adb's own server on this machine, which other programs may be using: it is started where none
runs, and never ended. ``EDGEVIT_ADB`` replaces the command ``adb``; adb itself heeds ``ANDROID_ADB_SERVER_PORT``.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from dataclasses import dataclass

from edgevit.errors import DeviceError, DeviceTimeout, DeviceUnreachable, ToolchainError, UserError

SHELL_TIMEOUT = 30.0
"""Seconds for a short command on a phone."""

_START_SECONDS = 30.0  # adb's server starts with the first command
_SETTLE_SECONDS = 5.0
_GONE = re.compile(r"device .*not found|no devices|error: closed")
_PASSING = frozenset({"offline", "authorizing", "connecting", "detached"})

_STATES = {
    "unauthorized": (
        "it does not allow debugging from this machine.",
        "Unlock the phone and accept the dialog 'Allow USB debugging?'; without one, plug it in again.",
    ),
    "authorizing": (
        "it is asking whether to allow debugging from this machine.",
        "Unlock the phone and accept the dialog 'Allow USB debugging?'.",
    ),
    "offline": (
        "it is attached and does not answer: offline.",
        "Plug it in again, or for a phone on the network: adb disconnect, adb connect.",
    ),
    "no permissions": (
        "this user may not open its USB port.",
        "On Debian and Ubuntu: apt-get install android-sdk-platform-tools-common, then plug it in again.",
    ),
}


@dataclass(frozen=True)
class AdbDevice:
    """A line of ``adb devices -l``.

    Attributes:
        serial: by which adb tells it from others; of a device on the network, ``host:port``.
        state: ``device`` when it can be used; else ``unauthorized``, ``offline``, ``no permissions``, ``recovery``, …
        model: as far as it has told, with underscores for spaces.
    """

    serial: str
    state: str
    model: str | None = None

    @property
    def ready(self) -> bool:
        """Whether commands can run on it."""
        return self.state == "device"

    @property
    def text(self) -> str:
        """The device in a list for people."""
        facts = [self.model.replace("_", " ")] if self.model else []
        facts += [] if self.ready else [self.state]
        return f"{self.serial} ({', '.join(facts)})" if facts else self.serial


def parse_devices(text: str) -> list[AdbDevice]:
    """Devices in what ``adb devices -l`` printed, in its order; news of adb's server are skipped."""
    found = []
    for line in text.partition("List of devices attached")[2].splitlines():
        serial, _, rest = line.replace("\t", " ").strip().partition(" ")
        rest = rest.strip()
        if not rest or serial.startswith("*"):
            continue
        state = "no permissions" if rest.startswith("no permissions") else rest.split()[0]
        facts = dict(part.split(":", 1) for part in rest.split() if ":" in part)
        found.append(AdbDevice(serial, state, facts.get("model")))
    return found


def list_phones() -> list[AdbDevice]:
    """Devices that adb knows on this machine.

    Raises:
        ToolchainError: adb is not installed, or its server does not start.
        DeviceTimeout: adb does not answer.
    """
    return parse_devices(run_adb([*adb_command(), "devices", "-l"], where="adb", timeout=_START_SECONDS))


def choose_phone(serial: str = "", *, timeout: float = _SETTLE_SECONDS) -> AdbDevice:
    """The attached device that a user means.

    Args:
        serial: of the device. Empty: what ``ANDROID_SERIAL`` says, else the only one.
        timeout: seconds to wait for one that is just being connected.

    Raises:
        UserError: none was named and there are several.
        DeviceUnreachable: there is none, none of that serial, or it cannot be used.
        ToolchainError: adb is not installed.
    """
    wanted = serial or os.environ.get("ANDROID_SERIAL", "")
    end = time.monotonic() + min(timeout, _SETTLE_SECONDS)
    while True:
        chosen = _pick(list_phones(), wanted)
        if chosen.ready:
            return chosen
        if chosen.state not in _PASSING or time.monotonic() > end:
            raise _unusable(chosen)
        time.sleep(0.2)


def _pick(found: list[AdbDevice], wanted: str) -> AdbDevice:
    if not found:
        raise DeviceUnreachable(
            "no phone is attached.",
            where=f"adb {wanted}".strip(),
            advice="Plug it in, and switch 'USB debugging' on in its developer options; 'adb devices' must list it.",
        )
    listed = ", ".join(device.text for device in found)
    if not wanted:
        if len(found) > 1:
            raise UserError(
                f"{len(found)} phones are attached: {listed}.", where="adb", advice="Say which with --adb SERIAL."
            )
        return found[0]
    for device in found:
        if device.serial == wanted:
            return device
    raise DeviceUnreachable(
        f"no phone of that serial is attached; there is {listed}.",
        where=f"adb {wanted}",
        advice="Take a serial of these; one on the network is reached with 'adb connect HOST:PORT' first.",
    )


def _unusable(device: AdbDevice) -> DeviceUnreachable:
    message, advice = _STATES.get(
        device.state,
        (f"it is in the state {device.state!r}.", "Start the phone normally, and look at 'adb devices'."),
    )
    return DeviceUnreachable(message, where=f"adb {device.serial}", advice=advice)


def adb_command() -> list[str]:
    """The command ``adb``, as the environment has it."""
    return shlex.split(os.environ.get("EDGEVIT_ADB", "adb"))


def run_adb(command: list[str], *, where: str, timeout: float) -> str:
    """Run adb to its end, without input; returns what it printed on stdout.

    Raises:
        ToolchainError: adb is not installed, or its server does not start.
        DeviceUnreachable: the device has gone, or does not allow it.
        DeviceTimeout: it took longer than ``timeout`` seconds.
        DeviceError: the command failed.
    """
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            # Where it starts adb's server, a Ctrl-C in our terminal must not end that.
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise ToolchainError(
            f"{command[0]} is not installed.",
            advice="Install Android's platform-tools (Debian and Ubuntu: apt-get install adb; macOS: brew install "
            "android-platform-tools), or set EDGEVIT_ADB to the program.",
        ) from error
    except OSError as error:
        raise ToolchainError(f"{command[0]} does not start: {error.strerror}.", advice="Check EDGEVIT_ADB.") from error
    except subprocess.TimeoutExpired as error:
        raise DeviceTimeout(
            f"adb did not answer within {timeout:g} s.", where=where, advice="Unplug the phone and plug it in again."
        ) from error
    if done.returncode:
        said = done.stderr if done.stderr.strip() else done.stdout  # 'push' complains on stdout
        raise adb_failure(said.decode(errors="replace"), done.returncode, where)
    return done.stdout.decode(errors="replace").replace("\r\n", "\n")


def adb_failure(said: str, status: int, where: str) -> DeviceError | ToolchainError:
    """What a failed command's last words mean."""
    # A client that meets another version's server says so first: that is no reason.
    lines = [line for line in said.strip().splitlines() if not line.startswith(("*", "adb server version"))]
    reason = next((line for line in lines if "error:" in line), lines[-1] if lines else f"exit status {status}")
    reason = reason.removeprefix("adb: ").removeprefix("error: ").strip().rstrip(".")
    if "daemon" in said and ("cannot connect" in said or "failed to" in said):
        return ToolchainError(
            f"adb's server does not run: {reason}.", where=where, advice="Run 'adb start-server' and read what it says."
        )
    if "No space left" in said:
        return DeviceError(
            "there is no space left in /data/local/tmp.", where=where, advice="Free some megabytes on the phone."
        )
    if "device unauthorized" in said:
        return _unusable(AdbDevice(where.removeprefix("adb "), "unauthorized"))
    if "device offline" in said:
        return _unusable(AdbDevice(where.removeprefix("adb "), "offline"))
    if _GONE.search(said):
        return DeviceUnreachable(
            f"the phone has gone: {reason}.", where=where, advice="Plug it in again; 'adb devices' must list it."
        )
    return DeviceError(f"adb failed: {reason}.", where=where, advice="Run 'edgevit devices doctor --adb'.")


class Adb:
    """Commands on one device.

    Attributes:
        serial: of the device.
        where: how errors call it.
    """

    def __init__(self, serial: str) -> None:
        self.serial = serial
        self.where = f"adb {serial}"

    def command(self, *arguments: str) -> list[str]:
        """The whole command line for this device."""
        return [*adb_command(), "-s", self.serial, *arguments]

    def run(self, *arguments: str, timeout: float = SHELL_TIMEOUT) -> str:
        """Run a command of adb's to its end; see :func:`run_adb`."""
        return run_adb(self.command(*arguments), where=self.where, timeout=timeout)

    def shell(self, script: str, *, timeout: float = SHELL_TIMEOUT) -> str:
        """Run a POSIX script in the device's shell; returns its stdout. Raises as :func:`run_adb`."""
        return self.run("shell", script, timeout=timeout)
