"""Stock TVM servers and trackers, and a look at what is left of processes."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

MARK = "EDGEVIT_TEST_MARK"
"""Environment variable by which a test knows every process that it caused, orphans too."""


def wait_until(condition: Callable[[], object], seconds: float = 15.0) -> bool:
    """Poll until ``condition()`` is true; False when it never was."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def marked(mark: str, *, containing: str = "") -> list[psutil.Process]:
    """Living processes that inherited ``mark`` and have ``containing`` in their command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.environ().get(MARK) == mark and containing in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.contextmanager
def nothing_left(folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: float = 30.0) -> Iterator[str]:
    """A mark that every process started inside carries; fails if one, or a temporary file, remains.

    Args:
        folder: of the test; temporary files go into one below it.
        monkeypatch: of the test.
        seconds: that what is ending may take.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    text = uuid.uuid4().hex
    monkeypatch.setenv(MARK, text)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield text
    wait_until(lambda: not marked(text) and not list(temporary.glob("edgevit*")), seconds)
    left = marked(text)
    for process in left:
        process.kill()
    assert [process.name() for process in left] == []
    assert [path.name for path in temporary.glob("edgevit*")] == []


def client_that_times(connect: str, artifact: Path) -> subprocess.Popen[bytes]:
    """A process that opens a session, loads an artifact with one image as its input, says ``ready`` and times it.

    Args:
        connect: arguments of :func:`edgevit.device.connect.connect` as source text.
        artifact: to load.
    """
    script = f"""
import sys, numpy as np
from edgevit.artifact import load_artifact
from edgevit.device.connect import connect
try:
    with connect({connect}) as session, session.load(load_artifact(sys.argv[1])) as model:
        model.set_inputs({{"image": np.zeros((1, 3, 32, 32), np.float32)}})
        print("ready", flush=True)
        model.time(5_000_000)
except KeyboardInterrupt:
    pass
"""
    command = [sys.executable, "-W", "error", "-c", script, str(artifact)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def worker_of(mark: str) -> psutil.Process:
    """The Python process that serves a process session."""
    found: list[psutil.Process] = []

    def look() -> bool:
        found[:] = [p for p in marked(mark, containing="edgevit.device.worker") if p.cmdline()[0] != "/bin/sh"]
        return bool(found)

    assert wait_until(look)
    return found[0]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """End a process and all its descendants; one that wants to clean up gets a moment."""
    children: list[psutil.Process] = []
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    for child in children:
        with contextlib.suppress(psutil.Error):
            child.kill()
    process.kill()
    process.wait()


@contextlib.contextmanager
def program(command: Sequence[str], announces: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Run a server; yield it and the port in the first line that matches ``announces``."""
    process = subprocess.Popen(
        list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
    )
    assert process.stdout is not None
    assert process.stdin is not None
    output, lines = process.stdout, queue.Queue[bytes]()

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(b"")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    seen = b""
    try:
        while not (match := re.search(announces.encode(), seen)):
            line = lines.get(timeout=60)
            assert line, seen
            seen += line
        if "--tracker" not in command:  # with one, registration tells, and a probe would undo it
            # Stock servers say so before they listen; they shrug off a client that goes at once.
            assert wait_until(lambda: _accepts(int(match[1])))
        yield process, int(match[1])
    finally:
        kill_tree(process)
        reader.join(timeout=5)
        output.close()
        process.stdin.close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that was free a moment ago; stock servers cannot choose one themselves."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def stock(module: str, *options: str) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[bytes], int]]:
    """``python -m tvm.exec.<module>`` on some loopback port."""
    port = free_port()
    command = [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", "--port", str(port)]
    # The first port may be taken meanwhile; an end equal to the start would leave none to try.
    return program([*command, "--port-end", str(port + 20), *options], r"bind to [0-9.]+:(\d+)")


def own(binary: str, *options: str) -> contextlib.AbstractContextManager[tuple[subprocess.Popen[bytes], int]]:
    """Edgevit's C++ server on a loopback port."""
    return program([binary, "--port", "0", *options], r'"port": ?(\d+)')


@contextlib.contextmanager
def listener(answer: bytes | None = None) -> Iterator[int]:
    """A port that accepts and stays silent, or that sends ``answer`` to whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    connections.append(connection)
                    if answer:
                        connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        if answer is not None:
            thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            if answer is not None:
                thread.join(timeout=5)
            for connection in connections:
                connection.close()


@contextlib.contextmanager
def later(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Do something while the block runs."""
    timer = threading.Timer(seconds, action)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def send(process: psutil.Process, number: signal.Signals) -> None:
    """Signal a process that may be gone."""
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def tracker_knows(port: int, key: str) -> bool:
    """Whether a device of that key is registered and free."""
    from edgevit.device.tracker import tracker_summary

    queues = tracker_summary("127.0.0.1", port)["queue_info"]
    return int(json.loads(json.dumps(queues)).get(key, {}).get("free", 0)) > 0
