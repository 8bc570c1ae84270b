"""Measure what docs/measurements.md reports, and print it as Markdown: ``python docs/measure.py MODEL.onnx …``.

For each model, on this machine, on a stock TVM server of this machine, on 64-bit and 32-bit ARM under QEMU: seconds
to compile, bytes of artifact and device server, and the largest error over RPC on fresh inputs and repeated calls.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import edgevit
from edgevit.accuracy.check import check
from edgevit.accuracy.compare import AccuracyResult
from edgevit.artifact import Artifact
from edgevit.device.connect import connect
from edgevit.device.session import Session
from edgevit.targets import get_target

HEADER = (
    "| model | target | where | compile s | artifact bytes | server bytes "
    "| max abs error | max abs reference | ratio |\n"
    "|---|---|---|---:|---:|---:|---:|---:|---:|"
)


def main(
    models: Annotated[list[Path], typer.Argument(help="ONNX files.")],
    targets: Annotated[str, typer.Option(help="Names, joined by commas.")] = "host,arm64-linux,armv7-linux",
    seeds: Annotated[int, typer.Option(min=1, help="How many random inputs.")] = 5,
    calls: Annotated[int, typer.Option(min=1, help="Calls on each input.")] = 3,
) -> None:
    """One line per model and place."""
    print(HEADER, flush=True)
    for path in models:
        model = edgevit.load(path)
        for name in targets.split(","):
            begun = time.monotonic()
            artifact = edgevit.compile(model, name, verify=False)
            seconds = time.monotonic() - begun
            for where, session, server in places(name):
                with session:
                    result = check(artifact, session, model, seeds=range(seeds), calls=calls)
                print(line(artifact, where, seconds, server, result), flush=True)


def line(artifact: Artifact, where: str, seconds: float, server: int | None, result: AccuracyResult) -> str:
    """One row of the table."""
    worst = next(tensor for tensor in result.tensors if tensor.name == result.worst)
    assert worst.max_abs is not None
    assert worst.max_reference is not None
    size = sum(info.bytes for info in artifact.manifest.files.values())
    cells = (
        artifact.manifest.model.name.removesuffix(".onnx"),
        artifact.manifest.target.name,
        where,
        f"{seconds:.1f}",
        f"{size:,}",
        f"{server:,}" if server else "–",
        f"{worst.max_abs:.2e}",
        f"{worst.max_reference:.3g}",
        f"{worst.max_abs / worst.max_reference:.1e}",
    )
    return "| " + " | ".join(cells) + " |"


@contextlib.contextmanager
def stock() -> Iterator[int]:
    """Port of a stock TVM server, ``python -m tvm.exec.rpc_server``, that ends with the block."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([*command, "--port-end", str(port + 1), "--silent"], start_new_session=True)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            time.sleep(0.1)
        time.sleep(1)  # it still digests the connection that asked whether it is there
        yield port
    finally:
        # It starts a worker that would keep the port.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def places(name: str) -> Iterator[tuple[str, Session, int | None]]:
    """Sessions for a target: name, session, bytes of the server that serves it."""
    if name == "host":
        yield "own process", connect(), None
        with stock() as port:
            yield "stock TVM server", connect(rpc=f"127.0.0.1:{port}"), None
        return
    from edgevit.device.server_build import build_server

    target = get_target(name)
    size = build_server(target.triple).stat().st_size
    yield "static server under QEMU", connect(emulate=target), size


if __name__ == "__main__":
    typer.run(main)
