"""Make every wait for a device end.

TVM's RPC client blocks in ``recv`` for as long as the device keeps the connection open, in places even while
it holds Python's interpreter lock: no thread of this process could interrupt it. So the client talks to a
relay in a process of its own. When a deadline passes or the far side goes away the relay ends, its sockets
close, the blocked call fails, and the failure is reported as what it was.
"""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevit.errors import DeviceBusy, DeviceError, DeviceLost, DeviceTimeout, DeviceUnreachable

LOST_ADVICE = "Look at the server's output on the device; a crash or lack of memory is likely."
"""What to do when a connection ends, where nothing more is known."""

_RELAY_SECONDS = 10.0
_RELAY = Path(__file__).with_name("relay.py")

# How edgevit's server and TVM's, which stay, take leave of a session that does not.
_FAREWELL = re.compile(
    r"the session's (process|time limit) (crashed|exited|has passed)[^\n]*|the session was ended[^\n]*"
    r"|the server ended|Your [0-9.]+s session has expired"
)


class Guard:
    """A guarded connection to a device.

    Attributes:
        port: loopback port for TVM's client to connect to, once.
        token: what the client's key must begin with; the relay refuses others and removes it.
        greeting: the first four bytes the device sent, as far as the relay has told.
    """

    def __init__(self, device: socket.socket, address: str, *, lost_advice: str = LOST_ADVICE) -> None:
        """Hand a connection to a relay.

        Args:
            device: connected to an RPC server; closed here.
            address: how errors call the device.
            lost_advice: what to do when the connection ends.

        Raises:
            DeviceError: the relay did not start.
        """
        self.address = address
        self._lost_advice = lost_advice
        self.greeting = b""
        self._ended: str | None = None
        self._turn = threading.RLock()  # one call at a time has the deadline; other threads wait
        self._control, control = socket.socketpair()
        self._control.settimeout(_RELAY_SECONDS)
        self._lines = self._control.makefile("rb")
        with control, device:
            numbers = (device.fileno(), control.fileno())
            # Isolated: neither the folder it starts in nor the environment can change what it imports.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_RELAY), *map(str, numbers)],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        try:
            said = self._next()
        except BaseException:
            self.close()
            raise
        if "port" not in said:
            self.close()
            raise DeviceError("the relay process did not start.", where=address, advice="Is memory exhausted?")
        self.port, self.token = int(said["port"]), str(said["token"])

    @contextlib.contextmanager
    def deadline(self, seconds: float, doing: str) -> Iterator[None]:
        """Limit the calls made inside the block to ``seconds``; translate their failures.

        A SIGINT or SIGTERM with a Python handler ends the connection if it has not ended the block a second
        later: the handler can only run once TVM's client returns.

        Raises:
            DeviceTimeout: the time passed.
            DeviceBusy: the time passed and the device never sent a byte.
            DeviceLost: the connection ended.
        """
        with self._turn, self._limited(seconds, doing):
            yield

    @contextlib.contextmanager
    def _limited(self, seconds: float, doing: str) -> Iterator[None]:
        if self._ended is not None:
            raise self._failure("over", doing, 0.0, 0.0)
        begun = time.monotonic()
        self._say({"begin": seconds})
        try:
            with self._signals():
                yield
        except DeviceError:
            raise
        except Exception as error:
            if farewell := _FAREWELL.search(str(error)):
                self._end()
                raise DeviceLost(
                    f"the server ended the session while {doing}: {farewell[0]}.",
                    where=self.address,
                    advice="A crash or lack of memory is likely; its output on the device says more.",
                ) from error
            reason = self._reason()
            if reason is None:
                raise
            raise self._failure(reason, doing, seconds, time.monotonic() - begun) from error
        except BaseException:
            # Left in the middle of an exchange: the connection cannot be used for another.
            self._end()
            raise
        finally:
            self._say({"end": True})

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Tell the relay of every signal that arrives meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.set_wakeup_fd(self._control.fileno(), warn_on_full_buffer=False)
        try:
            if previous != -1:  # an event loop's; it is not ours to take away
                signal.set_wakeup_fd(previous)
            yield
        finally:
            signal.set_wakeup_fd(previous)

    @property
    def ended(self) -> bool:
        """Whether the connection is known to be over."""
        return self._ended is not None

    def close(self) -> None:
        """End the connection and the relay; safe to call twice."""
        self._end()
        try:
            self._process.wait(timeout=_RELAY_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _end(self) -> None:
        self._ended = self._ended or "lost"
        self._lines.close()
        self._control.close()

    def _reason(self) -> str | None:
        """Why the connection ended; None if it has not."""
        if self._ended is None:
            self._say({"ping": True})
            self._next(until="pong")
        return self._ended

    def _failure(self, reason: str, doing: str, seconds: float, elapsed: float) -> DeviceError:
        if reason == "timeout" and not self.greeting:
            return DeviceBusy(
                f"it accepts connections but answered nothing within {seconds:g} s: busy, hung or no TVM server.",
                where=self.address,
                advice="Wait until it is free, or ask 'edgevit devices doctor' what is there.",
            )
        if reason == "timeout":
            return DeviceTimeout(
                f"no answer within {seconds:g} s while {doing}.",
                where=self.address,
                advice="Give it more time with --timeout, or restart the server on the device.",
            )
        if reason == "interrupted":
            return DeviceLost(f"a signal ended the connection while {doing}.", where=self.address)
        if reason == "over":
            return DeviceLost(
                f"the session had ended before {doing}.",
                where=self.address,
                advice="Open a new session; the error that ended this one says why it did.",
            )
        return DeviceLost(
            f"the connection ended after {elapsed:.1f} s while {doing}.",
            where=self.address,
            advice=self._lost_advice,
        )

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError, ValueError):  # an ended relay is noticed when its word is needed
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _next(self, until: str | None = None) -> dict[str, Any]:
        """The relay's next line, or the next that has the key ``until``; empty once it has ended."""
        while True:
            try:
                line = self._lines.readline()
            except (OSError, ValueError):
                line = b""
            message: dict[str, Any] = json.loads(line) if line else {"ended": "lost"}
            greeting = message.get("pong", message.get("greeting"))
            if greeting is not None:
                self.greeting = bytes.fromhex(greeting)
            if "ended" in message:
                self._ended = str(message["ended"])
                return {}
            if until is None or until in message:
                return message


def dial(host: str, port: int, *, timeout: float) -> socket.socket:
    """Connect to a device.

    Raises:
        DeviceUnreachable: nobody accepts there within ``timeout`` seconds.
    """
    where = f"{host}:{port}"
    try:
        device = socket.create_connection((host, port), timeout=timeout)
    except TimeoutError as error:
        raise DeviceUnreachable(
            f"nobody answered within {timeout:g} s.",
            where=where,
            advice="Check that the device is on, on this network, and that no firewall drops the port.",
        ) from error
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
        reason = getattr(error, "strerror", None) or error
        raise DeviceUnreachable(
            f"cannot connect: {reason}.",
            where=where,
            advice="Start the server there ('edgevit devices serve'), and check address and port.",
        ) from error
    device.settimeout(None)
    device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    device.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return device
