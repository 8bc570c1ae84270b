"""Run :func:`edgevit.model.prepare.prepare` in a process of its own.

ONNX's checker, its shape inference and onnxsim are C++ that works on what a stranger's file says, and
constant folding executes parts of it. In a process with a time and a memory limit an abort, a hang or a
tensor of petabytes ends in one message instead of taking the caller along. The price is a Python start and
the imports, under a second.

The two sides talk through pipes; no file is written.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import ModelError

if TYPE_CHECKING:
    import onnx

TIMEOUT = 300.0
"""Seconds after which simplification is given up."""

_MEMORY = 8 << 30
"""Bytes the process may allocate, beside several copies of the model's own weights."""


def prepare_isolated(
    proto: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]],
    where: str | None,
    *,
    audit: bool,
    timeout: float = TIMEOUT,
) -> tuple[onnx.ModelProto, list[str]]:
    """What :func:`edgevit.model.prepare.prepare` returns, computed in another process.

    Raises:
        ModelError: whatever ``prepare`` refuses, and a model that crashes or outlasts the libraries.
    """
    import onnx

    data = proto.SerializeToString(deterministic=True)
    request = {"shapes": shapes, "where": where, "audit": audit, "memory": _MEMORY + 8 * len(data)}
    package = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from edgevit.model.isolated import serve; serve()", json.dumps(request)],
            input=data,
            # Python looks for modules in this folder first; the caller's may hold an onnx.py.
            cwd=package,
            capture_output=True,
            timeout=timeout,
            env=_environment(),
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _crashed(f"did not finish in {timeout:.0f} s", where) from error
    head, _, body = done.stdout.partition(b"\n")
    if done.returncode != 0 or not head:
        how = f"ended by signal {-done.returncode}" if done.returncode < 0 else f"failed ({_last(done.stderr)})"
        raise _crashed(how, where)
    reply = json.loads(head)
    if "error" in reply:
        raise ModelError(reply["error"], where=reply["where"], advice=reply["advice"])
    return onnx.ModelProto.FromString(body), reply["notes"]


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(os.path.abspath, filter(None, sys.path))),
        # ONNX Runtime, which onnxsim folds constants with, reports model names and hashes to its vendor
        # from version 1.29 on, and leaves a session file behind, unless told not to.
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _crashed(how: str, where: str | None) -> ModelError:
    return ModelError(
        f"the graph cannot be simplified: the simplifier {how}.",
        where=where,
        advice="The model may be damaged, or need more memory than is allowed; check it with onnx.checker.",
    )


def _last(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no message"


def _limit(memory: int) -> None:
    """Cap what this process may allocate, and leave no core file if it crashes."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return
    # Allocated data, not address space: thread stacks and arenas only reserve the latter.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or memory < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (memory, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def serve() -> None:
    """The other side: request in the arguments, model on standard input, reply on standard output."""
    reply_stream = os.fdopen(os.dup(1), "wb")
    # Libraries print progress; nothing of it may mix with the reply.
    os.dup2(2, 1)
    request = json.loads(sys.argv[1])
    _limit(request["memory"])
    import onnx

    from edgevit.model.prepare import prepare

    reply: dict[str, Any]
    body = b""
    try:
        shapes = {name: tuple(shape) for name, shape in request["shapes"].items()}
        proto = onnx.ModelProto.FromString(sys.stdin.buffer.read())
        proto, notes = prepare(proto, shapes, request["where"], audit=request["audit"])
        body = proto.SerializeToString(deterministic=True)
        reply = {"notes": notes}
    except ModelError as error:
        reply = {"error": error.message, "where": error.where, "advice": error.advice}
    with reply_stream:
        reply_stream.write(json.dumps(reply).encode() + b"\n" + body)
