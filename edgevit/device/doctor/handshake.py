"""Who answers at a port: told by the first bytes, without taking a session from anybody."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from dataclasses import dataclass
from typing import Literal

Protocol = Literal["rpc", "tracker"]

_RPC_MAGIC, _TRACKER_MAGIC = 0xFF271, 0x2F271
_BUSY, _OTHER_KEY = 1, 2  # what an RPC server adds to its magic when it refuses
# No server has this key. One that checks keys refuses and goes on waiting, so nobody is disturbed.
_KEY = b"client:edgevit-doctor"
_HELLO = {
    "rpc": struct.pack("<ii", _RPC_MAGIC, len(_KEY)) + _KEY,
    "tracker": struct.pack("<i", _TRACKER_MAGIC),
}
_LINE_SECONDS = 1.0


@dataclass(frozen=True)
class Peer:
    """Who answers.

    Attributes:
        kind: ``absent`` (connection refused), ``unreachable`` (no way there, or dropped on it), ``rpc``,
            ``tracker``, ``silent`` (accepts and says nothing) or ``other`` (some other program).
        busy: an RPC server that says that it is serving somebody.
        reason: for ``unreachable``, the system's words.
    """

    kind: Literal["absent", "unreachable", "rpc", "tracker", "silent", "other"]
    busy: bool = False
    reason: str = ""


def identify(host: str, port: int, *, expected: Protocol, timeout: float = 3.0) -> Peer:
    """Find out who listens at ``host:port``.

    Args:
        host: name or address.
        port: TCP port.
        expected: the protocol to try first; the other is tried only if the peer hangs up at this one.
        timeout: seconds for the connection, and again for the answer.
    """
    other: Protocol = "tracker" if expected == "rpc" else "rpc"
    peer = _greet(host, port, expected, timeout)
    if peer.kind == "other":
        second = _greet(host, port, other, timeout)
        return second if second.kind in ("rpc", "tracker") else peer
    return peer


def _greet(host: str, port: int, protocol: Protocol, timeout: float) -> Peer:
    try:
        connection = socket.create_connection((host, port), timeout=timeout)
    except OSError as fault:
        if fault.errno == errno.ECONNREFUSED:
            return Peer("absent")
        return Peer("unreachable", reason=fault.strerror or str(fault) or type(fault).__name__)
    with connection:
        try:
            connection.sendall(_HELLO[protocol])
            answer = _receive(connection)
        except TimeoutError:
            return Peer("other") if _talks_in_lines(connection) else Peer("silent")
        except OSError:
            return Peer("other")
    return _understand(answer)


def _receive(connection: socket.socket) -> bytes:
    answer = b""
    while len(answer) < 4 and (block := connection.recv(4 - len(answer))):
        answer += block
    return answer


def _talks_in_lines(connection: socket.socket) -> bool:
    """Whether an empty line gets an answer, as from a web server that waits for the end of a request."""
    with contextlib.suppress(OSError):
        connection.settimeout(_LINE_SECONDS)
        connection.sendall(b"\r\n\r\n")
        connection.recv(1)
        return True
    return False


def _understand(answer: bytes) -> Peer:
    if len(answer) < 4:
        return Peer("other")
    code = struct.unpack("<i", answer)[0]
    if code == _TRACKER_MAGIC:
        return Peer("tracker")
    if code in (_RPC_MAGIC, _RPC_MAGIC + _OTHER_KEY):
        return Peer("rpc")
    return Peer("rpc", busy=True) if code == _RPC_MAGIC + _BUSY else Peer("other")
