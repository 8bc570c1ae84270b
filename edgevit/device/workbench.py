"""Plain functions on a session's device, and the tensors they are called with.

A tuner loads many small libraries, one after the other, and calls their functions on the same tensors: those stay on
the device until they are released or the workbench is closed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NewType, Protocol

from edgevit.device.session import LOAD_TIMEOUT, RUN_TIMEOUT, device_errors
from edgevit.device.vm import load_error
from edgevit.errors import EdgevitError, UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

THREADS_BIG_CORES = 1  # TVM's AffinityMode.kBig: fastest cores first
_CLOSE_TIMEOUT = 5.0

Handle = NewType("Handle", int)
"""A tensor on the device."""


class Ground(Protocol):
    """What a session offers to its workbench."""

    @property
    def address(self) -> str:
        """How errors call the device."""
        ...

    def limit(self, seconds: float, doing: str) -> contextlib.AbstractContextManager[None]:
        """Deadline for what is asked of the device inside the block."""
        ...

    def runtime_function(self, name: str) -> Callable[..., Any]:
        """A function of the device's runtime; only for use inside :meth:`limit`."""
        ...

    def device(self) -> Any:
        """TVM's device that tensors lie on; only for use inside :meth:`limit`."""
        ...

    def load_library(self, library: bytes, timeout: float) -> Any:
        """TVM's module for a shared library; sets its own deadlines."""
        ...


class Workbench:
    """Functions and tensors on a device; a context manager that frees them.

    Functions take tensors alone and return nothing. Tensors are contiguous and aligned to 64 bytes at least.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._module: Any = None
        self._device: Any = None
        self._tensors: dict[Handle, Any] = {}
        self._placed = 0
        self._closed = False

    def load(self, library: bytes, *, timeout: float = LOAD_TIMEOUT) -> None:
        """Bring a shared library to the device in place of the one loaded before.

        Raises:
            DeviceMismatch: the device cannot load it.
            DeviceError, DeviceTimeout, DeviceLost: the device failed, stopped answering, or went away.
        """
        self._refuse_closed()
        with self._limit(timeout, "unloading"):
            self._module = None
        try:
            self._module = self._ground.load_library(library, timeout)
        except EdgevitError:
            raise
        except Exception as error:
            raise load_error(error, self._ground.address) from error

    def place(self, arrays: Sequence[NDArray[Any]], *, timeout: float = RUN_TIMEOUT) -> list[Handle]:
        """Copy arrays to new tensors on the device."""
        import tvm

        with self._limit(timeout, "sending tensors"):
            handles = []
            for array in arrays:
                self._placed += 1
                handles.append(Handle(self._placed))
                self._tensors[handles[-1]] = tvm.runtime.tensor(array, self._on_device())
            return handles

    def copy(self, source: Handle, destination: Handle, *, timeout: float = RUN_TIMEOUT) -> None:
        """Copy a tensor over another one of the same shape and dtype; nothing leaves the device."""
        with self._limit(timeout, "copying tensors"):
            self._tensors[source].copyto(self._tensors[destination])

    def fetch(self, handle: Handle, *, timeout: float = RUN_TIMEOUT) -> NDArray[Any]:
        """A tensor's elements."""
        with self._limit(timeout, "fetching a tensor"):
            array: NDArray[Any] = self._tensors[handle].numpy()
            return array

    def release(self, handles: Sequence[Handle], *, timeout: float = RUN_TIMEOUT) -> None:
        """Free tensors."""
        with self._limit(timeout, "freeing tensors"):
            for handle in handles:
                del self._tensors[handle]

    def call(self, function: str, arguments: Sequence[Handle], *, timeout: float = RUN_TIMEOUT) -> None:
        """Call a function of the library once.

        Raises:
            UserError: no library is loaded.
            DeviceError: there is no such function, or it refused its arguments.
            DeviceTimeout, DeviceLost: it did not end in time, or ended the device's process.
        """
        self._refuse_empty()
        with self._limit(timeout, f"calling {function}"):
            found = self._module.get_function(function)
            if found is None:  # in this process; over RPC, TVM raises
                raise AttributeError(f"the library has no function {function}")
            found(*(self._tensors[handle] for handle in arguments))
            del found

    def time(
        self,
        function: str,
        arguments: Sequence[Handle],
        *,
        calls: int = 1,
        samples: int = 1,
        timeout: float = RUN_TIMEOUT,
    ) -> list[float]:
        """Seconds of a call, by the device's own clock, after one call that is not counted.

        Args:
            function: of the library.
            arguments: tensors.
            calls: behind each other, of which the mean makes a sample.
            samples: to take.
            timeout: seconds for all.

        Raises:
            UserError: no library is loaded, or not even one call was asked for.
            DeviceError, DeviceTimeout, DeviceLost: as for :meth:`call`.
        """
        self._refuse_empty()
        if min(calls, samples) < 1:
            raise UserError("not even one call was asked for.", advice="Ask for one call and one sample at least.")
        with self._limit(timeout, f"timing {function}"):
            evaluate = self._module.time_evaluator(function, self._on_device(), number=calls, repeat=samples)
            seconds = [float(one) for one in evaluate(*(self._tensors[handle] for handle in arguments)).results]
            del evaluate
        assert all(math.isfinite(one) for one in seconds)
        return seconds

    def set_threads(self, count: int, *, timeout: float = RUN_TIMEOUT) -> int:
        """Ask for worker threads, on the fastest cores; returns how many the runtime uses from now on."""
        if count < 1:
            raise UserError(f"{count} threads cannot be asked for.", advice="Ask for one at least.")
        with self._limit(timeout, "setting threads"):
            self._ground.runtime_function("runtime.config_threadpool")(THREADS_BIG_CORES, count)
            return int(self._ground.runtime_function("runtime.NumThreads")())

    def close(self) -> None:
        """Free everything; safe to call twice, and after the device has gone."""
        if not self._closed:
            # Freeing remote objects asks the device, so it must happen within a deadline.
            with contextlib.suppress(Exception), self._ground.limit(_CLOSE_TIMEOUT, "unloading"):
                self._forget()
        self._forget()
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        self._tensors.clear()
        self._module = None
        self._device = None

    def _on_device(self) -> Any:
        if self._device is None:
            self._device = self._ground.device()
        return self._device

    @contextlib.contextmanager
    def _limit(self, seconds: float, doing: str) -> Any:
        self._refuse_closed()
        with device_errors(doing, self._ground.address), self._ground.limit(seconds, doing):
            yield

    def _refuse_closed(self) -> None:
        if self._closed:
            raise UserError("the workbench is closed.", advice="Ask the session for another.")

    def _refuse_empty(self) -> None:
        self._refuse_closed()
        if self._module is None:
            raise UserError("no library is loaded.", advice="Call load() first.")
