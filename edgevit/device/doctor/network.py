"""Probes of ports, servers, trackers and ssh."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys

from edgevit.device.connect import DEFAULT_PORT, TRACKER_PORT, parse_address
from edgevit.device.doctor.command import run
from edgevit.device.doctor.finding import Finding, error, ok, warning
from edgevit.device.doctor.handshake import Peer, Protocol, identify
from edgevit.device.doctor.listener import Listener, find_listener
from edgevit.device.doctor.sessions import try_session
from edgevit.device.listing import KeyStatus, list_devices
from edgevit.errors import EdgevitError, TargetError, UserError

_SSH_SECONDS = 15


def loopback() -> list[Finding]:
    """Whether this process may listen at all; sandboxes forbid it."""
    try:
        with socket.create_server(("127.0.0.1", 0)):
            return [ok("loopback", "a server can listen on 127.0.0.1")]
    except OSError as fault:
        return [
            error(
                "loopback",
                f"cannot listen on 127.0.0.1: {fault.strerror or fault}",
                "Bring the interface up ('ip link set lo up'), or leave the sandbox that forbids it.",
            )
        ]


def default_ports() -> list[Finding]:
    """Who has the ports that servers and trackers take by default."""
    return [
        _port(DEFAULT_PORT, "rpc", "an RPC server"),
        _port(TRACKER_PORT, "tracker", "a tracker"),
    ]


def rpc_server(address: str) -> list[Finding]:
    """Whether an RPC server is there, free, and says what it is."""
    name = f"RPC server {address}"
    try:
        host, port = parse_address(address, DEFAULT_PORT)
    except UserError as fault:
        return [error(name, fault.message, fault.advice)]
    peer = identify(host, port, expected="rpc")
    if peer.kind == "tracker":
        return [error(name, "this is a tracker", f"Use --tracker {address} --key KEY.")]
    if peer.kind != "rpc":
        start = f"Start one there: edgevit devices serve --host {host} --port {port}."
        return [_nobody(name, host, port, peer, "an RPC server", start)]
    if peer.busy:
        return [warning(name, "it answers, and is serving somebody else", "Wait until it is free.")]
    return [try_session(name, {"rpc": address})]


def tracker(address: str, key: str | None) -> list[Finding]:
    """Whether a tracker is there, what it knows, and whether its devices can be reached from here."""
    name = f"tracker {address}"
    try:
        host, port = parse_address(address, TRACKER_PORT)
    except UserError as fault:
        return [error(name, fault.message, fault.advice)]
    peer = identify(host, port, expected="tracker")
    if peer.kind == "rpc":
        return [error(name, "this is an RPC server, not a tracker", f"Use --rpc {address}.")]
    if peer.kind != "tracker":
        start = f"Start one there: edgevit devices tracker --host {host} --port {port}."
        return [_nobody(name, host, port, peer, "a tracker", start)]
    try:
        known = list_devices(host, port)
    except EdgevitError as fault:
        return [error(name, fault.message, fault.advice)]
    findings = [ok(name, _summary(known))]
    if listener := _local_listener(host, port):
        findings += _orphan(name, listener)
    wanted = [entry for entry in known if key in (None, entry.key)]
    if key is not None and not any(entry.devices for entry in wanted):
        advice = f"Start a device with: edgevit devices serve --tracker {address} --key {key}."
        findings.append(error(f"key {key}", f"no device of this key; there are: {_keys(known)}", advice))
    return findings + [_device(entry.key, device) for entry in wanted for device in entry.devices]


def ssh_client() -> list[Finding]:
    """Whether OpenSSH's client is there."""
    path = shutil.which("ssh")
    return [ok("ssh", path or "no client on PATH; only --ssh needs it")]


