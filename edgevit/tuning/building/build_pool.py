"""Threads that build batches, each with a builder of its own; results come as futures."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from edgevit.tuning.building.build import Built
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

_JOIN_SECONDS = 10.0


class Interruptible(Protocol):
    """Builds one batch at a time, until another thread interrupts it."""

    def build(self, task: Task, choices: Sequence[Choice]) -> Built:
        """What becomes of a batch."""
        ...

    def interrupt(self) -> None:
        """End what another thread builds: that build and all later ones raise CancelledError."""
        ...

    def close(self) -> None:
        """End what it started."""
        ...


class BuildPool:
    """Builds as many batches at the same time as there are builders; a context manager that ends them.

    Its threads keep no program from ending: they are daemons.

    Attributes:
        slots: batches that are built at the same time.
        here: whether building takes this machine's processor.
    """

    def __init__(self, builders: Sequence[Interruptible], *, here: bool) -> None:
        self.slots = len(builders)
        self.here = here
        self._builders = builders
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._open: set[Future[Built]] = set()
        self._threads = [threading.Thread(target=self._work, args=(builder,), daemon=True) for builder in builders]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
        """What will become of a batch; it never raises.

        The future's exception is one of those that building raises: ToolchainError where not even the task's default
        builds, EnvironmentFailure where nobody is left to build. It is cancelled if this was closed.
        """
        future: Future[Built] = Future()
        with self._lock:
            if not self._closed:
                self._open.add(future)
                self._jobs.put(_Job(task, tuple(choices), future))
                return future
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    def close(self) -> None:
        """Cancel what is not built, and end every process that was started; safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pending = list(self._open)
        for future in pending:
            future.cancel()
            self._finish(future, None)
        for builder in self._builders:
            builder.interrupt()
        for _ in self._threads:
            self._jobs.put(None)
        end = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _work(self, builder: Interruptible) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.cancelled():
                self._finish(job.future, None)
                continue
            try:
                outcome: Built | BaseException = builder.build(job.task, job.choices)
            except BaseException as error:  # whoever waits for the future shall have it
                outcome = error
            self._finish(job.future, outcome)
        builder.close()

    def _finish(self, future: Future[Built], outcome: Built | BaseException | None) -> None:
        """Tell those who wait, once: closing and a builder's thread may come to it at the same time."""
        with self._lock:
            if future not in self._open:
                return
            self._open.remove(future)
        if not future.set_running_or_notify_cancel() or outcome is None:
            return
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


class _Job:
    """A batch and whoever waits for it."""

    def __init__(self, task: Task, choices: tuple[Choice, ...], future: Future[Built]) -> None:
        self.task = task
        self.choices = choices
        self.future = future
