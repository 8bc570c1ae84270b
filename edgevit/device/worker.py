"""A process of its own that serves one RPC session and ends; its arguments are a socket's number, a folder, and
how many cores to keep to (0: all).

It is the host-side twin of the server in ``runtime/``: same functions, no build needed. It talks over a
socket that it inherits, keeps its files in a folder that its starter removes, and ends when its session does or
when its standard input closes, so it cannot outlive whoever started it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgevit.device.usage import claim_all_cores, machine_facts, pin, process_usage

_MAGIC = 0xFF271
_MAX_KEY = 4096


def main(register_more: Callable[[Path], None] = lambda _: None) -> None:
    """Serve one session.

    Args:
        register_more: adds functions to those that every session offers; told the session's folder.
    """
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    status = 1
    try:
        connection = socket.socket(fileno=int(sys.argv[1]))
        facts = machine_facts()
        pin(int(sys.argv[3]))
        claim_all_cores()
        # Running needs no compiler: a third of the memory, half the time to start.
        os.environ["TVM_USE_RUNTIME_LIB"] = "1"
        _register(Path(sys.argv[2]), facts)
        register_more(Path(sys.argv[2]))
        _shake_hands(connection)
        import tvm_ffi

        tvm_ffi.get_global_func("rpc.ServerLoop")(connection.detach())  # closes it
        status = 0
    except BaseException:  # whatever it is, it must be told before the process ends
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        # TVM's thread pool and interpreter shutdown have nothing left to save.
        os._exit(status)


def _end_with_stdin() -> None:
    os.read(0, 1)
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


def _register(folder: Path, facts: dict[str, Any]) -> None:
    import tvm
    import tvm.rpc  # registers the functions of the RPC runtime
    import tvm_ffi

    # Sorting, which TopK and its like call, lies in a library of its own that only the compiler loads by itself.
    for extra in (Path(tvm.__file__).parent / "lib").glob("libtvm_runtime_extra.*"):
        ctypes.CDLL(str(extra))

    def inside(name: str) -> str:
        if Path(name).name != name or name in ("", ".", ".."):
            raise ValueError(f"{name!r} is not a plain file name")
        return str(folder / name)

    functions = {
        "tvm.rpc.server.workpath": inside,
        "tvm.rpc.server.load_module": lambda name: tvm.runtime.load_module(inside(name)),
        "edgevit.server.sha256": lambda name: hashlib.sha256(Path(inside(name)).read_bytes()).hexdigest(),
        "edgevit.server.info": lambda: json.dumps(
            {"version": version("edgevit"), "tvm": version("apache-tvm"), **facts}
        ),
        "edgevit.server.usage": lambda: json.dumps(process_usage()),
        "edgevit.server.run_batch": _run_batch,
    }
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)


def _run_batch(*arguments: Any) -> bytes:
    # What it needs beside TVM would delay every start.
    from edgevit.device.batches import serve_batch

    return serve_batch(*arguments)
