"""Let a server that is reached through a forwarded port register with a tracker under that port.

A server tells the tracker the port that it listens on. Behind ``adb forward`` its clients must take another one, of
this machine. The relay stands between the two and puts that port into what the server says; all else passes.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from typing import Any

_PUT, _UPDATE_INFO = 3, 5  # tvm.rpc.base.TrackerCode
_MAX_MESSAGE = 1 << 20
_HOST = "127.0.0.1"


class TrackerRelay:
    """A port of this machine's loopback that stands for a tracker.

    Attributes:
        port: to listen on.
        public_port: that clients take to the server; 0 until it is known: then nobody is let through.
    """

    def __init__(self, tracker: tuple[str, int]) -> None:
        """Listen at once."""
        self.public_port = 0
        self._tracker = tracker
        self._listener = socket.create_server((_HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """End it and what goes through it; safe to call twice."""
        for one in (self._listener, *tuple(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                server, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(server,), daemon=True).start()

    def _serve(self, server: socket.socket) -> None:
        with contextlib.suppress(OSError), server:
            if not self.public_port:
                return  # the server tries again
            with socket.create_connection(self._tracker, timeout=10) as tracker:
                tracker.settimeout(None)
                self._open |= {server, tracker}
                threading.Thread(target=_copy, args=(tracker, server), daemon=True).start()
                with contextlib.suppress(OSError, ValueError):
                    self._pass(server, tracker)
                self._open -= {server, tracker}
                for one in (server, tracker):
                    with contextlib.suppress(OSError):
                        one.shutdown(socket.SHUT_RDWR)

    def _pass(self, server: socket.socket, tracker: socket.socket) -> None:
        """The server's words to the tracker: a greeting of four bytes, then messages behind their lengths."""
        tracker.sendall(_receive(server, 4))
        while True:
            size = struct.unpack("<i", _receive(server, 4))[0]
            if not 0 <= size <= _MAX_MESSAGE:
                raise ValueError("no message of a tracker's")
            data = json.dumps(self._rewritten(json.loads(_receive(server, size)))).encode()
            tracker.sendall(struct.pack("<i", len(data)) + data)

    def _rewritten(self, message: Any) -> Any:
        if message[0] == _PUT:
            message[2][0] = self.public_port
        elif message[0] == _UPDATE_INFO and "addr" in message[1]:
            message[1]["addr"] = [_HOST, self.public_port]
        return message


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            sink.sendall(block)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = source.recv(count - len(data))
        if not block:
            raise ConnectionResetError
        data += block
    return data
