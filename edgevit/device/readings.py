"""Runs that read the clock around every kernel call."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.device.vm import as_list


@dataclass(frozen=True)
class Readings:
    """What the device's clock said around each kernel call.

    Attributes:
        segments: nanoseconds since some moment, an array samples × (calls + 1) for each segment: a reading before
            its first kernel call and one after every call. Between segments, TVM's own loops run.
        seconds: of each run as a whole.
        outputs: of the last run, by name.
    """

    segments: tuple[NDArray[np.int64], ...]
    seconds: tuple[float, ...]
    outputs: dict[str, NDArray[np.generic]]

    @property
    def kernels(self) -> NDArray[np.int64]:
        """Nanoseconds of each kernel call, samples × calls, in the manifest's order."""
        return np.concatenate([np.diff(readings, axis=1) for readings in self.segments], axis=1)

    @property
    def between(self) -> NDArray[np.int64]:
        """Nanoseconds between segments, one sum a sample."""
        total = np.zeros(len(self.seconds), dtype=np.int64)
        for before, after in itertools.pairwise(self.segments):
            total += after[:, 0] - before[:, -1]
        return total


def take_readings(
    machine: Any, device: Any, function: str, arguments: Sequence[Any], names: Sequence[str], samples: int
) -> Readings:
    """Run a function that returns the model's outputs, then each segment's readings.

    Fetching results in between leaves caches and clocks as no measurement should find them, so each counted run
    follows another one on the device itself.

    Args:
        machine: TVM's virtual machine, here or on a device.
        device: TVM's device that it runs on.
        function: of the machine.
        arguments: tensors on the device.
        names: of the model's outputs.
        samples: counted runs.
    """
    machine.set_input(function, *arguments)
    evaluate = machine.time_evaluator("invoke_stateful", device, number=1, repeat=1)
    seconds: list[float] = []
    readings: list[list[NDArray[Any]]] = []
    for _ in range(samples):
        seconds.append(float(evaluate(function).results[0]))
        # No name for the remote objects: freeing them asks the device too, so it must happen in here.
        results = [result.numpy() for result in as_list(machine.get_outputs(function))]
        readings.append(results[len(names) :])
    segments = tuple(np.stack(runs) for runs in zip(*readings, strict=True))
    return Readings(segments, tuple(seconds), dict(zip(names, results, strict=False)))
