"""A device that candidates run on, with the tensors of one task at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.device.session import DeviceInfo, Session
from edgevit.device.workbench import Handle, Workbench
from edgevit.errors import DeviceLost, UserError
from edgevit.tuning.building.build import Library
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgevit.compiler.graph import Tensor


class TuningDevice:
    """A session that is opened when it is needed, and again after it was lost.

    Args:
        connect: opens a session.
        threads: to call kernels with.
        call_seconds: time limit of a call.

    Attributes:
        threads: may be changed until a task has come to the device.
    """

    def __init__(self, connect: Callable[[], Session], threads: int, call_seconds: float) -> None:
        self._connect = connect
        self.threads = threads
        self._call_seconds = call_seconds
        self._session: Session | None = None
        self._bench: TaskBench | None = None
        self._info: DeviceInfo | None = None
        self._ended = threading.Event()

    def describe(self) -> DeviceInfo:
        """What the device says of itself.

        Raises:
            DeviceError: it cannot be reached.
            UserError: it is this process.
        """
        if self._info is None:
            self._info = self.open().describe()
        return self._info

    def bench(self, task: Task) -> TaskBench:
        """The device with a task's tensors on it, in place of those of the task before.

        Raises:
            DeviceError, UserError: as for :meth:`describe`.
        """
        if self._bench is None or self._bench.task is not task:
            workbench = self.open().workbench()
            workbench.set_threads(self.threads)
            self._bench = TaskBench(task, workbench, self._call_seconds)
        return self._bench

    def open(self) -> Session:
        """The session, opened if there is none.

        Raises:
            DeviceError: it cannot be opened, or was ended.
            UserError: it is this process.
        """
        if self._ended.is_set():
            raise self._over()
        session = self._session
        if session is None:
            session = self._connect()
            if session.kind == "in-process":
                session.close()
                raise UserError(
                    "candidates cannot run in the tuner's own process: one that crashes would end it.",
                    advice="Use a session with a process of its own, which is what edgevit.connect() opens.",
                )
            self._session = session
            if self._ended.is_set():  # while it was opened, by another thread that found nothing to close
                self.close()
                raise self._over()
        return session

    def close(self) -> None:
        """End the session, if there is one; it may be opened again."""
        session, self._session, self._bench = self._session, None, None
        if session is not None:
            session.close()

    def end(self) -> None:
        """Close it for good: whoever uses it in another thread gets a :class:`DeviceLost`."""
        self._ended.set()
        self.close()

    @staticmethod
    def _over() -> DeviceLost:
        return DeviceLost("the run has ended.", advice="Start another one.")


class TaskBench:
    """The tensors of a task on a device: inputs, weights as each layout packs them, outputs.

    Attributes:
        task: that they belong to.
    """

    def __init__(self, task: Task, workbench: Workbench, call_seconds: float) -> None:
        self.task = task
        self._bench = workbench
        self._seconds = call_seconds
        self._values = task.draw()
        self._packed: dict[tuple[int, ...], list[Handle]] = {}
        self._inputs: dict[Tensor, Handle] = {}
        self._outputs: list[Handle] = []
        self._garbage: list[Handle] = []
        self._library: bytes | None = None

    def load(self, library: Library) -> None:
        """Bring candidates to the device in place of those before."""
        if self._library != library.data:
            self._library = None
            self._bench.load(library.data)
            self._library = library.data

    def run(self, library: Library, choice: Choice, function: str) -> list[NDArray[Any]]:
        """Outputs of a call, flat; elements that it does not write are NaN, or garbage."""
        arguments = self._arguments(library, choice, function)
        for garbage, handle in zip(self._garbage, self._outputs, strict=True):
            self._bench.copy(garbage, handle)
        self._bench.call(function, arguments, timeout=self._seconds)
        arrays = [self._bench.fetch(handle) for handle in self._outputs]
        return [array.view(tensor.dtype) for array, tensor in zip(arrays, self.task.outputs, strict=True)]

    def time(self, library: Library, choice: Choice, function: str, calls: int) -> float:
        """Mean seconds of calls behind each other, which together take less than the time limit of one."""
        arguments = self._arguments(library, choice, function)
        # Together these calls take no longer than a slow one, and another goes before them.
        return self._bench.time(function, arguments, calls=calls, timeout=2 * self._seconds)[0]

    def _arguments(self, library: Library, choice: Choice, function: str) -> list[Handle]:
        layout = self.task.layout_of(choice)
        if layout not in self._packed:
            arrays = self.task.arguments(choice, self._values)
            form = library.forms[function][: len(arrays)]
            self._packed[layout] = [self._placed(*each) for each in zip(self.task.inputs, arrays, form, strict=True)]
        if not self._outputs:
            form = library.forms[function][-len(self.task.outputs) :]
            # All bits set: NaN in every floating-point format.
            arrays = [np.full(size * np.dtype(dtype).itemsize, 255, np.uint8).view(dtype) for size, dtype in form]
            self._garbage, self._outputs = self._bench.place(arrays), self._bench.place(arrays)
        return [*self._packed[layout], *self._outputs]

    def _placed(self, tensor: Tensor, array: NDArray[Any], form: tuple[int, str]) -> Handle:
        """An argument on the device: kernels take it flat, and some types as another one of the same size."""
        flat = np.ascontiguousarray(array).reshape(-1).view(form[1])
        assert flat.size == form[0], f"{tensor} has {flat.size} elements, the kernel takes {form[0]}"
        if tensor.is_constant:
            return self._bench.place([flat])[0]
        if tensor not in self._inputs:
            self._inputs[tensor] = self._bench.place([flat])[0]
        return self._inputs[tensor]
