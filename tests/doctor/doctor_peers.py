"""Programs to find at a port, and commands to run and be rid of."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

RPC_MAGIC, TRACKER_MAGIC = 0xFF271, 0x2F271  # tvm/rpc/base.py
EDGEVIT = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "devices"]
PATIENCE = 60.0

Behaviour = Callable[[socket.socket], None]


@contextmanager
def peer(behave: Behaviour) -> Iterator[int]:
    """Listen on a free port and treat every connection as ``behave`` does; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_accept, args=(listener, behave))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(PATIENCE)


def _accept(listener: socket.socket, behave: Behaviour) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(PATIENCE)
            try:
                behave(connection)
            except OSError:
                continue


def word(connection: socket.socket) -> int:
    return struct.unpack("<i", exactly(connection, 4))[0]


def exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = connection.recv(count - len(data))
        if not block:
            raise ConnectionResetError
        data += block
    return data


def rpc_answers(code: int) -> Behaviour:
    """An RPC server that answers every client with that word."""

    def behave(connection: socket.socket) -> None:
        if word(connection) == RPC_MAGIC:
            exactly(connection, word(connection))
            connection.sendall(struct.pack("<i", code))

    return behave


def tracker_with(summary: object) -> Behaviour:
    """A tracker that knows this."""

    def behave(connection: socket.socket) -> None:
        if word(connection) != TRACKER_MAGIC:
            return
        connection.sendall(struct.pack("<i", TRACKER_MAGIC))
        exactly(connection, word(connection))
        reply = json.dumps([0, summary]).encode()
        connection.sendall(struct.pack("<i", len(reply)) + reply)

    return behave


def silent(connection: socket.socket) -> None:
    """Read for ever."""
    while connection.recv(4096):
        pass


def web_server(connection: socket.socket) -> None:
    """Answer once a request has ended."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = connection.recv(4096)
        if not block:
            return
        data += block
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def ssh_server(connection: socket.socket) -> None:
    """Speak first."""
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    silent(connection)


def hang_up(connection: socket.socket) -> None:
    """Close at the first word."""
    word(connection)


def closed_port() -> int:
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Foreground:
    """``edgevit devices …`` that announces a port; ended with all its children when the block ends."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*EDGEVIT, *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "NO_COLOR": "1"},
        )
        assert self.process.stdout is not None
        self.event = json.loads(self.process.stdout.readline())
        self.port = int(self.event["port"])
        self.address = f"127.0.0.1:{self.port}"

    def family(self) -> list[psutil.Process]:
        """The process and all below it."""
        own = psutil.Process(self.process.pid)
        return [own, *own.children(recursive=True)]

    def end(self, signal_number: int) -> tuple[int, str]:
        """Send a signal; returns the exit status and what it wrote to stderr once nobody is left."""
        family = self.family()
        self.process.send_signal(signal_number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        _, alive = psutil.wait_procs(family, timeout=PATIENCE)
        assert alive == []
        return self.process.returncode, errors.decode()

    def __enter__(self) -> Foreground:
        return self

    def __exit__(self, *_: object) -> None:
        family = self.family() if self.process.poll() is None else []
        for process in family:
            process.kill()
        self.process.communicate(timeout=PATIENCE)
        psutil.wait_procs(family, timeout=PATIENCE)
