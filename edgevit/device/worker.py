"""A process of its own that serves one RPC session and ends: ``python -m edgevit.device.worker``.

It is the host-side twin of the server in ``runtime/``: same functions, no build needed. It listens on a
loopback port of the system's choice, prints it as one line of JSON, and ends when its session does or when
its standard input closes, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import struct
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path

from edgevit.device.usage import claim_all_cores, machine_facts, process_usage

_MAGIC = 0xFF271
_MAX_KEY = 4096
_ACCEPT_SECONDS = 60.0


def main() -> None:
    """Serve one session."""
    claim_all_cores()
    folder = Path(tempfile.mkdtemp(prefix="edgevit-worker-"))
    threading.Thread(target=_end_with_stdin, args=(folder,), daemon=True).start()
    try:
        _register(folder)
        with socket.create_server(("127.0.0.1", 0), backlog=1) as listener:
            listener.settimeout(_ACCEPT_SECONDS)
            print(json.dumps({"event": "listening", "port": listener.getsockname()[1]}), flush=True)
            connection, _ = listener.accept()
        with connection:
            connection.settimeout(_ACCEPT_SECONDS)
            _shake_hands(connection)
            connection.settimeout(None)
            import tvm_ffi

            tvm_ffi.get_global_func("rpc.ServerLoop")(connection.fileno())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # TVM's thread pool and interpreter shutdown have nothing left to save.
    os._exit(0)


def _end_with_stdin(folder: Path) -> None:
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _shake_hands(connection: socket.socket) -> None:
    magic, size = struct.unpack("<ii", _receive(connection, 8))
    if magic != _MAGIC or not 0 <= size <= _MAX_KEY:
        raise SystemExit("not a TVM RPC client")
    _receive(connection, size)
    connection.sendall(struct.pack("<ii", _MAGIC, len(b"server:")) + b"server:")


def _receive(source: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = source.recv(count - len(data))
        if not block:
            raise SystemExit("the client went away")
        data += block
    return data


def _register(folder: Path) -> None:
    import tvm
    import tvm.rpc  # registers the functions of the RPC runtime
    import tvm_ffi

    def inside(name: str) -> str:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not a plain file name")
        return str(folder / name)

    functions = {
        "tvm.rpc.server.workpath": inside,
        "tvm.rpc.server.load_module": lambda name: tvm.runtime.load_module(inside(name)),
        "edgevit.server.sha256": lambda name: hashlib.sha256(Path(inside(name)).read_bytes()).hexdigest(),
        "edgevit.server.info": lambda: json.dumps({"version": version("edgevit"), **machine_facts()}),
        "edgevit.server.usage": lambda: json.dumps(process_usage()),
    }
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)


if __name__ == "__main__":
    main()
