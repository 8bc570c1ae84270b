"""Reach a device with nothing but OpenSSH: copy the static server, start it, talk through ssh, leave nothing.

No port is opened on either side beyond the device's loopback: the session runs through ``ssh -W``. When this
process ends, however it ends, ssh ends, the server's stdin closes, and the remote shell removes the folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from edgevit.device.rpc import RpcSession
from edgevit.device.server_build import build_server
from edgevit.device.spawn import ServerProcess
from edgevit.errors import (
    DeviceError,
    DeviceMismatch,
    DeviceTimeout,
    DeviceUnreachable,
    ToolchainError,
    UserError,
)

_TIMEOUT = 30.0
_COPY_TIMEOUT = 300.0
_TRIPLES = {
    "Linux aarch64": "aarch64-linux-gnu",
    "Linux x86_64": "x86_64-linux-gnu",
    "Linux armv7l": "armv7a-linux-gnueabihf",
    "Linux armv8l": "armv7a-linux-gnueabihf",
}
_FOLDER = re.compile(r"^/[A-Za-z0-9._/-]+$")


def connect_ssh(
    destination: str,
    *,
    triple: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = _TIMEOUT,
) -> RpcSession:
    """A session with edgevit's server on a host that OpenSSH reaches without a password prompt.

    Args:
        destination: as for ssh: ``host``, ``user@host``, an alias of ``~/.ssh/config`` or
            ``ssh://user@host:port``. The environment variable ``EDGEVIT_SSH`` replaces the command ``ssh``.
        triple: the server to copy; by default what the host's ``uname`` says.
        progress: told of the server's build.
        timeout: seconds to wait for ssh to log in and for the server to start.

    Raises:
        DeviceUnreachable: ssh cannot log in.
        DeviceMismatch: no server can be built for that host.
        ToolchainError: ssh is not installed.
    """
    if destination.startswith("-") or not destination.strip():
        raise UserError(f"{destination!r} is not a host.", advice="Give --ssh user@host.")
    ssh = _Ssh(destination, timeout)
    if triple is None:
        triple = ssh.triple()
    folder = ssh.copy(build_server(triple, progress=progress))
    server = ServerProcess(
        ssh.command(f"{folder}/server --port 0 --once --exit-with-stdin --work-dir {folder}; rm -rf {folder}"),
        where=f"ssh {destination}",
        timeout=timeout,
    )
    try:
        channel, forward = ssh.open_channel(server.port)
    except BaseException:
        server.stop()
        raise

    def finish() -> None:
        server.stop()
        _end(forward)

    return RpcSession(channel, f"ssh {destination}", kind="ssh", handshake_timeout=timeout, on_close=finish)


class _Ssh:
    def __init__(self, destination: str, timeout: float) -> None:
        self._destination = destination
        self._timeout = timeout
        options = [
            "-o",
            "BatchMode=yes",
            "-o",
            f"ConnectTimeout={int(timeout)}",
            "-o",
            "ServerAliveInterval=5",
        ]
        self._base = [*shlex.split(os.environ.get("EDGEVIT_SSH", "ssh")), "-T", "-x", *options]

    def command(self, script: str) -> list[str]:
        return [*self._base, self._destination, script]

    def triple(self) -> str:
        said = self._run("uname -sm", b"", self._timeout).strip()
        if said not in _TRIPLES:
            raise DeviceMismatch(
                f"there is no server for {said or 'a host without uname'!r}.",
                where=f"ssh {self._destination}",
                advice="Servers exist for 64-bit ARM, 32-bit ARM and x86-64 Linux.",
            )
        return _TRIPLES[said]

    def copy(self, server: Path) -> str:
        script = (
            "umask 077 && d=$(mktemp -d ${TMPDIR:-/tmp}/edgevit.XXXXXX) && "
            "{ cat > $d/server && chmod 700 $d/server && echo $d || { rm -rf $d; exit 1; }; }"
        )
        folder = self._run(script, server.read_bytes(), _COPY_TIMEOUT).strip()
        if not _FOLDER.match(folder):
            raise DeviceError(
                "the host did not say where the server was copied to.",
                where=f"ssh {self._destination}",
                advice="A login script that prints text can cause this: make it silent when not interactive.",
            )
        return folder

    def open_channel(self, port: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*self._base, "-W", f"127.0.0.1:{port}", self._destination],
                stdin=theirs,
                stdout=theirs,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return ours, process

    def _run(self, script: str, stdin: bytes, timeout: float) -> str:
        where = f"ssh {self._destination}"
        try:
            done = subprocess.run(self.command(script), input=stdin, capture_output=True, timeout=timeout, check=False)
        except FileNotFoundError as error:
            raise ToolchainError("OpenSSH's client is not installed.", advice="Install ssh.") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceTimeout(f"no answer within {timeout:g} s.", where=where) from error
        if done.returncode == 255:  # ssh's own failures; anything else is the remote command's
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise DeviceUnreachable(
                f"cannot log in: {last}",
                where=where,
                advice="Make 'ssh -o BatchMode=yes' work first: key installed, host key accepted.",
            )
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
            raise DeviceError(f"the host refused: {last}", where=where, advice="Is its temporary folder full?")
        return done.stdout.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