def ssh_host(destination: str) -> list[Finding]:
    """Whether ssh logs in without a question, and edgevit has a server for that host."""
    from edgevit.device.server_build import server_cached

    name = f"ssh {destination}"
    if destination.startswith("-") or not destination.strip():
        return [error(name, "this is not a host", "Give --ssh user@host.")]
    command = shlex.split(os.environ.get("EDGEVIT_SSH", "ssh"))
    options = ["-T", "-x", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_SSH_SECONDS}"]
    done = run([*command, *options, destination, "uname -sm"], timeout=2 * _SSH_SECONDS)
    if done.code != 0:
        advice = f"Make 'ssh -o BatchMode=yes {destination} uname' work: key installed, host key accepted."
        return [error(name, f"cannot log in: {done.trouble}", advice)]
    system, _, machine = done.output.rpartition("\n")[2].partition(" ")  # a login script may talk before
    is_arm32 = machine in ("armv7l", "armv8l")
    triple = "armv7l-linux-gnueabihf" if is_arm32 else f"{machine}-{system.lower()}-gnu"
    try:
        built = "built" if server_cached(triple) else "built on first use"
    except TargetError as fault:
        return [error(name, f"logs in, but {system} on {machine} has no device server", fault.advice)]
    return [ok(name, f"logs in; {system} on {machine}, its server is {built}")]


def _port(port: int, protocol: Protocol, what: str) -> Finding:
    name = f"port {port}"
    peer = identify("127.0.0.1", port, expected=protocol)
    if peer.kind == "absent":
        return ok(name, f"free; {what} takes it by default")
    listener = find_listener(port)
    if listener is not None and (orphans := _orphan(name, listener)):
        return orphans[0]
    held = f" (process {listener.pid}, {listener.name})" if listener else ""
    if peer.kind == protocol:
        return ok(name, f"{what} is running{held}{', serving somebody' if peer.busy else ''}")
    if peer.kind == "silent":
        return warning(name, f"taken by something that does not answer{held}: {_silence(protocol)}", _find(port))
    said = {"rpc": "an RPC server", "tracker": "a tracker"}.get(peer.kind, "another program")
    command = "serve" if protocol == "rpc" else "tracker"
    advice = f"Choose another port: edgevit devices {command} --port {port + 100}."
    return warning(name, f"taken by {said}{held}; {what} would take it by default", advice)


def _nobody(name: str, host: str, port: int, peer: Peer, wanted: str, start: str) -> Finding:
    where = f"{host}:{port}"
    if peer.kind == "absent":
        return error(name, f"the host is there, and nothing listens at {where}", start)
    if peer.kind == "unreachable":
        advice = "Check name and address, that the device is on, and that no firewall drops the port."
        return error(name, f"cannot be reached: {peer.reason}", advice)
    if peer.kind == "silent":
        protocol: Protocol = "rpc" if wanted == "an RPC server" else "tracker"
        return error(name, f"accepts connections and says nothing: {_silence(protocol)}", _find(port))
    return error(name, f"something answers at {where}, but it is not {wanted}", "Check the port.")


def _silence(protocol: Protocol) -> str:
    if protocol == "rpc":
        return "busy (a stock TVM server lets others wait) or hung"
    return "a hung tracker, or the worker that a killed one left behind"


def _find(port: int) -> str:
    look = f"lsof -nP -iTCP:{port} -sTCP:LISTEN" if sys.platform == "darwin" else f"ss -ltnp 'sport = :{port}'"
    return f'Find its process with "{look}" on that machine; wait for it, or kill it.'


def _orphan(name: str, listener: Listener) -> list[Finding]:
    if not listener.orphan:
        return []
    detail = f"held by process {listener.pid}, a worker whose tracker or server was killed"
    return [warning(name, detail, f"kill {listener.pid}, then start the tracker or server again.")]


def _local_listener(host: str, port: int) -> Listener | None:
    return find_listener(port) if host in ("127.0.0.1", "::1", "localhost") else None


def _summary(known: list[KeyStatus]) -> str:
    if not known:
        return "answers; no device is registered"
    return "; ".join(
        f"{entry.key}: {len(entry.devices)} known, {entry.free} free, {entry.pending} waiting" for entry in known
    )


def _keys(known: list[KeyStatus]) -> str:
    return ", ".join(entry.key for entry in known if entry.devices) or "none"


def _device(key: str, address: str) -> Finding:
    name = f"device {key} at {address}"
    host, port = parse_address(address, DEFAULT_PORT)
    peer = identify(host, port, expected="rpc")
    if peer.kind == "rpc":
        return ok(name, "reachable" + (", serving somebody" if peer.busy else ", free"))
    if peer.kind == "silent":
        return ok(name, "reachable, and busy or hung")
    trouble = peer.reason or ("nothing listens there" if peer.kind == "absent" else "not an RPC server")
    advice = "Start its server with --custom-addr set to an address that this machine reaches."
    return warning(name, f"the tracker sends clients there, and it cannot be reached: {trouble}", advice)
