"""Open a session from what a user says: one place, whatever the way."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable

from edgevit.device.guard import dial
from edgevit.device.rpc import CONNECT_TIMEOUT, RpcSession
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.target_schema import Target

_ADDRESS = re.compile(r"(\[(?P<v6>[^\[\]\s]+)\]|(?P<host>[^\s:/\[\]]+))(:(?P<port>[0-9]{1,5}))?")

DEFAULT_PORT = 9090
TRACKER_PORT = 9190


def connect(
    *,
    rpc: str | None = None,
    tracker: str | None = None,
    key: str | None = None,
    ssh: str | None = None,
    adb: str | None = None,
    emulate: Target | None = None,
    checked: bool = True,
    in_process: bool = False,
    timeout: float = CONNECT_TIMEOUT,
    progress: Callable[[int, int], None] | None = None,
) -> Session:
    """Open a session.

    With no arguments: a process of its own on this machine.

    Args:
        rpc: ``host:port`` of edgevit's server or a stock TVM RPC server.
        tracker: ``host:port`` of a TVM tracker; needs ``key``.
        key: which devices of the tracker will do.
        ssh: a host that OpenSSH reaches.
        adb: serial of a phone that adb reaches; empty for the only one.
        emulate: run this target's code under QEMU, or its GPU's kernels on this machine.
        checked: whether an emulated GPU's accesses to memory are checked, which takes about ten times as long.
        in_process: run in the calling process.
        timeout: seconds to reach the device, or to wait for a free one.
        progress: told of a server's build, where one is needed: files done, files in all.

    Raises:
        UserError: the arguments contradict each other.
        DeviceUnreachable, DeviceBusy, DeviceTimeout: the device cannot be had.
        ToolchainError: the emulator, ssh or adb is missing.
    """
    ways = [rpc is not None, tracker is not None, ssh is not None, adb is not None, emulate is not None, in_process]
    if sum(ways) > 1:
        raise UserError(
            "more than one way to the device was given.",
            advice="Choose one of --rpc, --tracker, --ssh, --adb, --emulate and --local.",
        )
    if (tracker is None) != (key is None):
        raise UserError("--tracker and --key belong together.", advice="Give both, or neither.")
    if key is not None and not key.strip():
        raise UserError("the key is empty.", advice="Give the key under which the device registered.")
    if not (math.isfinite(timeout) and timeout > 0):
        raise UserError(f"{timeout:g} s is no time limit.", advice="Give --timeout a number above 0.")
    if rpc is not None:
        host, port = parse_address(rpc, DEFAULT_PORT)
        return RpcSession(dial(host, port, timeout=timeout), f"{host}:{port}", kind="rpc", handshake_timeout=timeout)
    if tracker is not None and key is not None:
        return _through_tracker(tracker, key, timeout)
    if ssh is not None:
        from edgevit.device.ssh import connect_ssh

        return connect_ssh(ssh, progress=progress, timeout=timeout)
    if adb is not None:
        from edgevit.device.adb import connect_adb

        return connect_adb(adb, progress=progress, timeout=timeout)
    if emulate is not None:
        from edgevit.device.emulate import connect_emulated

        return connect_emulated(emulate, checked=checked, progress=progress)
    if in_process:
        from edgevit.device.local import LocalSession

        return LocalSession()
    from edgevit.device.spawn import connect_process

    return connect_process()


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """``host``, ``host:port``, ``v6``, ``[v6]`` or ``[v6]:port`` → host and port.

    Raises:
        UserError: it is none of these.
    """
    text = text.strip()
    if _is_ipv6(text):
        return text, default_port
    match = _ADDRESS.fullmatch(text)
    host = match["v6"] or match["host"] if match else None
    port = int(match["port"] or default_port) if match else 0
    if match is None or host is None or not 0 < port < 65536 or (match["v6"] and not _is_ipv6(host)):
        raise UserError(f"{text!r} is not an address.", advice="Write host:port, such as 192.0.2.7:9090.")
    return host, port


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _through_tracker(tracker: str, key: str, timeout: float) -> RpcSession:
    from edgevit.device.tracker import request_device

    tracker_host, tracker_port = parse_address(tracker, TRACKER_PORT)
    host, port, match_key = request_device(tracker_host, tracker_port, key, timeout=timeout)
    return RpcSession(
        dial(host, port, timeout=timeout),
        f"{key} at {host}:{port}",
        kind="tracker",
        key=match_key,
        handshake_timeout=timeout,
    )
