"""The one interface to anywhere code runs.

    with edgevit.connect(rpc="192.0.2.7:9090") as session:
        with session.load(artifact) as model:
            outputs = model.run({"pixel_values": image})

Every wait has a limit; when it passes, the call raises and the session is over.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from edgevit.device.phone import PhoneFacts, PhoneState
from edgevit.errors import DeviceError, DeviceMismatch, EdgevitError, UserError
from edgevit.manifest import TensorInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from edgevit.artifact import Artifact
    from edgevit.device.readings import Readings
    from edgevit.device.workbench import Workbench

    Tensors = Mapping[str, NDArray[np.generic]]

LOAD_TIMEOUT = 180.0
"""Seconds for uploading, loading and initialising a model."""

RUN_TIMEOUT = 300.0
"""Seconds for one inference, its transfers included."""


class DeviceInfo(BaseModel):
    """What a device says of itself; None where it cannot say.

    Attributes:
        kind: ``in-process``, ``process``, ``rpc``, ``tracker``, ``ssh``, ``adb`` or ``emulated``.
        address: how it was reached.
        emulated: True when a program pretends to be the device; its times mean nothing.
        runtime: server and version.
        architecture: ``aarch64``, ``arm``, ``x86_64``.
        memory_bytes: physical memory.
        phone: what Android says, of a phone reached through adb.
    """

    model_config = ConfigDict(frozen=True)

    kind: str
    address: str | None = None
    emulated: bool = False
    runtime: str | None = None
    architecture: str | None = None
    system: str | None = None
    cpu: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    phone: PhoneFacts | None = None


class DeviceUsage(BaseModel):
    """State of the process that runs the model; None where the device cannot say.

    Attributes:
        cpu_seconds: CPU time since the process began.
        peak_rss_bytes: largest resident set so far.
        load_average: one-minute load of the whole device.
        threads: worker threads the runtime uses.
        temperature_c: hottest sensor.
    """

    model_config = ConfigDict(frozen=True)

    cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    load_average: float | None = None
    threads: int | None = None
    temperature_c: float | None = None


@contextmanager
def device_errors(doing: str, where: str) -> Iterator[None]:
    """Turn what the runtime raises into a DeviceError; edgevit's own errors pass.

    Raises:
        DeviceError: the runtime refused.
        DeviceMismatch: it lacks a function that the model calls.
    """
    try:
        yield
    except EdgevitError:
        raise
    except Exception as error:
        if lacking := re.search(r"Cannot find function (\S+) in the imported modules", str(error)):
            raise DeviceMismatch(
                f"the device's runtime lacks {lacking[1]}, which an operator of this model calls.",
                where=where,
                advice="Run it on a stock TVM server, or export the model without that operator (TopK sorts, say).",
            ) from error
        raise DeviceError(
            f"{doing} failed: {last_line(error)}", where=where, advice="Run 'edgevit devices doctor'."
        ) from error


def last_line(error: Exception) -> str:
    """What TVM says at the end of its traceback."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


