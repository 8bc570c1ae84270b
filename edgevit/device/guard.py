"""A relay between TVM's RPC client and a device that makes every wait end.

TVM's client blocks in ``recv`` for as long as the device keeps the connection open: a hung device would hang
the user. So the client talks to a relay in this process, and when a deadline passes, or the far side has gone,
the relay shuts both sockets: the blocked call then fails and is reported as what happened.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from edgevit.errors import DeviceBusy, DeviceError, DeviceLost, DeviceTimeout, DeviceUnreachable

_BLOCK = 1 << 18
_BUSY_ADVICE = "Wait until it is free, or ask 'edgevit devices doctor' what is there."


class Relay:
    """Forward one local connection to a device under deadlines.

    Attributes:
        port: loopback port for TVM's client to connect to, once.
        greeting: the first four bytes the device sent; TVM's servers answer a handshake with them.
    """

    def __init__(self, device: socket.socket, address: str) -> None:
        """Take over a connection.

        Args:
            device: connected to an RPC server; the relay closes it.
            address: how errors call the device.
        """
        self.address = address
        self.greeting = b""
        self._reason: type[DeviceError] | None = None
        self._message = ""
        self._lock = threading.Lock()
        self._device = device
        self._client: socket.socket | None = None
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1)
        self.port = int(self._listener.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve, daemon=True)]
        self._threads[0].start()

    @contextlib.contextmanager
    def deadline(self, seconds: float, doing: str) -> Iterator[None]:
        """Limit the calls made inside the block to ``seconds``; translate their failures.

        Raises:
            DeviceTimeout: the time passed.
            DeviceBusy: the time passed and the device never sent a byte.
            DeviceLost: the connection ended.
        """
        begun = time.monotonic()
        timer = threading.Timer(seconds, self._expire, (seconds, doing))
        timer.daemon = True
        timer.start()
        try:
            yield
        except DeviceError:
            raise
        except Exception as error:
            failure = self._failure(doing, time.monotonic() - begun)
            if failure is None:
                raise
            raise failure from error
        finally:
            timer.cancel()
        if self._reason is not None:
            failure = self._failure(doing, time.monotonic() - begun)
            assert failure is not None
            raise failure

    @property
    def ended(self) -> bool:
        """Whether the connection is over, for whatever reason."""
        return self._reason is not None

    def close(self) -> None:
        """End the connection and its threads; safe to call twice."""
        self._stop(DeviceLost, "the session was closed")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def _expire(self, seconds: float, doing: str) -> None:
        if self.greeting:
            self._stop(DeviceTimeout, f"no answer within {seconds:g} s while {doing}")
        else:
            self._stop(
                DeviceBusy, f"it accepts connections but answered nothing within {seconds:g} s: busy or hung"
            )

    def _failure(self, doing: str, elapsed: float) -> DeviceError | None:
        if self._reason is None:
            # The relay may learn of the closed socket a moment after the client does.
            for _ in range(20):
                time.sleep(0.01)
                if self._reason is not None:
                    break
            else:
                return None
        reason: type[DeviceError] = self._reason or DeviceLost
        advice = {
            DeviceTimeout: "Give it more time with --timeout, or restart the server on the device.",
            DeviceBusy: _BUSY_ADVICE,
        }.get(reason, "Look at the server's output on the device; a crash or lack of memory is likely.")
        message = self._message
        if reason is DeviceLost:
            message = f"the connection ended after {elapsed:.1f} s while {doing}"
        return reason(f"{message}.", where=self.address, advice=advice)

    def _stop(self, reason: type[DeviceError], message: str) -> None:
        with self._lock:
            if self._reason is None:
                self._reason, self._message = reason, message
        for end in (self._listener, self._client, self._device):
            if end is not None:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                with contextlib.suppress(OSError):
                    end.close()

    def _serve(self) -> None:
        try:
            self._client, _ = self._listener.accept()
        except OSError:
            return
        self._listener.close()  # one client only: nobody else may slip in
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upward = threading.Thread(target=self._pump, args=(self._client, self._device, False), daemon=True)
        self._threads.append(upward)
        upward.start()
        self._pump(self._device, self._client, True)

    def _pump(self, source: socket.socket, sink: socket.socket, from_device: bool) -> None:
        try:
            while block := source.recv(_BLOCK):
                if from_device and len(self.greeting) < 4:
                    self.greeting = (self.greeting + block)[:4]
                sink.sendall(block)
        except OSError:
            pass
        self._stop(DeviceLost, "the connection ended")


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
    except OSError as error:
        raise DeviceUnreachable(
            f"cannot connect: {error.strerror or error}.",
            where=where,
            advice="Start the server there ('edgevit devices serve'), and check address and port.",
        ) from error
    device.settimeout(None)
    device.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    device.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return device
