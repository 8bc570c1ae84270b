"""Ask a TVM tracker for a device."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from edgevit.errors import DeviceBusy, DeviceTimeout, DeviceUnreachable

_MAGIC = 0x2F271
_REQUEST, _SUMMARY, _SUCCESS = 4, 6, 0
_MAX_MESSAGE = 1 << 20


def request_device(host: str, port: int, key: str, *, timeout: float) -> tuple[str, int, str]:
    """Wait for a free device of that key.

    Returns:
        Its host, port and the match key its server expects.

    Raises:
        DeviceUnreachable: no tracker there, or it knows no device of that key.
        DeviceBusy: devices of that key exist, and none became free within ``timeout`` seconds.
    """
    where = f"tracker {host}:{port}"
    known = _devices_of(tracker_summary(host, port), key)
    if not known:
        raise DeviceUnreachable(
            f"no device is registered under the key {key!r}.",
            where=where,
            advice="Start a server there with --tracker and --key; 'edgevit devices list' shows what is known.",
        )
    with _connect(host, port, timeout) as tracker:
        try:
            reply = _ask(tracker, [_REQUEST, key, "", 1])
        except TimeoutError as error:
            raise DeviceBusy(
                f"all {known} device(s) of key {key!r} stayed busy for {timeout:g} s.",
                where=where,
                advice="Wait, or give --timeout more.",
            ) from error
    if reply[0] != _SUCCESS:
        raise DeviceUnreachable(f"the tracker refused: {reply!r}.", where=where)
    device_host, device_port, match_key = reply[1]
    return str(device_host), int(device_port), str(match_key)


def tracker_summary(host: str, port: int, *, timeout: float = 5.0) -> dict[str, Any]:
    """What a tracker knows: ``server_info`` (devices) and ``queue_info`` (free and pending per key).

    Raises:
        DeviceUnreachable: no tracker answers there.
    """
    with _connect(host, port, timeout) as tracker:
        try:
            reply = _ask(tracker, [_SUMMARY])
        except TimeoutError as error:
            raise DeviceTimeout(f"no answer within {timeout:g} s.", where=f"tracker {host}:{port}") from error
    return dict(reply[1])


def _devices_of(summary: dict[str, Any], key: str) -> int:
    return sum(1 for server in summary.get("server_info", []) if server.get("key") == f"server:{key}")


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    where = f"tracker {host}:{port}"
    try:
        tracker = socket.create_connection((host, port), timeout=timeout)
    except OSError as error:
        raise DeviceUnreachable(
            f"cannot connect: {error.strerror or error}.",
            where=where,
            advice="Start one with 'python -m tvm.exec.rpc_tracker --host 127.0.0.1 --port 9190'.",
        ) from error
    try:
        tracker.sendall(struct.pack("<i", _MAGIC))
        if struct.unpack("<i", _receive(tracker, 4))[0] != _MAGIC:
            raise DeviceUnreachable("something answers there, but it is no TVM tracker.", where=where)
    except (OSError, struct.error) as error:
        tracker.close()
        raise DeviceUnreachable(
            f"it accepts connections but does not answer as a tracker: {error}.",
            where=where,
            advice="Check the port; a tracker that was killed can leave a worker that keeps it.",
        ) from error
    return tracker


def _ask(tracker: socket.socket, message: list[object]) -> Any:
    data = json.dumps(message).encode()
    tracker.sendall(struct.pack("<i", len(data)) + data)
    size = struct.unpack("<i", _receive(tracker, 4))[0]
    if not 0 <= size <= _MAX_MESSAGE:
        raise OSError(f"a message of {size} bytes")
    return json.loads(_receive(tracker, size))


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = source.recv(count - len(data))
        if not block:
            raise ConnectionResetError("the connection ended")
        data += block
    return data
