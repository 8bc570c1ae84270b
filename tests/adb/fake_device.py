"""A phone on a TCP port for the real adb client: adb's wire protocol, with a folder of this machine as the phone.

Written from the protocol's description in Android's sources (``packages/modules/adb``: protocol.txt, SYNC.TXT,
shell_protocol.h, file_sync_protocol.h). Commands run in this machine's POSIX shell, with the phone's paths turned
into those of the folder; pushed ARM programs run under QEMU.

It is a program, for a client of TVM's waits for an answer without giving up Python's interpreter lock:
``python -m tests.adb.fake_device FOLDER OPTIONS`` prints its port as a line of JSON, does what lines on its
standard input say (``unplug``, ``full``), and ends with it. ``OPTIONS`` is JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.adb.fake_services import Phone, forward_service, reverse_service, shell_service, sync_service
from tests.adb.phone_texts import PHONES

VERSION = 0x01000001  # from this one on, payloads carry no check sum
MAX_PAYLOAD = 256 * 1024
FEATURES = "shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir"

_HEADER = struct.Struct("<6I")
_AUTH_TOKEN = 1


def _code(name: str) -> int:
    return int.from_bytes(name.encode(), "little")


class FakeDevice:
    """A phone that listens for adb.

    Args:
        phone: what it is made of.
        authorised: whether its user allowed debugging.
        features: of adb's that it has.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, phone: Phone, *, authorised: bool = True, features: str = FEATURES) -> None:
        self.phone = phone
        self._authorised = authorised
        self._features = features
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[Connection] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def unplug(self) -> None:
        """Be gone: every connection ends, and none is taken any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            connection.end()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = Connection(peer, self)
                self._connections.append(connection)
                threading.Thread(target=connection.serve, daemon=True).start()

    def banner(self) -> bytes | None:
        """What the phone introduces itself with; None for one that does not trust adb."""
        if not self._authorised:
            return None
        told = self.phone.properties
        model, device = told["ro.product.model"], told["ro.product.device"]
        facts = f"ro.product.name={device};ro.product.model={model};ro.product.device={device};"
        return f"device::{facts}features={self._features}".encode()


class Connection:
    """A transport: messages of many streams on one socket."""

    def __init__(self, peer: socket.socket, device: FakeDevice) -> None:
        self.device = device
        self._peer = peer
        self._sending = threading.Lock()
        self._streams: dict[int, Stream] = {}
        self._opened = 0
        self._listeners: list[socket.socket] = []

    def keep(self, listener: socket.socket) -> None:
        """A port of the phone's that ends with the connection."""
        self._listeners.append(listener)

    def serve(self) -> None:
        """Until the socket ends; then every stream does."""
        try:
            while True:
                command, first, second, size, _, _ = _HEADER.unpack(self._receive(_HEADER.size))
                data = self._receive(size)
                self._handle(command.to_bytes(4, "little").decode(), first, second, data)
        except (OSError, EOFError):
            pass
        finally:
            self.end()
            for stream in list(self._streams.values()):
                stream.hang_up()

    def end(self) -> None:
        """Pull the cable."""
        with contextlib.suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def send(self, name: str, first: int, second: int, data: bytes = b"") -> None:
        """One message; OSError once the socket has ended."""
        command = _code(name)
        with self._sending:
            self._peer.sendall(_HEADER.pack(command, first, second, len(data), 0, command ^ 0xFFFFFFFF) + data)

    def open(self, service: str) -> Stream:
        """A stream to adb that the phone begins, as for a reverse forward."""
        stream = self._new_stream(remote=0)
        self.send("OPEN", stream.local, 0, service.encode() + b"\0")
        return stream

    def _handle(self, name: str, first: int, second: int, data: bytes) -> None:
        if name in ("CNXN", "AUTH"):
            banner = self.device.banner()
            if banner is not None:
                self.send("CNXN", VERSION, MAX_PAYLOAD, banner)
            elif name == "CNXN" or first == 2:  # 2: signed with a key that the phone does not know
                self.send("AUTH", _AUTH_TOKEN, 0, bytes(20))
        elif name == "OPEN":
            self._serve_stream(self._new_stream(remote=first), data.rstrip(b"\0").decode())
        elif stream := self._streams.get(second):
            if name == "WRTE":
                stream.feed(data)
                self.send("OKAY", stream.local, stream.remote)
            elif name == "OKAY":
                stream.acknowledge(first)
            elif name == "CLSE":
                stream.hang_up()

    def _new_stream(self, remote: int) -> Stream:
        self._opened += 1
        stream = self._streams[self._opened] = Stream(self, self._opened, remote)
        return stream

    def _serve_stream(self, stream: Stream, service: str) -> None:
        kind, _, argument = service.partition(":")
        serve: Callable[[], None] | None = None
        if kind.split(",")[0] in ("shell", "exec"):
            protocol = "v2" in kind.split(",")
            serve = lambda: shell_service(stream, self.device.phone, argument, protocol=protocol)  # noqa: E731
        elif kind == "sync":
            serve = lambda: sync_service(stream, self.device.phone)  # noqa: E731
        elif kind == "tcp":
            serve = lambda: forward_service(stream, int(argument))  # noqa: E731
        elif kind == "reverse":
            serve = lambda: reverse_service(stream, self, argument)  # noqa: E731
        if serve is None:
            self.send("CLSE", 0, stream.remote)
            return
        self.send("OKAY", stream.local, stream.remote)
        threading.Thread(target=self._run, args=(stream, serve), daemon=True).start()

    def _run(self, stream: Stream, serve: Callable[[], None]) -> None:
        with contextlib.suppress(OSError, EOFError):
            serve()
        stream.close()

    def forget(self, stream: Stream) -> None:
        """The stream has ended."""
        self._streams.pop(stream.local, None)

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            block = self._peer.recv(count - len(data))
            if not block:
                raise EOFError
            data += block
        return bytes(data)


