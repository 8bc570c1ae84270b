"""Start a server as a child process and open a session with it; it ends with the session."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from queue import Empty, Queue
from typing import Any, TypeVar

from edgevit.device.guard import dial
from edgevit.device.rpc import RpcSession
from edgevit.errors import DeviceError, DeviceLost, DeviceTimeout

START_TIMEOUT = 60.0
"""Seconds for a server process to say that it listens."""

_POLITE_SECONDS = 2.0
_DRAIN_SECONDS = 1.0

# The shell outlives a server that is killed and, unlike this process, cannot be too busy to clean up.
_KEEPER = ["/bin/sh", "-c", 'trap : HUP INT TERM; d=$1; shift; "$@"; e=$?; rm -rf -- "$d"; exit $e', "edgevit"]

AnySession = TypeVar("AnySession", bound=RpcSession)

CommandFor = Callable[[str], Sequence[str]]
"""From a temporary folder, which vanishes with the server, to the server's command."""


class ServerProcess:
    """A server that ends when its stdin closes, in a process group of its own."""

    def __init__(self, command: Sequence[str], *, where: str, fds: Sequence[int] = (), feed: bytes = b"") -> None:
        """Start it.

        Args:
            command: program and arguments.
            where: how errors call it.
            fds: file descriptors it inherits.
            feed: what its stdin begins with; stdin stays open after that.
        """
        self._where = where
        self._words = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in stop()
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                pass_fds=tuple(fds),
                # A Ctrl-C in the terminal is for the client: it ends the session, which ends the server.
                start_new_session=True,
            )
        except BaseException:
            self._errors.close()
            raise
        self._lines: Queue[bytes | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._writer: threading.Thread | None = None
        if feed:
            self._writer = threading.Thread(target=self._write, args=(feed,), daemon=True)
            self._writer.start()

    @property
    def pid(self) -> int:
        """Process id, also of its group."""
        return self._process.pid

    def wait_for_port(self, timeout: float) -> int:
        """The port in its line ``{"event": "listening", "port": …}``; raises as :meth:`wait_for`."""
        return int(self.wait_for("port", timeout))

    def wait_for(self, name: str, timeout: float) -> Any:
        """What it says under ``name`` in a line of JSON; lines before that one are ignored.

        Raises:
            DeviceError: it ended without one.
            DeviceTimeout: ``timeout`` seconds passed.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise DeviceTimeout(f"the server did not start within {timeout:g} s.", where=self._where) from None
            if line is None:
                raise DeviceError(
                    f"the server ended before it listened: {self.last_words()}",
                    where=self._where,
                    advice="Run 'edgevit devices doctor'.",
                )
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return json.loads(line)[name]

    def say(self, text: bytes) -> None:
        """Write to its stdin; one that has ended hears nothing."""
        self._write(text)

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def exit_status(self) -> int | None:
        """Its exit status, once it has ended by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=_POLITE_SECONDS)
        return None

    def last_words(self) -> str:
        """The last line on its stderr, else its exit status; waits a moment for it to end."""
        status = self.exit_status()
        if not self._errors.closed:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            self._words = lines[-1] if lines else f"exit status {status}"
        return self._words

    def stop(self) -> None:
        """End it: politely by closing its stdin, then by force; safe to call twice."""
        stdin, writer = self._process.stdin, self._writer
        fed = writer is None or not writer.is_alive()
        if stdin is not None and fed:
            with contextlib.suppress(OSError):
                stdin.close()
        try:
            self._process.wait(timeout=_POLITE_SECONDS if fed else 0)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if writer is not None:
            writer.join(timeout=_DRAIN_SECONDS)
        if stdin is not None:
            with contextlib.suppress(OSError):
                stdin.close()
        # Somebody it started may still hold its stdout; then the thread goes when that one does.
        self._reader.join(timeout=_DRAIN_SECONDS)
        self.last_words()
        self._errors.close()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                if self._lines.qsize() < 100:  # a chatty login, not our server
                    self._lines.put(line)
        self._lines.put(None)

    def _write(self, feed: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(feed)
            self._process.stdin.flush()


class Keeper:
    """A server process with a temporary folder; both are gone after :meth:`stop`, or when this process dies.

    Attributes:
        server: the process.
    """

    def __init__(self, command: CommandFor, *, where: str, fds: Sequence[int] = ()) -> None:
        """Start it; it must end when its stdin closes.

        Args:
            command: of the server.
            where: how errors call it.
            fds: file descriptors it inherits.
        """
        self._folder = tempfile.mkdtemp(prefix="edgevit-session-")
        self._owner = os.getpid()
        try:
            self.server = ServerProcess([*_KEEPER, self._folder, *command(self._folder)], where=where, fds=fds)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def stop(self) -> None:
        """End the server and remove the folder; safe to call twice."""
        if os.getpid() == self._owner:  # a forked child has a copy of this object, not of the server
            self.server.stop()
            shutil.rmtree(self._folder, ignore_errors=True)


def connect_spawned(
    command: CommandFor, *, kind: str, address: str, emulated: bool = False, timeout: float = START_TIMEOUT
) -> RpcSession:
    """Start a server on this machine and open a session with it; the server ends with the session.

    Raises:
        DeviceError: the server did not start.
        DeviceTimeout: it did not start in time.
    """
    keeper = Keeper(command, where=address)
    try:
        channel = dial("127.0.0.1", keeper.server.wait_for_port(timeout), timeout=timeout)
    except BaseException:
        keeper.stop()
        raise
    return RpcSession(channel, address, kind=kind, emulated=emulated, handshake_timeout=timeout, on_close=keeper.stop)


def python_program(module: str) -> str:
    """Source text that runs ``main()`` of a module with this process's module path."""
    # With -m, a module in the folder where the user happens to be would be taken for a library's.
    return f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main()"


def connect_process(
    *,
    cores: int | None = None,
    module: str = "edgevit.device.worker",
    session: Callable[..., AnySession] = RpcSession,  # type: ignore[assignment]  # a default cannot fit every variable
) -> AnySession:
    """A session with a process of its own on this machine: a crash there is an error here, no more.

    Args:
        cores: pin it to so many, where the system can; None for all.
        module: what the process runs.
        session: makes the session; called like :class:`RpcSession`.

    Raises:
        DeviceError: the process did not start.
    """
    where = "a process on this machine"
    channel, theirs = socket.socketpair()  # no port: nobody else can reach it
    with theirs:

        def command(folder: str) -> list[str]:
            program = python_program(module)
            return [sys.executable, "-c", program, str(theirs.fileno()), folder, str(cores or 0)]

        try:
            keeper = Keeper(command, where=where, fds=(theirs.fileno(),))
        except BaseException:
            channel.close()
            raise
    try:
        return session(channel, where, kind="process", handshake_timeout=START_TIMEOUT, on_close=keeper.stop)
    except DeviceLost as error:
        raise DeviceError(
            f"the process ended before it answered: {keeper.server.last_words()}",
            where=where,
            advice="Run 'edgevit devices doctor'.",
        ) from error
