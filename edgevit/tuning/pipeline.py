"""Batches on their way: built by several builders, run by several devices, each where it is free.

Whatever happens is told to one thread, which decides and writes; builders and devices have threads of their own. Where
the device is the machine that builds, one waits for the other: times taken beside a compiler are of no use.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from edgevit.errors import DeviceError
from edgevit.tuning.building.build import Library
from edgevit.tuning.measure import Fault, Latency, Measurer, Outcome
from edgevit.tuning.records import Choice, ChoiceKey, choice_key
from edgevit.tuning.schedule import Progress
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgevit.tuning.building.builders import Builders, Built

PATIENCE_SECONDS = 60.0
"""How long a device that went away is waited for."""

_RETRY_SECONDS = 1.0
_ACCIDENTS = 1
"""How often in a row a device that can be reached may fail without anybody to blame."""
_JOIN_SECONDS = 5.0


@dataclass(eq=False)
class Batch:
    """Choices of a task that are built and measured together.

    Attributes:
        entry: of the task.
        task: as it was when the batch was made.
        choices: to try.
        told: of which the outcome is known.
        begun: when it was made, by the clock of whoever made it.
        known_seconds: of the best choice then.
    """

    entry: Progress
    task: Task
    choices: tuple[Choice, ...]
    begun: float = 0.0
    known_seconds: float | None = None
    told: set[ChoiceKey] = field(default_factory=set)


@dataclass(frozen=True)
class Told:
    """An outcome of a batch."""

    batch: Batch
    outcome: Outcome


@dataclass(frozen=True)
class Ended:
    """A batch of which everything is known."""

    batch: Batch


Event = Told | Ended
Stage = Literal["building", "waiting", "measuring"]
_Message = Callable[[], None]


@dataclass(eq=False)
class _Ready:
    """A batch that is built, or a part of one that a lost device left."""

    batch: Batch
    libraries: list[Library]


class Pipeline:
    """Builders and devices at work; a context manager that ends them.

    Args:
        builders: that compile batches.
        devices: that run them; all alike.
        exclusive: whether building disturbs measuring, so that they take turns.
        patience: seconds to wait for a device that went away.
    """

    def __init__(
        self,
        builders: Builders,
        devices: Sequence[Measurer],
        *,
        exclusive: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._builders = builders
        self._exclusive = exclusive
        self._patience = patience
        self._messages: queue.SimpleQueue[_Message] = queue.SimpleQueue()
        self._events: deque[Event] = deque()
        self._ready: deque[_Ready] = deque()
        self._building: dict[Batch, Future[Built]] = {}
        self._measuring: dict[_Bench, _Ready] = {}
        self._stop = threading.Event()
        self._benches = [_Bench(device, self._tell, self._stop, patience) for device in devices]
        self._lost: DeviceError | None = None

    @property
    def building(self) -> int:
        """Batches that are being built."""
        return len(self._building)

    @property
    def waiting(self) -> int:
        """Batches that are built and wait for a device."""
        return len(self._ready)

    @property
    def measuring(self) -> int:
        """Batches that are being measured."""
        return len(self._measuring)

    @property
    def devices(self) -> int:
        """Devices that are left."""
        return len(self._benches)

    @property
    def room(self) -> int:
        """How many more batches can be taken."""
        if self._exclusive:
            return 0 if self._ready or self._measuring else self._builders.slots - self.building
        return self._builders.slots + self.devices - self.building - self.waiting

    @property
    def busy(self) -> bool:
        """Whether any batch is on its way."""
        return bool(self._building or self._ready or self._measuring or self._events)

    def tasks(self) -> dict[str, Stage]:
        """What happens to which task, by key; those to which nothing happens are not there."""
        found: dict[str, Stage] = {batch.task.key: "building" for batch in self._building}
        found |= {ready.batch.task.key: "waiting" for ready in self._ready}
        return found | {ready.batch.task.key: "measuring" for ready in self._measuring.values()}

    def submit(self, batch: Batch) -> None:
        """Take a batch."""
        future = self._builders.submit(batch.task, batch.choices)
        self._building[batch] = future
        future.add_done_callback(lambda done: self._tell(partial(self._built, batch, done)))

    def wait(self, timeout: float) -> Event | None:
        """What happens next; None if nothing does within ``timeout`` seconds.

        Raises:
            ToolchainError: not even a task's default builds.
            DeviceError: the last device is lost, or a default fails on it.
            EnvironmentFailure: the builders are gone.
        """
        end = time.monotonic() + timeout
        while not self._events:
            try:
                message = self._messages.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            message()
            self._dispatch()
        return self._events.popleft()

    def close(self) -> None:
        """Drop what is on its way, and end builders and devices."""
        self._stop.set()
        for bench in self._benches:
            bench.close()
        self._builders.close()
        end = time.monotonic() + _JOIN_SECONDS
        for bench in self._benches:
            bench.join(max(0.0, end - time.monotonic()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tell(self, message: _Message) -> None:
        """Let the thread that waits do something: all state is its own."""
        self._messages.put(message)

    def _dispatch(self) -> None:
        """Give what is built to devices that are free."""
        if self._exclusive and self._building:
            return
        for bench in self._benches:
            if self._ready and bench not in self._measuring:
                ready = self._measuring[bench] = self._ready.popleft()
                bench.begin(ready, partial(self._outcome, ready.batch), partial(self._ended, bench))

    def _built(self, batch: Batch, future: Future[Built]) -> None:
        del self._building[batch]
        try:
            libraries, failures = future.result()
        except CancelledError:
            return
        for failed in failures:
            self._outcome(batch, Fault(failed.choice, failed.failure, failed.detail))
        if libraries:
            self._ready.append(_Ready(batch, libraries))
        else:
            self._events.append(Ended(batch))

    def _outcome(self, batch: Batch, outcome: Outcome) -> None:
        key = choice_key(outcome.choice)
        batch.told.add(key)
        # Devices that began before the default's latency was known have each measured it: one is enough.
        if not (isinstance(outcome, Latency) and not outcome.again and key in batch.entry.results):
            self._events.append(Told(batch, outcome))

    def _ended(self, bench: _Bench, error: Exception | None) -> None:
        """A device is done with its batch, or lost."""
        ready = self._measuring.pop(bench)
        if error is None:
            self._events.append(Ended(ready.batch))
            return
        bench.close()
        self._benches.remove(bench)
        if not self._benches or not isinstance(error, DeviceError):
            raise error
        left = [_left(library, ready.batch.told) for library in ready.libraries]
        self._ready.appendleft(_Ready(ready.batch, [library for library in left if library.functions]))


class _Bench:
    """A device and the thread that waits for it."""

    def __init__(
        self, device: Measurer, tell: Callable[[_Message], None], stop: threading.Event, patience: float
    ) -> None:
        self._device = device
        self._tell = tell
        self._stop = stop
        self._patience = patience
        self._thread: threading.Thread | None = None

    def begin(
        self, ready: _Ready, outcome: Callable[[Outcome], None], ended: Callable[[Exception | None], None]
    ) -> None:
        """Measure libraries, each as soon as the one before is done; results are told."""
        known = ready.batch.entry.default_seconds, ready.batch.entry.seconds
        told = set(ready.batch.told)
        self._thread = threading.Thread(target=self._run, args=(ready, known, told, outcome, ended), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the device's session; the thread ends with it."""
        self._device.close()

    def join(self, timeout: float) -> None:
        """Wait for the thread."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _run(
        self,
        ready: _Ready,
        known: tuple[float | None, float | None],
        told: set[ChoiceKey],
        outcome: Callable[[Outcome], None],
        ended: Callable[[Exception | None], None],
    ) -> None:
        accidents = 0
        default = ready.batch.task.default

        def heard(found: Outcome) -> None:
            nonlocal accidents, known
            accidents = 0
            if isinstance(found, Latency) and found.choice == default and known[0] is None:
                known = found.seconds, known[1]  # what further libraries of the batch are compared with
            told.add(choice_key(found.choice))
            self._tell(partial(outcome, found))

        try:
            for library in ready.libraries:
                while (error := self._measure(ready.batch.task, library, known, told, heard)) is not None:
                    accidents += 1
                    self._await(error)
                    if accidents > _ACCIDENTS:
                        raise error
        except Exception as problem:  # whatever it is, it belongs to the thread that decides
            self._tell(partial(ended, problem))
        else:
            self._tell(partial(ended, None))

    def _measure(
        self,
        task: Task,
        library: Library,
        known: tuple[float | None, float | None],
        told: set[ChoiceKey],
        heard: Callable[[Outcome], None],
    ) -> DeviceError | None:
        """Measure what is left of a library; how the device failed, if it did."""
        try:
            for found in self._device.measure(task, _left(library, told), *known):
                heard(found)
        except DeviceError as error:
            return error
        return None

    def _await(self, error: DeviceError) -> None:
        """Wait until the device can be reached again, or raise what it failed with."""
        end = time.monotonic() + self._patience
        while not self._reached():
            if time.monotonic() >= end or self._stop.wait(_RETRY_SECONDS):
                raise error

    def _reached(self) -> bool:
        try:
            self._device.reach()
        except DeviceError:
            return False
        return True


def _left(library: Library, told: set[ChoiceKey]) -> Library:
    """The candidates of a library of which nothing is known yet."""
    left = tuple(pair for pair in library.functions if choice_key(pair[0]) not in told)
    return replace(library, functions=left)
