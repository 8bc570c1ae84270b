"""Make this machine a device: run a server in the foreground, for clients elsewhere or beside."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edgevit.errors import DeviceError, TargetError, ToolchainError, UserError
from edgevit.target_schema import Target

_PORTS_TRIED = 9
_STOP_SECONDS = 5.0


@dataclass(frozen=True)
class ServeOptions:
    """Where a server listens and whom it tells.

    Attributes:
        host: address to listen on.
        port: first port to try; 0 lets the system choose.
        port_end: the last port to try is the one before; None tries nine.
        tracker: ``host:port`` of a tracker to register with; needs ``key``.
        key: name clients ask the tracker for.
        custom_addr: address the tracker gives to clients instead of the one it sees.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    port_end: int | None = None
    tracker: str | None = None
    key: str | None = None
    custom_addr: str | None = None

    def arguments(self) -> list[str]:
        """The options as servers take them.

        Raises:
            UserError: they contradict each other.
        """
        if (self.tracker is None) != (self.key is None):
            raise UserError("--tracker and --key belong together.", advice="Give both, or neither.")
        if self.custom_addr is not None and self.tracker is None:
            raise UserError("--custom-addr is for a tracker.", advice="Give --tracker and --key too.")
        given = {"--host": self.host, "--port": str(self.port)}
        if self.port:
            end = self.port_end or min(self.port + _PORTS_TRIED, 65536)
            if end <= self.port:
                raise UserError(f"--port-end {end} is not above --port {self.port}.", advice="Leave it out.")
            given["--port-end"] = str(end)
        optional = {"--tracker": self.tracker, "--key": self.key, "--custom-addr": self.custom_addr}
        given |= {name: value for name, value in optional.items() if value is not None}
        return [part for name, value in given.items() for part in (name, value)] + ["--exit-with-stdin"]


@dataclass(frozen=True)
class ServerKind:
    """A server program for this machine.

    Attributes:
        command: how to start it, without options.
        label: what it is, for people.
        emulated: whether its code runs under QEMU.
    """

    command: tuple[str, ...]
    label: str
    emulated: bool = False


def choose_server(
    target: Target | None = None,
    *,
    stock: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ServerKind:
    """The server to run here, built if need be.

    Args:
        target: pretend to be this device, under QEMU unless its code runs here anyway.
        stock: TVM's own Python server, which is also what systems get that edgevit's does not exist for.
        progress: told of the build.

    Raises:
        UserError: ``stock`` cannot pretend to be another device.
        ToolchainError: a server cannot be built, or there is no emulator for the target.
    """
    from edgevit.host import detect_host

    try:
        host = detect_host(exact=False)
    except TargetError:
        host = None
    foreign = target is not None and (host is None or target.architecture != host.architecture)
    if target is not None and stock:
        raise UserError("TVM's Python server cannot pretend to be another device.", advice="Leave --stock out.")
    if target is not None and target.os_kernel != "linux":
        raise UserError(f"there is no server for {target.name}.", advice="Servers exist for Linux and Android targets.")
    if stock or (target is None and (host is None or host.system != "linux")):
        return ServerKind((sys.executable, "-m", "edgevit.device.stock_server"), "TVM's Python server")

    from edgevit.device.server_build import build_server

    wanted = target or host
    assert wanted is not None
    emulator = (_emulator(wanted),) if foreign else ()
    server = build_server(wanted.triple, progress=progress)
    label = f"edgevit's server for {wanted.triple}" if target else "edgevit's server"
    return ServerKind((*emulator, str(server)), label, emulated=foreign)


class ForegroundServer:
    """A running server that ends with this process, however that ends; a context manager.

    Its standard input is a pipe of ours, and it ends when that closes.

    Attributes:
        event: what it said when it listened: ``host``, ``port``, ``version``.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it and wait until it listens.

        Raises:
            DeviceError: it ended before.
        """
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # A Ctrl-C in the terminal is for us; the server would otherwise die before its sessions.
            start_new_session=True,
        )
        try:
            self.event = self._listening()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def wait(self) -> None:
        """Return never, unless interrupted.

        Raises:
            DeviceError: the server ended by itself.
        """
        assert self._process.stdout is not None
        while self._process.stdout.readline():
            pass  # it has nothing more to say here; its log goes to stderr
        code = self._process.wait()
        raise DeviceError(f"the server ended by itself: {_ending(code)}.", advice="Its last lines above may say why.")

    def stop(self) -> None:
        """End it and its sessions: politely by closing its stdin, then by force; safe to call twice."""
        process = self._process
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        for insist in (None, process.terminate, process.kill):
            if insist is not None:
                insist()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_STOP_SECONDS)
                break
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> ForegroundServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _listening(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "listening":
                return event
        if self._process.stdin is not None:
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=_STOP_SECONDS)
        raise DeviceError(
            f"the server ended before it listened: {_ending(self._process.poll())}.",
            advice="Its message is above; 'edgevit devices doctor' says who holds which port.",
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on ``host``."""
    import ipaddress

    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    return host == "localhost"


def _emulator(target: Target) -> str:
    from edgevit.device.emulate import find_emulator

    found = find_emulator(target)
    if found is None:
        missing = f"{target.emulator} is not installed" if target.emulator else "there is no emulator"
        raise ToolchainError(
            f"{missing}.", where=target.name, advice="On Debian and Ubuntu: apt-get install qemu-user-static."
        )
    return found


def _ending(code: int | None) -> str:
    if code is None:
        return "it closed its output"
    return f"signal {-code}" if code < 0 else f"exit status {code}"
