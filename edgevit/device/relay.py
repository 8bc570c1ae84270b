"""The relay's process: ``python relay.py DEVICE_FD CONTROL_FD``; see :mod:`edgevit.device.guard`.

Lines of JSON on the control socket. From the owner: ``{"begin": seconds}`` sets the deadline, ``{"end": true}``
clears it, ``{"ping": true}`` asks for a sign of life. To the owner: ``{"port": n, "token": text}`` once,
``{"pong": greeting}``, and ``{"ended": "timeout" | "lost" | "interrupted", "greeting": hex}`` as the last line.

Between lines the owner's C-level signal handler writes the numbers of signals that arrive during a call. Only
the standard library is imported: the process starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import sys
import threading
import time
from typing import Any, NoReturn

_BLOCK = 1 << 18
_UNGUARDED_SECONDS = 15.0
_LOOK_SECONDS = 5.0
_HELLO_SECONDS = 5.0
_GRACE_SECONDS = 1.0
_MAGIC = 0xFF271
_MAX_KEY = 4096
_SIGNAL_BYTES = bytes(range(1, 65))  # no line begins with one of them
_ENDING_SIGNALS = frozenset((int(signal.SIGINT), int(signal.SIGTERM)))


class _Relay:
    def __init__(self, device: socket.socket, control: socket.socket) -> None:
        self._device = device
        self._control = control
        self._token = secrets.token_hex(16)
        self._greeting = b""
        self._deadline: float | None = None
        self._overdue = "timeout"  # why the session ends when the deadline passes
        self._asked: float | None = None  # when the client last sent something that is not answered yet
        self._ending = threading.Lock()

    def serve(self) -> NoReturn:
        """Forward until the owner, the client or the device goes, or a deadline passes."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=4)
        self._say({"port": listener.getsockname()[1], "token": self._token})
        threading.Thread(target=self._forward, args=(listener,), daemon=True).start()
        pending = b""
        while True:
            self._control.settimeout(max(0.001, self._remaining()))
            try:
                block = self._control.recv(4096)
            except TimeoutError:
                if self._limit() is not None and self._remaining() <= 0:
                    self._end(self._overdue)
                continue
            if not block:
                self._end("lost")
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                if message := self._heed(line):
                    self._obey(json.loads(message))
            pending = self._heed(pending)

    def _limit(self) -> float | None:
        """When the wait that goes on now must be over.

        Outside any deadline the client still talks: freeing a remote object waits for an answer too.
        """
        asked = self._asked
        if self._deadline is not None:
            return self._deadline
        return None if asked is None else asked + _UNGUARDED_SECONDS

    def _remaining(self) -> float:
        """Seconds until the next look at the clock; negative once the limit has passed."""
        limit = self._limit()
        if limit is None:
            return _LOOK_SECONDS  # an unguarded question may begin at any time
        return limit - time.monotonic()

    def _obey(self, message: dict[str, Any]) -> None:
        if "begin" in message:
            self._deadline = time.monotonic() + float(message["begin"])
            self._overdue = "timeout"
        elif "end" in message:
            self._deadline = None
            self._overdue = "timeout"
        else:
            self._say({"pong": self._greeting.hex()})

    def _heed(self, line: bytes) -> bytes:
        """Let a call that a signal should end, but did not, end soon; return what follows the signals."""
        message = line.lstrip(_SIGNAL_BYTES)
        signals = line[: len(line) - len(message)]
        if self._deadline is not None and _ENDING_SIGNALS.intersection(signals):
            self._deadline = min(self._deadline, time.monotonic() + _GRACE_SECONDS)
            self._overdue = "interrupted"
        return message

    def _forward(self, listener: socket.socket) -> None:
        client = self._admit(listener)
        listener.close()  # one client only: nobody else may slip in
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pump, args=(client, self._device, False), daemon=True).start()
        self._pump(self._device, client, True)

    def _admit(self, listener: socket.socket) -> socket.socket:
        """Wait for the owner's client; others on this machine do not know the token and are sent away."""
        while True:
            client, _ = listener.accept()
            client.settimeout(_HELLO_SECONDS)
            try:
                magic, size = struct.unpack("<ii", _receive(client, 8))
                name = b"client:" + self._token.encode()
                if magic == _MAGIC and len(name) <= size <= _MAX_KEY:
                    key = _receive(client, size)
                    if secrets.compare_digest(key[: len(name)], name):
                        client.settimeout(None)
                        key = b"client:" + key[len(name) :]
                        self._asked = time.monotonic()
                        self._device.sendall(struct.pack("<ii", _MAGIC, len(key)) + key)
                        return client
            except OSError:
                pass
            client.close()

    def _pump(self, source: socket.socket, sink: socket.socket, from_device: bool) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                self._asked = None if from_device else self._asked or time.monotonic()
                if from_device and len(self._greeting) < 4:
                    self._greeting = (self._greeting + block)[:4]
                sink.sendall(block)
        self._end("lost")

    def _end(self, reason: str) -> NoReturn:
        with self._ending:  # never released: the first reason is the one that is told
            with contextlib.suppress(OSError):
                self._say({"ended": reason, "greeting": self._greeting.hex()})
            # Leaving closes every socket, which is what ends the blocked call on the other side.
            os._exit(0)

    def _say(self, message: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(message).encode() + b"\n")


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = source.recv(count - len(data))
        if not block:
            raise ConnectionResetError
        data += block
    return data


if __name__ == "__main__":
    # A Ctrl-C is for the owner, which decides what becomes of the session.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # the owner has gone
        _Relay(*(socket.socket(fileno=int(number)) for number in sys.argv[1:3])).serve()
