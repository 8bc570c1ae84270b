"""A process that compiles orders, one after the other; its argument is the number of a socket.

Compilers crash, hang and take memory, so they have a process of their own. It ends when its standard input closes,
and takes with it what it has started; so it does not outlive whoever started it. Should the compiler keep it from
noticing, the system's alarm ends it once the order's time is up.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import threading
from importlib import import_module
from math import ceil
from typing import NoReturn, cast

from edgevit.errors import ToolchainError
from edgevit.tuning.building.candidates import Compiled, Order, compile_order, said

HEADER = struct.Struct("<Q")
"""Length of the message that follows."""

Answer = Compiled | str
"""The library, or what was said in its place."""

_GRACE_SECONDS = 5.0


def send(channel: socket.socket, message: object) -> None:
    """Send a message."""
    data = pickle.dumps(message)
    channel.sendall(HEADER.pack(len(data)) + data)


def receive(channel: socket.socket) -> object:
    """The next message.

    Raises:
        EOFError: the other side has gone.
    """
    (length,) = HEADER.unpack(_receive(channel, HEADER.size))
    return pickle.loads(_receive(channel, length))  # noqa: S301 - both sides are this program


def main() -> NoReturn:
    """Compile whatever is ordered."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    channel = socket.socket(fileno=int(sys.argv[1]))
    import_module("edgevit.compiler.entry")  # and TVM: no order's time
    send(channel, None)
    while True:
        order, seconds = _next(channel)
        signal.alarm(ceil(seconds + _GRACE_SECONDS))
        answer = _answer(order)
        signal.alarm(0)
        send(channel, answer)


def _next(channel: socket.socket) -> tuple[bytes, float]:
    """The next order, pickled, and its time limit."""
    try:
        return cast("tuple[bytes, float]", receive(channel))
    except (EOFError, OSError):
        _end()


def _answer(order: bytes) -> Answer:
    try:
        return compile_order(cast("Order", pickle.loads(order)))  # noqa: S301 - from whoever started this process
    except ToolchainError as error:
        return " ".join(f"{error.where}: {error.message}".split())
    except Exception as error:  # TVM raises what it likes
        return said(error)


def _end_with_stdin() -> None:
    os.read(0, 1)
    _end()


def _end() -> NoReturn:
    import psutil

    for child in psutil.Process().children(recursive=True):  # a linker
        child.kill()
    os._exit(0)


def _receive(channel: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        block = channel.recv(min(count - len(data), 1 << 20))
        if not block:
            raise EOFError
        data += block
    return bytes(data)
