"""Start a server as a child process and connect to it; stop it with the session."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from queue import Empty, Queue

from edgevit.device.guard import dial
from edgevit.device.rpc import RpcSession
from edgevit.errors import DeviceError, DeviceTimeout

START_TIMEOUT = 60.0
"""Seconds for a server process to say that it listens."""


class ServerProcess:
    """A server that prints ``{"event": "listening", "port": …}`` and ends when its stdin closes."""

    def __init__(self, command: Sequence[str], *, where: str, timeout: float = START_TIMEOUT) -> None:
        """Start it and wait for its port.

        Raises:
            DeviceError: it ended, or printed something else.
            DeviceTimeout: it printed nothing within ``timeout`` seconds.
        """
        self._where = where
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            # A Ctrl-C in the terminal is for the client: it ends the session, which ends the server.
            start_new_session=True,
        )
        try:
            self.port = self._read_port(timeout)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def stop(self) -> None:
        """End it: politely by closing its stdin, then by force; safe to call twice."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        for insist in (lambda: None, self._process.terminate, self._process.kill):
            insist()
            try:
                self._process.wait(timeout=5)
                break
            except subprocess.TimeoutExpired:
                continue
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _read_port(self, timeout: float) -> int:
        lines: Queue[bytes] = Queue()
        stdout = self._process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=timeout)
        except Empty:
            raise DeviceTimeout(f"the server did not start within {timeout:g} s.", where=self._where) from None
        try:
            return int(json.loads(line)["port"])
        except (ValueError, KeyError, TypeError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
            raise DeviceError(
                f"the server ended before it listened: {self._last_words()}",
                where=self._where,
                advice="Run 'edgevit devices doctor'.",
            ) from error

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"


def connect_spawned(
    command: Sequence[str], *, kind: str, address: str, emulated: bool = False, timeout: float = START_TIMEOUT
) -> RpcSession:
    """Start a server on this machine and open a session with it; the server ends with the session."""
    server = ServerProcess(command, where=address, timeout=timeout)
    try:
        channel = dial("127.0.0.1", server.port, timeout=timeout)
    except BaseException:
        server.stop()
        raise
    return RpcSession(channel, address, kind=kind, emulated=emulated, handshake_timeout=timeout, on_close=server.stop)


def connect_process() -> RpcSession:
    """A session with a process of its own on this machine: a crash there is an error here, no more."""
    return connect_spawned(
        [sys.executable, "-m", "edgevit.device.worker"], kind="process", address="a process on this machine"
    )
