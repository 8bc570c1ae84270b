"""What ``edgevit devices`` does with phones that adb reaches: list them, serve them all at a tracker."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.device.adb_fleet import FleetEvent

_HOST = "127.0.0.1"


def list_attached(as_json: bool) -> None:
    """Print the phones that adb knows, and the key that each has at the tracker of ``serve --adb-all``."""
    from edgevit.cli.output import console, print_json, shown
    from edgevit.device.adb_client import list_phones
    from edgevit.device.adb_fleet import phone_key

    found = list_phones()
    if as_json:
        print_json(
            {"phones": [{"model": one.model, "serial": one.serial, "state": one.state} for one in found]},
        )
        return
    if not found:
        console().print("adb reaches no phone; for a tracker's devices: --tracker HOST:PORT", soft_wrap=True)
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("serial", "model", "state", "key with 'serve --adb-all'"):
        table.add_column(column)
    for one in found:
        cells = (one.serial, (one.model or "-").replace("_", " "), one.state, phone_key(one.serial))
        table.add_row(*map(shown, cells))
    console().print(table)


def refuse_beside_phones(given: Sequence[str], host: str) -> None:
    """Refuse options that mean nothing for phones.

    Raises:
        UserError: one was given.
    """
    stray = [*given, *(["--host"] if host != _HOST else [])]
    if stray:
        raise UserError(
            f"{' and '.join(stray)} cannot be combined with --adb-all.",
            advice="Phones are served at a tracker on this machine's loopback; --port and --key can be given.",
        )


def serve_phones(prefix: str | None, port: int, as_json: bool) -> None:
    """Run a tracker on the loopback, and at it every attached phone, until Ctrl-C."""
    from contextlib import ExitStack

    from edgevit.cli.output import status
    from edgevit.device.adb_client import list_phones
    from edgevit.device.adb_fleet import Fleet
    from edgevit.device.serve_tracker import run_tracker
    from edgevit.report.text import printable

    list_phones()  # without adb, nothing is begun
    printing = threading.Lock()

    def say(event: FleetEvent) -> None:
        with printing:
            if as_json:
                told = {"detail": event.detail, "event": event.what, "key": event.key, "serial": event.serial}
                print(json.dumps(told, sort_keys=True), flush=True)
            else:
                print(printable(f"{event.what}: {event.key} ({event.detail})"), flush=True)

    with ExitStack() as stack:

        def listening(bound: int) -> None:
            with printing:
                if as_json:
                    print(json.dumps({"event": "listening", "host": _HOST, "port": bound}, sort_keys=True), flush=True)
                else:
                    print(f"tracker at {_HOST}:{bound}; phones are served as they come; Ctrl-C ends it", flush=True)
            stack.enter_context(Fleet((_HOST, bound), prefix=prefix, report=say))

        try:
            run_tracker(_HOST, port, listening)
        except KeyboardInterrupt:
            status().print("stopped")