class LoadedModel(ABC):
    """An artifact loaded on a device; a context manager that unloads it.

    One that serves several resolutions runs the program for the shapes of the inputs it was given last.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._resolution = artifact.resolution

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """Names, shapes and dtypes of what :meth:`run` takes."""
        return self._resolution.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """Names, shapes and dtypes of what :meth:`run` returns."""
        return self._resolution.outputs

    def run(self, inputs: Tensors, *, timeout: float = RUN_TIMEOUT) -> dict[str, NDArray[np.generic]]:
        """One inference.

        Args:
            inputs: one array per model input, of its exact dtype and of a shape that the artifact serves.
            timeout: seconds, transfers included.

        Raises:
            UserError: a name, shape or dtype differs from the model's.
            DeviceTimeout, DeviceLost: the device stopped answering, or went away.
        """
        self.set_inputs(inputs, timeout=timeout)
        return self.invoke(timeout=timeout)

    @property
    def batches(self) -> bool:
        """Whether :meth:`run_batch` costs less than as many runs: it does where it spares requests to a device."""
        return False

    def run_batch(
        self, batch: Sequence[Tensors], *, timeout: float = RUN_TIMEOUT
    ) -> list[dict[str, NDArray[np.generic]]]:
        """One inference after the other, with the results of as many calls of :meth:`run`.

        Afterwards, inputs must be set again for :meth:`invoke` and :meth:`time`.

        Args:
            batch: inputs of each, as for :meth:`run`; their shapes may differ if the artifact serves several.
            timeout: seconds for each, transfers included; so the batch as a whole has as many times more.

        Raises:
            UserError: a name, shape or dtype differs from the model's; then nothing has run.
            DeviceTimeout, DeviceLost: the device stopped answering, or went away.
        """
        for inputs in batch:
            self.ordered(inputs)
        return [self.run(inputs, timeout=timeout) for inputs in batch]

    def ordered(self, inputs: Tensors) -> list[NDArray[np.generic]]:
        """The arrays in the model's order, checked; selects the resolution of their shapes.

        Raises:
            UserError: a name, shape or dtype differs from the model's.
        """
        import numpy as np

        expected = {info.name: info for info in self.inputs}
        if set(inputs) != set(expected):
            raise UserError(
                f"the inputs {sorted(inputs)} are not the model's {sorted(expected)}.",
                advice="Pass one array per input, by name.",
            )
        self._select(inputs)
        expected = {info.name: info for info in self.inputs}
        for name, array in inputs.items():
            info = expected[name]
            kind, shape = getattr(array, "dtype", None), getattr(array, "shape", None)
            # Not by name: a dtype of the other byte order has the same one.
            if kind == np.dtype(info.dtype) and shape == info.shape:
                continue
            got = type(array).__name__ if kind is None or shape is None else f"{kind}{list(shape)}"
            raise UserError(
                f"got {got}, the model takes {self._taken(name)}.",
                where=f"input {name!r}",
                advice="Convert the array; edgevit never casts or reshapes silently.",
            )
        return [np.asarray(inputs[info.name], order="C") for info in self.inputs]

    @property
    def _entry(self) -> str:
        return self._resolution.entry

    def _select(self, inputs: Tensors) -> None:
        """Take the resolution of these shapes; without one, the current stays, for an error to name."""
        shapes = {name: getattr(array, "shape", None) for name, array in inputs.items()}
        for resolution in self.artifact.manifest.resolutions:
            if resolution.shapes == shapes:
                self._resolution = resolution

    def _taken(self, name: str) -> str:
        """What an input may be."""
        infos = [i for resolution in self.artifact.manifest.resolutions for i in resolution.inputs if i.name == name]
        return " or ".join(f"{info.dtype}{list(info.shape)}" for info in infos)

    def _profile_entry(self) -> str:
        """Name of the function that reads the clock.

        Raises:
            UserError: the artifact has none.
        """
        name = self._resolution.profile
        if name is None:
            raise UserError(
                "the artifact has no function that times its kernels.",
                advice="Compile the model again; one that TVM's loops compute as a whole has no kernels to time.",
            )
        return name

    def _refuse_count(self, what: str, count: int) -> None:
        if count < 1:
            raise UserError(f"{count} {what} cannot be asked for.", advice="Ask for one at least.")

    def _refuse_closed(self, machine: object) -> None:
        if machine is None:
            raise UserError("the model is not loaded any more.", advice="Load it again.")

    def _refuse_unready(self, machine: object, arguments: Sequence[object]) -> None:
        self._refuse_closed(machine)
        if len(arguments) != len(self.inputs):
            raise UserError("no inputs were set.", advice="Call set_inputs() first, or use run().")

    @abstractmethod
    def set_inputs(self, inputs: Tensors, *, timeout: float = RUN_TIMEOUT) -> None:
        """Copy inputs to the device; they stay there for :meth:`invoke` and :meth:`time`."""

    @abstractmethod
    def invoke(self, *, timeout: float = RUN_TIMEOUT) -> dict[str, NDArray[np.generic]]:
        """Run on the inputs set before and fetch the outputs."""

    @abstractmethod
    def time(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> list[float]:
        """Run ``samples`` times on the inputs set before, after one call that is not counted.

        Returns:
            Seconds of each call, measured on the device around the call alone.
        """

    @abstractmethod
    def profile(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> Readings:
        """Run ``samples`` times on the inputs set before, reading the clock around every kernel call.

        Each of these runs follows one that is not counted.

        Raises:
            UserError: the artifact was compiled without the function that reads the clock.
            DeviceTimeout, DeviceLost: the device stopped answering, or went away.
        """

    @abstractmethod
    def set_threads(self, count: int) -> int:
        """Ask for worker threads; returns how many the runtime uses from now on."""

    @abstractmethod
    def usage(self) -> DeviceUsage:
        """CPU time, memory, load and threads of the process that runs the model."""

    @abstractmethod
    def close(self) -> None:
        """Unload; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Session(ABC):
    """A connection to somewhere code runs; a context manager that leaves nothing behind."""

    kind: str
    emulated = False

    @abstractmethod
    def describe(self) -> DeviceInfo:
        """What the device says of itself."""

    def condition(self) -> PhoneState | None:
        """How warm and how fast a phone is at this moment; None for other devices."""
        return None

    @abstractmethod
    def load(self, artifact: Artifact, *, timeout: float = LOAD_TIMEOUT) -> LoadedModel:
        """Bring an artifact to the device and make it ready to run; one loaded before is unloaded.

        Raises:
            DeviceMismatch: the artifact is for another architecture or operating system.
            DeviceTimeout, DeviceLost: the device stopped answering, or went away.
        """

    @abstractmethod
    def workbench(self) -> Workbench:
        """Where plain functions are called on tensors that stay on the device; one asked for before is closed."""

    @abstractmethod
    def close(self) -> None:
        """End the session and everything it started; safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
