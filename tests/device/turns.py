"""A slow line to a server that counts how often the client waits for an answer: ``python turns.py PORT DELAY``.

It is a process of its own, because TVM's client waits for some answers with Python's interpreter lock held.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

_BLOCK = 1 << 20


class Line:
    """What goes over it arrives some seconds later, both ways.

    Attributes:
        port: of this machine, where one client may connect.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = self._ask()

    @property
    def turns(self) -> int:
        """Requests of the client so far: what it sent after something had come back."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._ask()

    def _ask(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextlib.contextmanager
def slow_line(server_port: int, delay: float) -> Iterator[Line]:
    """A line to a server on this machine, with ``delay`` seconds each way."""
    command = [sys.executable, __file__, str(server_port), str(delay)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Line(process)
        finally:
            process.kill()


class _Carrier:
    """The process: one client, one server, and two threads each way."""

    def __init__(self, server_port: int, delay: float) -> None:
        self._server_port = server_port
        self._delay = delay
        self._answered = True
        self.turns = 0

    def serve(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        server = socket.create_connection(("127.0.0.1", self._server_port))
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._carry(client, server, asks=True)
        self._carry(server, client, asks=False)

    def _carry(self, source: socket.socket, sink: socket.socket, *, asks: bool) -> None:
        way: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def take() -> None:
            with contextlib.suppress(OSError):
                while block := source.recv(_BLOCK):
                    self.turns += asks and self._answered
                    self._answered = not asks
                    way.put((time.monotonic() + self._delay, block))
            way.put((0.0, b""))

        def give() -> None:
            with contextlib.suppress(OSError):
                while True:
                    due, block = way.get()
                    time.sleep(max(0.0, due - time.monotonic()))
                    if not block:
                        break
                    sink.sendall(block)
                sink.shutdown(socket.SHUT_WR)

        for work in (take, give):
            threading.Thread(target=work, daemon=True).start()


def _main() -> None:
    carrier = _Carrier(int(sys.argv[1]), float(sys.argv[2]))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=carrier.serve, args=(listener,), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        for _ in sys.stdin:
            print(carrier.turns, flush=True)


if __name__ == "__main__":
    _main()
