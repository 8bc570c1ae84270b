"""Peers to measure against, each in a process of its own.

In one process, a runtime's spinning workers would steal the core from whatever runs next.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgevit.bench.channel import Channel
from edgevit.device.session import DeviceUsage
from edgevit.errors import UserError
from edgevit.manifest import TensorInfo

PEERS = {"onnxruntime": "edgevit.bench.ort_worker"}
_START_SECONDS = 120.0
_CALL_SECONDS = 600.0
_ADVICE = "Leave --against out, or check that the peer runs this model at all."


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
        specs = json.dumps([info.model_dump(mode="json") for info in inputs])
        command = [sys.executable, "-m", module, str(model), str(threads or 0), specs]
        self._channel = Channel(command, who="the peer's process", advice=_ADVICE)
        try:
            self.name = str(self._channel.reply(_START_SECONDS)["name"])
        except BaseException:
            self.close()
            raise

    def sample(self, count: int) -> list[float]:
        """Seconds of each of ``count`` calls, after one that is not counted."""
        return [float(value) for value in self._channel.ask({"sample": count}, _CALL_SECONDS)["seconds"]]

    def usage(self) -> DeviceUsage:
        """State of the peer's process."""
        return DeviceUsage.model_validate(self._channel.ask({"usage": True}, _CALL_SECONDS))

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._channel.close()


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
