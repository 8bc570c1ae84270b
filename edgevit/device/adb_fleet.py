"""Every attached phone at a tracker, for as long as it stays attached.

Each phone runs a server that reaches the tracker through ``adb reverse`` and is reached through ``adb forward``.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from edgevit.device.adb import phone_facts
from edgevit.device.adb_client import Adb, list_phones
from edgevit.device.adb_server import START_TIMEOUT, Forward, PhoneServer, triple_for
from edgevit.device.server_build import build_server
from edgevit.device.tracker_relay import TrackerRelay
from edgevit.errors import DeviceError, EdgevitError

_LOOK_SECONDS = 2.0
_REST_SECONDS = 10.0


@dataclass(frozen=True)
class FleetEvent:
    """What became of a phone.

    Attributes:
        what: ``served``, ``gone``, or ``failed``, after which it is tried again.
        key: that clients ask the tracker for.
        serial: of the phone.
        detail: the phone for people, or why it failed.
    """

    what: Literal["served", "gone", "failed"]
    key: str
    serial: str
    detail: str


Report = Callable[[FleetEvent], None]


def phone_key(serial: str, prefix: str | None = None) -> str:
    """The tracker's key of a phone: its serial, in which a tracker's separators become ``_``, behind a prefix."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", serial)
    return f"{prefix}-{plain}" if prefix else plain


class ServedPhone:
    """A phone's server, and the ports that lead to it and to the tracker."""

    def __init__(self, adb: Adb, key: str, tracker: tuple[str, int]) -> None:
        """Bring the server to the phone; its registration follows within seconds.

        Args:
            adb: the phone.
            key: for the tracker.
            tracker: host and port of it.

        Raises:
            DeviceError: the phone cannot be reached, or has no room.
            ToolchainError: its server cannot be built.
        """
        phone = phone_facts(adb)
        self.text = phone.text
        binary = build_server(triple_for(phone.abis, adb.where))
        with ExitStack() as stack:
            relay = TrackerRelay(tracker)
            stack.callback(relay.stop)
            remote = int(adb.run("reverse", "tcp:0", f"tcp:{relay.port}").split()[-1])
            stack.callback(_take_back, adb, remote)
            options = ["--port", "0", "--tracker", f"127.0.0.1:{remote}", "--key", key, "--custom-addr", "127.0.0.1"]
            self._server = PhoneServer(adb, binary, options)
            stack.callback(self._server.stop)
            forward = Forward(adb, self._server.wait_for_port(START_TIMEOUT))
            stack.callback(forward.stop)
            relay.public_port = forward.port
            self._stack = stack.pop_all()

    @property
    def running(self) -> bool:
        """Whether its server still runs, as far as is known."""
        return self._server.running

    def stop(self) -> None:
        """End the server, remove its folder, take the ports back; safe to call twice."""
        self._stack.close()


class Fleet:
    """The phones that are attached, each served by a thread of its own; a context manager."""

    def __init__(self, tracker: tuple[str, int], *, prefix: str | None = None, report: Report) -> None:
        """Begin to look for phones.

        Args:
            tracker: host and port of the tracker.
            prefix: of each phone's key.
            report: told what becomes of each phone, from several threads.
        """
        self._tracker = tracker
        self._prefix = prefix
        self._report = report
        self._over = threading.Event()
        self._attached: frozenset[str] = frozenset()
        self._threads: dict[str, threading.Thread] = {}
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """End every server and wait until all are gone; safe to call twice."""
        self._over.set()
        self._watcher.join()
        for thread in self._threads.values():
            thread.join()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _watch(self) -> None:
        while not self._over.is_set():
            with suppress(EdgevitError):  # adb's server is being restarted, say
                self._attached = frozenset(device.serial for device in list_phones() if device.ready)
            for serial in self._attached:
                if serial not in self._threads or not self._threads[serial].is_alive():
                    self._threads[serial] = threading.Thread(target=self._serve, args=(serial,), daemon=True)
                    self._threads[serial].start()
            self._over.wait(_LOOK_SECONDS)

    def _serve(self, serial: str) -> None:
        """Serve a phone until it goes; again, after a rest, when its server ends before."""
        key = phone_key(serial, self._prefix)
        while self._wanted(serial):
            try:
                phone = ServedPhone(Adb(serial), key, self._tracker)
            except EdgevitError as error:
                if self._wanted(serial):
                    self._report(FleetEvent("failed", key, serial, error.message))
                    self._rest(serial)
                continue
            try:
                self._report(FleetEvent("served", key, serial, phone.text))
                while self._wanted(serial) and phone.running:
                    self._over.wait(_LOOK_SECONDS / 4)
            finally:
                phone.stop()
            self._report(FleetEvent("gone", key, serial, phone.text))
            self._rest(serial)

    def _wanted(self, serial: str) -> bool:
        return serial in self._attached and not self._over.is_set()

    def _rest(self, serial: str) -> None:
        end = time.monotonic() + _REST_SECONDS
        while self._wanted(serial) and time.monotonic() < end:
            self._over.wait(_LOOK_SECONDS / 4)


def _take_back(adb: Adb, port: int) -> None:
    with suppress(DeviceError):  # with a phone that has gone, the port went too
        adb.run("reverse", "--remove", f"tcp:{port}")
