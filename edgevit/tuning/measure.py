"""Measure candidates on a device: first that they are right, then how long they take beside the default.

Whatever happens to the device, the candidate that was running when it happened is the suspect: it gets a second try on
a fresh session, and is given up when that ends the same way. All others go on.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.accuracy.tolerance import tolerance_for
from edgevit.device.session import DeviceInfo, Session
from edgevit.errors import DeviceError, DeviceTimeout
from edgevit.tuning.building.build import Library
from edgevit.tuning.record import Failure
from edgevit.tuning.records import Choice, choice_key
from edgevit.tuning.rounds import SLOW_SHARE, Round, calm, ratios
from edgevit.tuning.tasks import Task
from edgevit.tuning.tuning_device import TuningDevice

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self


@dataclass(frozen=True)
class Latency:
    """A choice that is right, and how long a call of its kernel takes.

    Attributes:
        samples: seconds, one of each round that counted.
        thrown_out: readings that did not count: rounds in which the reference slowed, and outliers.
        again: it had looked like the best, and this is its second measurement.
    """

    choice: Choice
    samples: tuple[float, ...]
    thrown_out: int
    again: bool = False

    @property
    def seconds(self) -> float:
        """Median."""
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Fault:
    """A choice that is of no use on this target."""

    choice: Choice
    failure: Failure
    detail: str


@dataclass(frozen=True)
class Correct:
    """A choice that is right, on a device whose times mean nothing, or in rounds too restless for a latency.

    Attributes:
        restless: rounds in which the reference slowed; 0 for an emulated device.
    """

    choice: Choice
    restless: int = 0


Outcome = Latency | Fault | Correct


@dataclass(frozen=True)
class Protocol:
    """How to measure.

    Attributes:
        rounds: calm rounds that make a latency.
        most_rounds: rounds, calm or not, after which a batch is given up.
        seconds: that each reading takes at least, spent on calls behind each other.
        slow_share: how much slower the reference may be in a round that counts.
        call_seconds: time limit of a call.
    """

    rounds: int = 8
    most_rounds: int = 24
    seconds: float = 0.002
    slow_share: float = SLOW_SHARE
    call_seconds: float = 30.0


class Measurer:
    """Runs libraries of candidates on a device; a context manager that ends its session.

    Args:
        connect: opens a session; called again after a device was lost.
        threads: to call kernels with.
        protocol: how to measure.
    """

    def __init__(self, connect: Callable[[], Session], *, threads: int, protocol: Protocol | None = None) -> None:
        self._protocol = protocol or Protocol()
        self._device = TuningDevice(connect, threads, self._protocol.call_seconds)

    @property
    def threads(self) -> int:
        """That kernels are called with; may be changed until something was measured."""
        return self._device.threads

    @threads.setter
    def threads(self, count: int) -> None:
        self._device.threads = count

    @property
    def device(self) -> DeviceInfo:
        """What the device says of itself.

        Raises:
            DeviceError: it cannot be reached.
            UserError: it is this process.
        """
        return self._device.describe()

    @property
    def session(self) -> Session:
        """With the device, opened if there is none.

        Raises:
            DeviceError: it cannot be reached.
        """
        return self._device.open()

    def reach(self) -> None:
        """Open the session, if there is none.

        Raises:
            DeviceError: it cannot be reached.
        """
        self._device.open()

    def measure(
        self,
        task: Task,
        library: Library,
        reference_seconds: float | None = None,
        best_seconds: float | None = None,
    ) -> Iterator[Outcome]:
        """Outcomes in the order in which they become known, one for each choice.

        Without ``reference_seconds`` the default's own latency comes as well: it is what the others are compared with.
        A choice that looks like the best is measured a second time, for the least of many readings was lucky; that
        comes as a further latency, marked ``again``.

        Args:
            task: whose kernels are in the library.
            library: of candidates.
            reference_seconds: latency of the default, measured on this device before. What machines do between one
                batch and the next then changes nothing: ratios to the default are multiplied by this.
            best_seconds: latency of the best choice so far; None for the default's.

        Raises:
            DeviceError: the device cannot be reached, or fails while the default runs.
            UserError: the session is this process.
        """

        def run(part: Library, reference: float | None) -> Iterator[Outcome]:
            return _Batch(self._device, self._protocol, task, part, reference).run()

        yield from measure_twice(run, task, library, reference_seconds, best_seconds)

    def close(self) -> None:
        """End the session for good, also while another thread measures; safe to call twice."""
        self._device.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def measure_twice(
    run: Callable[[Library, float | None], Iterator[Outcome]],
    task: Task,
    library: Library,
    reference_seconds: float | None,
    best_seconds: float | None,
) -> Iterator[Outcome]:
    """Outcomes of a library's candidates, and of those that look like the best once more.

    Args:
        run: measures a library, given the default's latency if it is known.
        task: whose kernels are in the library.
        library: of candidates.
        reference_seconds, best_seconds: as for :meth:`Measurer.measure`.
    """
    found: dict[str, float] = {}
    names = {choice_key(choice): name for choice, name in library.functions}

    def note(outcome: Outcome) -> Outcome:
        name = names.get(choice_key(outcome.choice), library.reference)
        found.pop(name, None)
        if isinstance(outcome, Latency):
            found[name] = outcome.seconds
        return outcome

    for outcome in run(library, reference_seconds):
        if isinstance(outcome, Latency) and outcome.choice == task.default:
            reference_seconds = outcome.seconds
        yield note(outcome)
    confirmed = {library.reference}
    while True:
        best = min(found, key=lambda name: (found[name], name), default=library.reference)
        if best in confirmed or found[best] >= (best_seconds or reference_seconds or 0.0):
            return
        confirmed.add(best)
        for outcome in map(note, run(_only(library, best), reference_seconds)):
            yield replace(outcome, again=True) if isinstance(outcome, Latency) else outcome


def _only(library: Library, name: str) -> Library:
    """A library of which one function alone is measured, for all choices that share it."""
    return replace(library, functions=tuple(pair for pair in library.functions if pair[1] == name))


class _Batch:
    """Checks and times the candidates of one library."""

    def __init__(
        self, device: TuningDevice, protocol: Protocol, task: Task, library: Library, reference_seconds: float | None
    ) -> None:
        self._device = device
        self._protocol = protocol
        self._task = task
        self._library = library
        self._reference_seconds = reference_seconds
        # Choices that share a function share its outcome.
        self._choices: dict[str, list[Choice]] = {}
        for choice, name in library.functions:
            self._choices.setdefault(name, []).append(choice)
        self._expected: list[NDArray[Any]] | None = None
        self._right: set[str] = set()
        self._suspicions: Counter[str] = Counter()
        self._running = ""

    def run(self) -> Iterator[Outcome]:
        """Outcomes of all candidates, and of the reference unless its latency is known."""
        rounds: list[Round] = []
        while self._choices:
            try:
                self._device.bench(self._task).load(self._library)
                yield from self._check()
                rounds = self._rounds()
                break
            except DeviceError as error:
                self._device.close()
                yield from self._suspect(error)
        yield from self._outcomes(rounds)

    def _check(self) -> Iterator[Outcome]:
        """Compare each candidate's outputs with the reference's; those that differ are out."""
        if self._expected is None:
            self._expected = self._run(self._library.reference)
        for name in [name for name in self._choices if name not in self._right]:
            error = max(map(difference, self._run(name), self._expected))
            if error <= self._tolerance:
                self._right.add(name)
            else:
                yield from self._drop(name, "wrong", f"outputs differ by {error:.3g} of the largest value")

    def _rounds(self) -> list[Round]:
        """Readings in turns, until enough rounds were calm."""
        if self._device.describe().emulated or not self._choices:
            return []
        protocol, reference = self._protocol, self._library.reference
        names = [name for name in self._choices if name != reference]
        once = {name: self._time(name, 1) for name in (reference, *names)}
        calls = {name: max(1, math.ceil(protocol.seconds / max(seconds, 1e-9))) for name, seconds in once.items()}
        rounds: list[Round] = []
        while len(rounds) < protocol.most_rounds and len(calm(rounds, protocol.slow_share)) < protocol.rounds:
            turn = len(rounds) % max(1, len(names))
            before = self._time(reference, calls[reference])
            candidates = {name: self._time(name, calls[name]) for name in (*names[turn:], *names[:turn])}
            rounds.append(Round(before, self._time(reference, calls[reference]), candidates))
        return rounds

    def _outcomes(self, rounds: Sequence[Round]) -> Iterator[Outcome]:
        counted = calm(rounds, self._protocol.slow_share)
        restless = len(rounds) - len(counted)
        if len(counted) < self._protocol.rounds:
            yield from (Correct(choice, restless) for choices in self._choices.values() for choice in choices)
            return
        readings = [entry.reference for entry in counted]
        middle = statistics.median(readings)
        known = self._reference_seconds or middle
        own = Latency(self._task.default, tuple(known * reading / middle for reading in readings), restless)
        if self._reference_seconds is None:
            yield own
        for name, choices in self._choices.items():
            latency = own
            if name != self._library.reference:
                found = ratios(counted, name)
                latency = Latency({}, tuple(known * ratio for ratio in found.kept), restless + found.outliers)
            yield from (replace(latency, choice=choice) for choice in choices if choice != self._task.default)

    def _suspect(self, error: DeviceError) -> Iterator[Outcome]:
        """Blame what was running, or the device if nothing was; once is an accident."""
        name, self._running = self._running, ""
        self._suspicions[name] += 1
        if self._suspicions[name] == 1:
            return
        if name not in self._choices or name == self._library.reference:
            raise error
        yield from self._drop(name, "timeout" if isinstance(error, DeviceTimeout) else "crash", error.message)

    def _drop(self, name: str, failure: Failure, detail: str) -> Iterator[Outcome]:
        self._right.discard(name)
        for choice in self._choices.pop(name):
            yield Fault(choice, failure, detail)

    def _run(self, name: str) -> list[NDArray[Any]]:
        with self._watch(name):
            return self._device.bench(self._task).run(self._library, self._choice(name), name)

    def _time(self, name: str, calls: int) -> float:
        with self._watch(name):
            return self._device.bench(self._task).time(self._library, self._choice(name), name, calls)

    @contextmanager
    def _watch(self, name: str) -> Iterator[None]:
        """Remember what is running, should the device fail."""
        self._running = name
        yield
        self._running = ""

    def _choice(self, name: str) -> Choice:
        return self._task.default if name == self._library.reference else self._choices[name][0]

    @property
    def _tolerance(self) -> float:
        tensors = (*self._task.inputs, *self._task.outputs)
        precision = "fp16" if any(tensor.dtype == "float16" for tensor in tensors) else "fp32"
        return tolerance_for(precision).normalised_error


def difference(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over the largest expected value; infinite where one is NaN or infinite and the other is not.

    Integers and truth values must be equal: the result is 0 or infinite.
    """
    if not np.issubdtype(expected.dtype, np.floating):
        return 0.0 if np.array_equal(actual, expected) else math.inf
    one, two = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(two)
    if not np.array_equal(one[~finite], two[~finite], equal_nan=True) or not np.isfinite(one[finite]).all():
        return math.inf
    largest = float(np.abs(two[finite]).max(initial=0.0))
    error = float(np.abs(one[finite] - two[finite]).max(initial=0.0))
    return error / largest if largest else (0.0 if error == 0 else math.inf)
