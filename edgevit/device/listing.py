"""The devices a tracker knows."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from edgevit.device.tracker import tracker_summary


class KeyStatus(BaseModel):
    """Devices registered under one key.

    Attributes:
        key: what clients ask for.
        devices: addresses, ``host:port``.
        free: how many wait for a client.
        busy: how many are serving one.
        pending: clients waiting for a device.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    devices: tuple[str, ...]
    free: int
    busy: int
    pending: int


def list_devices(host: str, port: int) -> list[KeyStatus]:
    """Ask a tracker for its devices; keys in alphabetical order.

    A key without devices is listed while clients wait for one.

    Raises:
        DeviceUnreachable: no tracker answers there.
        DeviceTimeout: it stopped answering.
    """
    summary = tracker_summary(host, port)
    addresses: dict[str, list[str]] = {}
    for server in summary.get("server_info", []):
        device_host, device_port = server["addr"]
        shown = f"[{device_host}]" if ":" in str(device_host) else device_host
        addresses.setdefault(server["key"].removeprefix("server:"), []).append(f"{shown}:{device_port}")
    queues = summary.get("queue_info", {})
    found = []
    for key in sorted({*addresses, *queues}):
        devices = tuple(sorted(addresses.get(key, [])))
        queue = queues.get(key, {})
        free, pending = int(queue.get("free", 0)), int(queue.get("pending", 0))
        if devices or pending:
            busy = max(0, len(devices) - free)
            found.append(KeyStatus(key=key, devices=devices, free=free, busy=busy, pending=pending))
    return found
