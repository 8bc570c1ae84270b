"""Reach a device with nothing but OpenSSH: copy the static server, start it, talk through ssh, leave nothing.

No port is opened on either side beyond the device's loopback: the session runs through ``ssh -W``. When this
process ends, however it ends, ssh ends, the server's stdin closes, and the remote shell removes the folder.
"""

from __future__ import annotations

import contextlib
import math
import os
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
_MARK = "edgevit-host "

# Copy, start and clean up in one login: there is no moment at which a lost connection leaves something behind.
_SERVE = (
    'umask 077; d=$(mktemp -d "${TMPDIR:-/tmp}/edgevit.XXXXXX") || exit 1; '
    "trap 'rm -rf \"$d\"' EXIT; trap 'exit 1' HUP INT TERM; "
    'head -c SIZE > "$d/server" && test "$(wc -c < "$d/server")" -eq SIZE && chmod 700 "$d/server" && '
    '"$d/server" --port 0 --once --exit-with-stdin --work-dir "$d"'
)


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
    uname = ssh.uname()
    server = ssh.start(build_server(triple or _triple(uname, ssh.where), progress=progress))
    try:
        channel, forward = ssh.open_channel(server.wait_for_port(timeout + _COPY_TIMEOUT))
    except BaseException:
        server.stop()
        raise
    owner = os.getpid()

    def finish() -> None:
        if os.getpid() == owner:  # a forked child has a copy of this object, not of the processes
            server.stop()
            _end(forward)

    return RpcSession(channel, ssh.where, kind="ssh", handshake_timeout=timeout, on_close=finish)


def _triple(uname: str, where: str) -> str:
    if uname not in _TRIPLES:
        raise DeviceMismatch(
            f"there is no server for {uname or 'a host without uname'!r}.",
            where=where,
            advice="Servers exist for 64-bit ARM, 32-bit ARM and x86-64 Linux.",
        )
    return _TRIPLES[uname]


class _Ssh:
    def __init__(self, destination: str, timeout: float) -> None:
        self._destination = destination
        self._timeout = timeout
        self.where = f"ssh {destination}"
        limit = max(1, math.ceil(timeout))
        options = ["BatchMode=yes", f"ConnectTimeout={limit}", "ServerAliveInterval=5"]
        command = shlex.split(os.environ.get("EDGEVIT_SSH", "ssh"))
        self._base = [*command, "-T", "-x", *(part for option in options for part in ("-o", option))]

    def uname(self) -> str:
        """Operating system and processor; the first thing asked, so it also proves that ssh logs in."""
        said = self._run(f'echo "{_MARK}$(uname -s) $(uname -m)"')
        # A login script may have printed lines of its own before.
        return next((line[len(_MARK) :] for line in said.splitlines() if line.startswith(_MARK)), "").strip()

    def start(self, server: Path) -> ServerProcess:
        """Copy and start the server; whatever ends it, the remote shell removes its folder."""
        image = server.read_bytes()
        return ServerProcess(self._command(_SERVE.replace("SIZE", str(len(image)))), where=self.where, feed=image)

    def open_channel(self, port: int) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """A connection to a loopback port of the host."""
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*self._base, "-W", f"127.0.0.1:{port}", self._destination],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return ours, process

    def _command(self, script: str) -> list[str]:
        # The account's shell may be any; what runs the script is POSIX's.
        return [*self._base, self._destination, f"exec sh -c {shlex.quote(script)}"]

    def _run(self, script: str) -> str:
        try:
            done = subprocess.run(
                self._command(script),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=self._timeout,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ToolchainError("OpenSSH's client is not installed.", advice="Install ssh.") from error
        except subprocess.TimeoutExpired as error:
            raise DeviceTimeout(
                f"no answer within {self._timeout:g} s.",
                where=self.where,
                advice="Check that the host is on and that 'ssh -o BatchMode=yes' reaches it.",
            ) from error
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        if done.returncode == 255:  # ssh's own failures; anything else is the remote command's
            raise DeviceUnreachable(
                f"cannot log in: {last}",
                where=self.where,
                advice="Make 'ssh -o BatchMode=yes' work first: key installed, host key accepted.",
            )
        if done.returncode:
            raise DeviceError(
                f"the host refused: {last}",
                where=self.where,
                advice="Does 'ssh HOST uname -sm' work there?",
            )
        return done.stdout.decode(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
