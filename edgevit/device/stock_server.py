"""TVM's own Python RPC server, for systems without edgevit's: ``python -m edgevit.device.stock_server``.

It takes the main options of edgevit's server and announces itself the same way. ``tvm.exec.rpc_server``
cannot stand in: it leaves a worker behind that keeps the port when it is killed, and stops for good when one
session crashes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

_PAUSE_SECONDS = 0.5


def main(arguments: list[str] | None = None) -> None:
    """Serve until standard input closes."""
    options = _parse(arguments)
    try:
        listener = bind(options.host, options.port, options.port_end)
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    port = listener.getsockname()[1]
    tracker = _address(options.tracker) if options.tracker else None
    threading.Thread(
        target=_serve, args=(listener, port, options.key, tracker, options.custom_addr), daemon=True
    ).start()
    announcement = {"event": "listening", "host": options.host, "port": port, "version": _version()}
    print(json.dumps(announcement), flush=True)
    if options.exit_with_stdin:
        # Not sys.stdin.read(): its lock would be held in the sessions' forked processes, which close stdin.
        while os.read(0, 4096):
            pass
    else:
        threading.Event().wait()
    _end()


def bind(host: str, port: int, port_end: int | None) -> socket.socket:
    """Listen on the first free port from ``port`` to before ``port_end``.

    Raises:
        OSError: none is free, or ``host`` is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = max(port_end or 0, port + 1) - 1
    for candidate in range(port, last):
        with contextlib.suppress(OSError):
            return socket.create_server((host, candidate), family=family, backlog=1)
    return socket.create_server((host, last), family=family, backlog=1)


def _serve(listener: socket.socket, *options: object) -> None:
    # TVM's loop ends with an error when a session's process does; the next client is served all the same.
    folder = Path.cwd()
    while True:
        _serve_until_fault(listener, *options)
        os.chdir(folder)  # the loop was in the session's folder, which is gone
        time.sleep(_PAUSE_SECONDS)


def _serve_until_fault(listener: socket.socket, *options: object) -> None:
    from tvm.rpc.server import _listen_loop

    port, key, tracker, custom_addr = options
    try:
        _listen_loop(listener, port, key, tracker, None, custom_addr)
    except Exception as error:
        print(f"a session ended badly: {error}", file=sys.stderr, flush=True)


def _end() -> NoReturn:
    import psutil

    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(0)  # TVM's threads would keep the interpreter from leaving


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="edgevit.device.stock_server", description="TVM's Python RPC server.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-end", type=int)
    parser.add_argument("--tracker")
    parser.add_argument("--key", default="")
    parser.add_argument("--custom-addr")
    parser.add_argument("--exit-with-stdin", action="store_true")
    return parser.parse_args(arguments)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def _version() -> str:
    return f"TVM {version('apache-tvm')}"


if __name__ == "__main__":
    main()
