"""The relay's process: ``python -m edgevit.device.relay DEVICE_FD CONTROL_FD``; see :mod:`edgevit.device.guard`.

Lines of JSON on the control socket. From the owner: ``{"begin": seconds}`` sets the deadline, ``{"end": true}``
clears it, ``{"ping": true}`` asks for a sign of life. To the owner: ``{"port": n}`` once, ``{"pong": greeting}``,
and ``{"ended": "timeout" | "lost", "greeting": hex}`` as the last line.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from typing import Any, NoReturn

_BLOCK = 1 << 18
_UNGUARDED_SECONDS = 30.0


class _Relay:
    def __init__(self, device: socket.socket, control: socket.socket) -> None:
        self._device = device
        self._control = control
        self._greeting = b""
        self._deadline: float | None = None
        self._asked: float | None = None  # when the client last sent something that is not answered yet
        self._ending = threading.Lock()

    def serve(self) -> None:
        """Forward until the owner, the client or the device goes, or a deadline passes."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self._say({"port": listener.getsockname()[1]})
        threading.Thread(target=self._forward, args=(listener,), daemon=True).start()
        pending = b""
        while True:
            self._control.settimeout(max(0.001, self._remaining()))
            try:
                block = self._control.recv(4096)
            except TimeoutError:
                if self._remaining() <= 0:
                    self._end("timeout")
                continue
            if not block:
                self._end("lost")
            *lines, pending = (pending + block).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))

    def _remaining(self) -> float:
        """Seconds until the next look at the clock; negative once a deadline has passed.

        Outside any deadline the client still talks: freeing a remote object waits for an answer too.
        """
        if self._deadline is not None:
            return self._deadline - time.monotonic()
        if self._asked is not None:
            return self._asked + _UNGUARDED_SECONDS - time.monotonic()
        return _UNGUARDED_SECONDS

    def _obey(self, message: dict[str, Any]) -> None:
        if "begin" in message:
            self._deadline = time.monotonic() + float(message["begin"])
        elif "end" in message:
            self._deadline = None
        else:
            self._say({"pong": self._greeting.hex()})

    def _forward(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        listener.close()  # one client only: nobody else may slip in
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._pump, args=(client, self._device, False), daemon=True).start()
        self._pump(self._device, client, True)

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


if __name__ == "__main__":
    # A Ctrl-C is for the owner, which decides what becomes of the session.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Relay(socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2]))).serve()
