"""A contender's process, seen from this side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgevit.bench.channel import Channel
from edgevit.bench.contenders.catalogue import SERVE
from edgevit.bench.contenders.environments import quiet_environment
from edgevit.errors import EnvironmentFailure

_START_SECONDS = 300.0
_CALL_SECONDS = 600.0
_CONVERT_SECONDS = 600.0


@dataclass(frozen=True)
class Entrant:
    """What it takes to start a contender.

    Attributes:
        name: short and unique.
        title: for tables.
        python: interpreter of its environment.
        runner: its file in ``workers/``.
        model: what the runner loads.
        config: further settings for the runner, plain data.
        tolerance: largest max abs error over max |reference| that counts as right; None for no check.
        artifact_sha256: of what edgevit compiled.
    """

    name: str
    title: str
    python: Path
    runner: Path
    model: Path
    config: Mapping[str, Any]
    tolerance: float | None
    artifact_sha256: str | None = None


@dataclass(frozen=True)
class Turn:
    """What one turn of a contender took; all in seconds.

    Attributes:
        seconds: of each counted call.
        cpu_seconds: of all threads during the counted calls.
        idle_cpu_seconds: of all threads since the turn before: spinning that may have slowed the others.
    """

    seconds: tuple[float, ...]
    cpu_seconds: float
    idle_cpu_seconds: float


class Worker:
    """A running contender."""

    def __init__(self, entrant: Entrant, threads: int) -> None:
        """Start it and let it load the model.

        Raises:
            EnvironmentFailure: it ended instead.
            DeviceTimeout: it did not load the model in time.
        """
        self.entrant = entrant
        config = {**entrant.config, "model": str(entrant.model), "threads": threads}
        command = [str(entrant.python), str(SERVE), str(entrant.runner), json.dumps(config)]
        self._channel = _open(command, entrant.title, threads)
        try:
            self.version = str(self._channel.reply(_START_SECONDS)["version"])
        except BaseException:
            self.close()
            raise

    def outputs(self, inputs: Mapping[str, Path], folder: Path) -> list[npt.NDArray[Any]]:
        """Outputs of a second call on inputs from ``.npy`` files, which stay set for the calls to come.

        Args:
            inputs: file by input name, in the model's order.
            folder: for the files the outputs come back in.
        """
        request = {"check": {name: str(path) for name, path in inputs.items()}, "outputs": str(folder)}
        files = self._channel.ask(request, _CALL_SECONDS)["outputs"]
        try:
            return [np.load(file) for file in files]
        except (OSError, ValueError) as error:
            raise EnvironmentFailure(f"{self.entrant.title} left no readable outputs: {error}") from error

    def time(self, calls: int) -> Turn:
        """Time ``calls`` calls, after one that is not counted."""
        reply = self._channel.ask({"time": calls}, _CALL_SECONDS)
        seconds = tuple(float(value) for value in reply["seconds"])
        return Turn(seconds, float(reply["cpu_seconds"]), float(reply["idle_cpu_seconds"]))

    def usage(self) -> tuple[int, int | None]:
        """Peak resident memory in bytes, and threads that did work; None where the system does not tell."""
        reply = self._channel.ask({"usage": True}, _CALL_SECONDS)
        threads = reply["busy_threads"]
        return int(reply["peak_rss_bytes"]), None if threads is None else int(threads)

    def close(self) -> None:
        """End the process."""
        self._channel.close()


def convert(python: Path, runner: Path, title: str, config: Mapping[str, Any]) -> Path:
    """Let a runner convert a model to its own format, in a process of its own.

    Raises:
        EnvironmentFailure: it failed.
        DeviceTimeout: it took too long.
    """
    command = [str(python), str(SERVE), str(runner), json.dumps({**config, "convert": True})]
    reply = answer_of(command, f"{title}'s converter", _CONVERT_SECONDS, threads=1)
    return Path(str(reply["model"]))


def answer_of(command: Sequence[str], who: str, timeout: float, threads: int | None = None) -> dict[str, Any]:
    """The one JSON line a process prints.

    Args:
        command: program and arguments.
        who: what to call it in messages.
        timeout: seconds.
        threads: to run it as contenders are run; None to give it this process's own environment.

    Raises:
        EnvironmentFailure: it failed.
        DeviceTimeout: it took too long.
    """
    channel = _open(command, who, threads)
    try:
        return channel.reply(timeout)
    finally:
        channel.close()


def _open(command: Sequence[str], who: str, threads: int | None) -> Channel:
    return Channel(command, who=who, environment=None if threads is None else quiet_environment(threads))
