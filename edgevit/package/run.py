"""Execute a package's folder on this machine: what ``EdgevitModel.swift`` does, in Python, with emulated kernels.

Only the files are used: ``plan.json``, ``weights.bin`` and the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edgevit.accuracy.compare import compare_tensors
from edgevit.accuracy.inputs import seeded_inputs
from edgevit.accuracy.reference import OnnxRuntimeReference
from edgevit.accuracy.tolerance import tolerance_for
from edgevit.emulate.build import Progress, build
from edgevit.emulate.executor import Executor, KernelFaultError, Memory
from edgevit.emulate.library import Kernel, Shipped
from edgevit.emulate.plan import Launch
from edgevit.emulate.plan import Limits as EmulatedLimits
from edgevit.errors import ArtifactError, CheckFailed
from edgevit.model import Model
from edgevit.package.plan import LaunchPlan, Place, Plan, TensorPlan
from edgevit.package.resources import KERNEL_SUFFIX, KERNELS, PLAN, WEIGHTS

Array = NDArray[Any]

_GARBAGE = 0xFF
"""What memory holds that nobody has written: NaNs."""


class PackagedModel:
    """A folder ``Model``, loaded for execution."""

    def __init__(self, folder: Path, *, progress: Progress | None = None) -> None:
        """Read the files and compile the kernels for this machine.

        Args:
            folder: with ``plan.json`` in it.
            progress: told files compiled and files in all.

        Raises:
            ArtifactError: a file is missing or damaged.
            ToolchainError: a kernel does not compile here.
        """
        try:
            self.plan = Plan.model_validate_json((folder / PLAN).read_bytes())
            self._weights = np.frombuffer((folder / WEIGHTS).read_bytes(), np.uint8)
            texts = {
                launch.kernel: (folder / KERNELS / f"{launch.kernel}{KERNEL_SUFFIX}").read_text(encoding="utf-8")
                for launch in self.plan.launches
            }
        except (OSError, ValidationError) as error:
            raise ArtifactError(f"the package is damaged: {error}.", where=str(folder)) from error
        if len(self._weights) != self.plan.weights_bytes:
            raise ArtifactError(f"{WEIGHTS} has another size than the plan says.", where=str(folder))
        limits = self.plan.limits
        self._executor = Executor(
            build(_shipped(texts, self.plan.launches), progress=progress),
            EmulatedLimits(max_threads=limits.max_threads, local_bytes=limits.local_bytes, simd=limits.simd),
            checked=True,
        )
        self._inputs = [np.zeros(tensor.place.bytes, np.uint8) for tensor in self.plan.inputs]
        self._storages = [np.full(size, _GARBAGE, np.uint8) for size in self.plan.storages]

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name.

        Args:
            inputs: by name, of the plan's shapes and types.

        Raises:
            CheckFailed: a kernel did what no kernel may do.
        """
        for buffer, tensor in zip(self._inputs, self.plan.inputs, strict=True):
            buffer[:] = np.frombuffer(inputs[tensor.name].tobytes(), np.uint8)
        # What an earlier call left is there, but no kernel may count on it.
        defined = [np.zeros(size, np.uint8) for size in self.plan.storages]
        for launch in self.plan.launches:
            memories = [self._memory(place, defined) for place in launch.buffers]
            try:
                self._executor.launch(_launch(launch), memories)
            except KernelFaultError as error:
                raise CheckFailed(f"{error}.", where=PLAN, advice="Report it: the package is wrong.") from error
        return {tensor.name: self._output(tensor) for tensor in self.plan.outputs}

    def _bytes(self, place: Place) -> NDArray[np.uint8]:
        buffer = {
            "input": self._inputs,
            "weights": [self._weights],
            "storage": self._storages,
        }[place.buffer][place.index]
        if place.offset + place.bytes > len(buffer):
            raise ArtifactError("a buffer of the plan ends outside of its memory.", where=PLAN)
        return buffer[place.offset : place.offset + place.bytes]

    def _memory(self, place: Place, defined: Sequence[NDArray[np.uint8]]) -> Memory:
        part = self._bytes(place)
        marks = None
        if place.buffer == "storage":
            marks = defined[place.index][place.offset : place.offset + place.bytes]
        return Memory(part.ctypes.data, part.nbytes, 1, marks)

    def _output(self, tensor: TensorPlan) -> Array:
        return np.frombuffer(self._bytes(tensor.place).tobytes(), tensor.dtype).reshape(tensor.shape)


def verify(
    folder: Path, model: Model, *, seeds: Sequence[int], calls: int, progress: Progress | None = None
) -> list[float]:
    """Execute the folder on fresh inputs and compare with ONNX Runtime.

    Args:
        folder: with ``plan.json`` in it.
        model: the source.
        seeds: one set of inputs each.
        calls: runs on each set.
        progress: of compiling.

    Returns:
        For each output the largest error as a share of the largest expected magnitude.

    Raises:
        CheckFailed: an output is too far off, or a kernel did what no kernel may do.
    """
    packaged = PackagedModel(folder, progress=progress)
    reference = OnnxRuntimeReference(model)
    tolerance = tolerance_for(packaged.plan.precision)
    worst = dict.fromkeys((tensor.name for tensor in packaged.plan.outputs), 0.0)
    for seed in seeds:
        inputs = seeded_inputs(packaged.plan.inputs, seed)
        expected = reference.run(inputs)
        for _ in range(calls):
            for name, actual in packaged.predict(inputs).items():
                compared = compare_tensors(name, expected[name], actual)
                if failure := compared.failure(tolerance):
                    raise CheckFailed(
                        f"{failure}.",
                        where=f"output {name}",
                        advice="Run 'edgevit check ARTIFACT --emulate': if that passes, report it.",
                    )
                worst[name] = max(worst[name], compared.normalised_error or 0.0)
    return list(worst.values())


def _shipped(texts: Mapping[str, str], launches: Sequence[LaunchPlan]) -> Shipped:
    arguments = {launch.kernel: len(launch.buffers) for launch in launches}
    kernels = {name: Kernel(name, text, arguments[name], ()) for name, text in texts.items()}
    return Shipped("metal", kernels, b"")


def _launch(plan: LaunchPlan) -> Launch:
    return Launch(
        function=plan.kernel,
        kernel=plan.kernel,
        grid=plan.grid,
        block=plan.block,
        arguments=tuple(range(len(plan.buffers))),
    )
