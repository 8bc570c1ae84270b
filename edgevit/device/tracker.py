"""Ask a TVM tracker for a device."""

from __future__ import annotations

import json
import socket
import struct
import time
from typing import Any

from edgevit.errors import DeviceBusy, DeviceLost, DeviceTimeout, DeviceUnreachable

_MAGIC = 0x2F271
_REQUEST, _SUMMARY, _SUCCESS = 4, 6, 0
_MAX_MESSAGE = 1 << 20
_REGISTER_SECONDS = 2.0


def request_device(host: str, port: int, key: str, *, timeout: float) -> tuple[str, int, str]:
    """Wait for a free device of that key.

    Returns:
        Its host, port and the match key its server expects.

    Raises:
        DeviceUnreachable: no tracker there, or it knows no device of that key.
        DeviceBusy: devices of that key exist, and none became free within ``timeout`` seconds.
    """
    where = f"tracker {host}:{port}"
    end = time.monotonic() + min(timeout, _REGISTER_SECONDS)
    # A server that met a port scan, or whose tracker was restarted, registers again after a moment.
    while not (known := _devices_of(tracker_summary(host, port), key)) and time.monotonic() < end:
        time.sleep(0.2)
    if not known:
        raise DeviceUnreachable(
            f"no device is registered under the key {key!r}.",
            where=where,
            advice="Start a server there with --tracker and --key; 'edgevit devices list' shows what is known.",
        )
    try:
        reply = _question(host, port, [_REQUEST, key, "", 1], timeout)
    except TimeoutError as error:
        raise DeviceBusy(
            f"all {known} device(s) of key {key!r} stayed busy for {timeout:g} s.",
            where=where,
            advice="Wait, or give --timeout more.",
        ) from error
    try:
        code, (device_host, device_port, match_key) = reply
        device = str(device_host), int(device_port), str(match_key)
    except (TypeError, ValueError):
        code, device = None, ("", 0, "")
    if code != _SUCCESS:
        raise DeviceUnreachable(
            f"the tracker refused: {reply!r}.", where=where, advice="Its output says why; restart it if need be."
        )
    return device


def tracker_summary(host: str, port: int, *, timeout: float = 5.0) -> dict[str, Any]:
    """What a tracker knows: ``server_info`` (devices) and ``queue_info`` (free and pending per key).

    Raises:
        DeviceUnreachable: no tracker answers there.
    """
    where = f"tracker {host}:{port}"
    try:
        reply = _question(host, port, [_SUMMARY], timeout)
    except TimeoutError as error:
        raise DeviceTimeout(f"no answer within {timeout:g} s.", where=where, advice="Restart it.") from error
    if not isinstance(reply, list) or len(reply) != 2 or not isinstance(reply[1], dict):
        raise _no_tracker(host, port)
    return reply[1]


def _devices_of(summary: dict[str, Any], key: str) -> int:
    return sum(1 for server in summary.get("server_info", []) if server.get("key") == f"server:{key}")


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    where = f"tracker {host}:{port}"
    try:
        tracker = socket.create_connection((host, port), timeout=timeout)
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
        reason = getattr(error, "strerror", None) or error
        raise DeviceUnreachable(
            f"cannot connect: {reason}.",
            where=where,
            advice="Start one with 'edgevit devices tracker', and check address and port.",
        ) from error
    try:
        tracker.sendall(struct.pack("<i", _MAGIC))
        if struct.unpack("<i", _receive(tracker, 4))[0] != _MAGIC:
            raise _no_tracker(host, port)
    except OSError as error:
        tracker.close()
        raise DeviceUnreachable(
            f"it accepts connections but does not answer as a tracker: {error}.",
            where=where,
            advice="Check the port; a tracker that was killed can leave a worker that keeps it.",
        ) from error
    except BaseException:
        tracker.close()
        raise
    return tracker


def _no_tracker(host: str, port: int) -> DeviceUnreachable:
    return DeviceUnreachable(
        "something answers there, but it is no TVM tracker.",
        where=f"tracker {host}:{port}",
        advice="Check the port.",
    )


def _question(host: str, port: int, message: list[object], timeout: float) -> Any:
    """One question on a connection of its own; TimeoutError when the answer takes longer than ``timeout``."""
    with _connect(host, port, timeout) as tracker:
        try:
            return _ask(tracker, message)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise DeviceLost(
                f"it ended the connection instead of answering: {error}.",
                where=f"tracker {host}:{port}",
                advice="Look at its output, restart it.",
            ) from error


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