class Stream:
    """One service's bytes in both directions."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self.local, self.remote = local, remote
        self._connection = connection
        self._incoming = bytearray()
        self._ended = False
        self._changed = threading.Condition()
        self._may_send = remote != 0  # one that was opened here waits for the first OKAY

    def feed(self, data: bytes) -> None:
        """Bytes from adb."""
        with self._changed:
            self._incoming += data
            self._changed.notify_all()

    def acknowledge(self, remote: int) -> None:
        """Adb took the last message; the next may go."""
        with self._changed:
            self.remote = remote
            self._may_send = True
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Adb has ended it, or has gone."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, count: int) -> bytes:
        """Exactly so many bytes; EOFError if it ends before."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._incoming) >= count or self._ended)
            if len(self._incoming) < count:
                raise EOFError
            data = bytes(self._incoming[:count])
            del self._incoming[:count]
            return data

    def read_some(self) -> bytes:
        """What there is, at least a byte; nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._incoming or self._ended)
            data = bytes(self._incoming)
            self._incoming.clear()
            return data

    def write(self, data: bytes) -> None:
        """To adb, which acknowledges message by message; EOFError if it ends before."""
        for begin in range(0, len(data), MAX_PAYLOAD):
            with self._changed:
                self._changed.wait_for(lambda: self._may_send or self._ended)
                if self._ended:
                    raise EOFError
                self._may_send = False
            self._connection.send("WRTE", self.local, self.remote, data[begin : begin + MAX_PAYLOAD])

    def close(self) -> None:
        """End it from here."""
        self._connection.forget(self)
        with contextlib.suppress(OSError):
            self._connection.send("CLSE", self.local, self.remote)
        self.hang_up()


def main(folder: str, options: str) -> None:
    """Be a phone until standard input ends."""
    told = json.loads(options)
    phone = Phone(Path(folder), PHONES[told.pop("phone", "pixel")], told.pop("properties", None))
    device = FakeDevice(phone, **told)
    print(json.dumps({"port": device.port}), flush=True)
    for line in sys.stdin:
        if line.strip() == "unplug":
            device.unplug()
        elif line.strip() == "full":
            phone.full = True
        print(json.dumps({"done": line.strip()}), flush=True)
    device.unplug()
    phone.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
