"""Peers to measure against, each in a process of its own.

In one process, a runtime's spinning workers would steal the core from whatever runs next.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from edgevit.device.session import DeviceUsage
from edgevit.errors import DeviceTimeout, EnvironmentFailure, UserError
from edgevit.manifest import TensorInfo

PEERS = {"onnxruntime": "edgevit.bench.ort_worker"}
_START_SECONDS = 120.0
_CALL_SECONDS = 600.0


class Peer:
    """A peer's process, spoken to in JSON lines."""

    def __init__(self, module: str, model: Path, inputs: Sequence[TensorInfo], threads: int | None) -> None:
        """Start it and let it load the model.

        Args:
            module: Python module that is the peer.
            model: the ONNX file.
            inputs: names, shapes and dtypes to feed it.
            threads: to use; None leaves its own default.

        Raises:
            EnvironmentFailure: it ended instead.
            DeviceTimeout: it did not load the model in time.
        """
        self.threads_asked = threads
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        specs = json.dumps([info.model_dump(mode="json") for info in inputs])
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(model), str(threads or 0), specs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._replies: Queue[str] = Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            self.name = str(self._reply(_START_SECONDS)["name"])
        except BaseException:
            self.close()
            raise

    def sample(self, count: int) -> list[float]:
        """Seconds of each of ``count`` calls, after one that is not counted."""
        return [float(value) for value in self._ask({"sample": count})["seconds"]]

    def usage(self) -> DeviceUsage:
        """State of the peer's process."""
        return DeviceUsage.model_validate(self._ask({"usage": True}))

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def _listen(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed under our feet at the end
            for line in stdout:
                self._replies.put(line)
        self._replies.put("")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):  # a dead peer says so through its closed stdout
            stdin.write(json.dumps(message) + "\n")
            stdin.flush()
        return self._reply(_CALL_SECONDS)

    def _reply(self, timeout: float) -> dict[str, Any]:
        try:
            line = self._replies.get(timeout=timeout)
        except Empty:
            raise DeviceTimeout(f"the peer did not answer within {timeout:g} s.") from None
        if not line:
            self._errors.seek(0)
            words = self._errors.read().decode(errors="replace").strip().splitlines()
            raise EnvironmentFailure(
                f"the peer's process ended: {words[-1] if words else 'no reason given'}",
                advice="Leave --against out, or check that the peer runs this model at all.",
            )
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextlib.contextmanager
def start_peer(name: str, model: Path, inputs: Sequence[TensorInfo], threads: int | None) -> Iterator[Peer]:
    """A peer with the model loaded; its process ends with the block.

    Args:
        name: a key of ``PEERS``.
        model: the ONNX file.
        inputs: names, shapes and dtypes to feed it.
        threads: to use; None leaves its own default.

    Raises:
        UserError: an unknown peer.
    """
    if name not in PEERS:
        raise UserError(f"there is no peer {name!r}.", advice=f"Choose one of {', '.join(PEERS)}.")
    peer = Peer(PEERS[name], model, inputs, threads)
    try:
        yield peer
    finally:
        peer.close()
