"""edgevit's server on a phone: pushed, started and removed with nothing but adb.

Two small shells do the cleaning, because they outlive whatever ends this process. The one on the phone makes a
folder, waits for the server to be pushed into it, runs it, and removes the folder when its standard input closes:
at the end of a session, when this process dies, when the cable is pulled. The one on this machine makes the
forward of adb's and takes it back.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgevit.device.adb_client import Adb, adb_failure
from edgevit.device.spawn import ServerProcess
from edgevit.errors import DeviceError, DeviceLost, DeviceMismatch

START_TIMEOUT = 30.0
"""Seconds for the phone's shell, and for the server, to start."""

FOLDER = "/data/local/tmp"
"""Where the shell's user may write and run programs on every phone."""

_PUSH_TIMEOUT = 300.0
_TRIPLES = {
    "arm64-v8a": "aarch64-linux-gnu",
    "armeabi-v7a": "armv7a-linux-gnueabihf",
    "x86_64": "x86_64-linux-gnu",
}

# A folder carries its shell's process id: one whose shell has gone was left by a phone that was switched off. The
# server is not the last command, which a shell may become: then nobody would heed the trap.
_KEEP = """
umask 077
for old in FOLDER/edgevit-*; do
  pid=${old##*/edgevit-}; kill -0 "${pid%%-*}" 2>/dev/null || rm -rf "$old"
done
d=FOLDER/edgevit-$$-TOKEN
mkdir "$d" || exit 1
trap 'rm -rf "$d"' EXIT; trap 'exit 1' HUP INT TERM
echo "{\\"folder\\": \\"$d\\"}"
read -r go || exit 1
chmod 700 "$d/server" || exit 1
"$d/server" --exit-with-stdin --work-dir "$d" OPTIONS
exit $?
"""

# adb's server is shared: a port is taken back only while it still is the forward that was made here.
_FORWARD = """
trap : HUP INT TERM
serial=$1 local=$2 remote=$3; shift 3
said=$("$@" forward "tcp:$local" "tcp:$remote") || exit 1
test "$local" != 0 || local=${said##*[!0-9]}
test -n "$local" || exit 1
echo "{\\"port\\": $local}"
cat > /dev/null
"$@" forward --list 2>/dev/null | grep -qxF "$serial tcp:$local tcp:$remote" &&
  "$@" forward --remove "tcp:$local" 2>/dev/null
"""


def triple_for(abis: Sequence[str], where: str) -> str:
    """The server that a phone's preferred ABI needs: it is static, so Linux's runs on Android too.

    Raises:
        DeviceMismatch: there is none.
    """
    for abi in abis:
        if abi in _TRIPLES:
            return _TRIPLES[abi]
    raise DeviceMismatch(
        f"there is no server for {', '.join(abis) or 'a phone that does not name its processor'}.",
        where=where,
        advice="Servers exist for arm64-v8a, armeabi-v7a and x86_64.",
    )


class PhoneServer:
    """A server on a phone, in a folder of its own; :meth:`stop` removes both.

    Attributes:
        adb: the phone.
        folder: on it.
    """

    def __init__(self, adb: Adb, binary: Path, options: Sequence[str], *, timeout: float = START_TIMEOUT) -> None:
        """Push and start it; :meth:`wait_for_port` says when it listens.

        Args:
            adb: the phone.
            binary: the server's program.
            options: for it.
            timeout: seconds for the phone's shell to start.

        Raises:
            DeviceError: the phone cannot be reached, or has no room.
        """
        self.adb = adb
        script = _KEEP.replace("FOLDER", FOLDER).replace("TOKEN", secrets.token_hex(8))
        script = script.replace("OPTIONS", shlex.join(options))
        self._process = ServerProcess(adb.command("shell", script), where=adb.where)
        try:
            self.folder = str(self._heard("folder", timeout))
            adb.run("push", str(binary), f"{self.folder}/server", timeout=_PUSH_TIMEOUT)
            self._process.say(b"go\n")
        except BaseException:
            self.stop()
            raise

    def wait_for_port(self, timeout: float = START_TIMEOUT) -> int:
        """The port of the phone's loopback that it listens on.

        Raises:
            DeviceError: it ended before.
            DeviceTimeout: it did not say so in time.
        """
        return int(self._heard("port", timeout))

    @property
    def running(self) -> bool:
        """Whether it still runs, as far as is known."""
        return self._process.running

    def stop(self) -> None:
        """End it; safe to call twice."""
        self._process.stop()

    def _heard(self, name: str, timeout: float) -> Any:
        try:
            return self._process.wait_for(name, timeout)
        except DeviceLost:
            raise
        except DeviceError as error:
            status = self._process.exit_status()
            if status is None:
                raise
            words = self._process.last_words()
            if "error:" in words or "No space left" in words:  # adb's own, not the server's
                raise adb_failure(words, status, self.adb.where) from error
            raise


class Forward:
    """A port of this machine's loopback that leads to one of the phone's, through adb.

    Attributes:
        port: here.
    """

    def __init__(self, adb: Adb, remote: int, *, local: int = 0, timeout: float = START_TIMEOUT) -> None:
        """Make it.

        Args:
            adb: the phone.
            remote: port of the phone's loopback.
            local: port here; 0 lets adb choose.
            timeout: seconds to wait.

        Raises:
            DeviceError: adb refused.
        """
        command = ["/bin/sh", "-c", _FORWARD, "edgevit", adb.serial, str(local), str(remote), *adb.command()]
        self._process = ServerProcess(command, where=adb.where)
        try:
            self.port = self._process.wait_for_port(timeout)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Take it back; safe to call twice."""
        self._process.stop()


class Owned:
    """Ends things in turn, once, in the process that made them: a forked child has copies of the objects only."""

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._stack = contextlib.ExitStack()

    def add(self, thing: PhoneServer | Forward) -> None:
        """End ``thing`` before those added earlier."""
        self._stack.callback(thing.stop)

    def stop(self) -> None:
        """End all; safe to call twice."""
        if os.getpid() == self._owner:
            self._stack.close()
