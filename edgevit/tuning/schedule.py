"""Which task gets the next trials: the one whose share of the models' latency times its expected gain is largest."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import Choice, ChoiceKey, choice_key
from edgevit.tuning.tasks import Task

FIRST_GAIN = 0.15
"""Gain expected of a task's first batch, as a part of its latency; every batch without a gain halves it."""
REST = 0.002
"""Gain of all models together below which no batch is worth its time."""

_SPARSE = 100
"""No space leaves out all but one in so many of its combinations."""

# Rates of a small core, for tasks that nothing is known of; those that are measured put the others right.
_FLOPS_PER_SECOND = 20e9
_BYTES_PER_SECOND = 10e9
_CALL_SECONDS = 1e-6


@dataclass(eq=False)
class Progress:
    """What is known of a task.

    Attributes:
        task: as extracted, or as its leader's best choice pins it.
        results: seconds of choices measured on this target, device and number of threads.
        tried: choices that need no further trial.
        gains: of each batch, as a part of the latency before it.
        confirmed: choices that were measured again after they had become the best.
        trials: of this run.
        failures: of this run.
        pending: batches that are on their way.
    """

    task: Task
    results: dict[ChoiceKey, float] = field(default_factory=dict)
    tried: set[ChoiceKey] = field(default_factory=set)
    gains: list[float] = field(default_factory=list)
    confirmed: set[ChoiceKey] = field(default_factory=set)
    trials: int = 0
    failures: int = 0
    pending: int = 0
    _usable: tuple[Task, dict[ChoiceKey, float]] | None = field(default=None, repr=False)
    _exhausted: tuple[Task, int, bool] | None = field(default=None, repr=False)
    _guessed: float | None = field(default=None, repr=False)

    @property
    def usable(self) -> Mapping[ChoiceKey, float]:
        """Results of choices that the task may take."""
        if self._usable is None or self._usable[0] is not self.task:
            found = {key: seconds for key, seconds in self.results.items() if dict(key) in self.task.space}
            self._usable = self.task, found
        return self._usable[1]

    @property
    def best(self) -> Choice:
        """The fastest choice, or the default where none is measured."""
        ranked = sorted((seconds, key) for key, seconds in self.usable.items())
        return dict(ranked[0][1]) if ranked else dict(self.task.default)

    @property
    def seconds(self) -> float | None:
        """Latency of the best choice."""
        return min(self.usable.values(), default=None)

    @property
    def exhausted(self) -> bool:
        """Whether every choice that the task may take was tried."""
        if self._exhausted is None or self._exhausted[:2] != (self.task, len(self.tried)):
            # Most of the combinations are points, so this need not be counted often.
            enough = len(self.tried) >= self.task.space.combinations // _SPARSE
            whole = enough and sum(dict(key) in self.task.space for key in self.tried) >= self.task.space.size
            self._exhausted = self.task, len(self.tried), whole
        return self._exhausted[2]

    @property
    def guess(self) -> float:
        """Seconds of a call on a small core, from nothing but the work."""
        if self._guessed is None:
            workload = self.task.workload
            work = max(workload.flops / _FLOPS_PER_SECOND, workload.bytes / _BYTES_PER_SECOND)
            self._guessed = float(work) + _CALL_SECONDS
        return self._guessed

    @property
    def default_seconds(self) -> float | None:
        """Latency of the default."""
        return self.results.get(choice_key(self.task.default))

    @property
    def expected_gain(self) -> float:
        """Of the next batch: what recent ones gained, or half of what was expected of each before it."""
        recent = statistics.fmean(self.gains[-2:]) if self.gains else 0.0
        return max(recent / 2, FIRST_GAIN * 0.5 ** len(self.gains))

    def take(self, record: KernelRecord) -> None:
        """Note a measurement; a second one of a choice replaces the first."""
        key = choice_key(record.choice)
        if key in self.results:
            self.confirmed.add(key)
        self.results[key] = record.timing.seconds
        self._usable = None

    def drop(self, key: ChoiceKey) -> None:
        """Forget a measurement of a choice that turned out to fail."""
        self.results.pop(key, None)
        self._usable = None


def latencies(entries: Sequence[Progress]) -> list[float]:
    """Seconds of a call of each task: measured, or guessed from its work and how the measured ones did."""
    guesses = [entry.guess for entry in entries]
    known = [entry.seconds for entry in entries]
    factors = [seconds / guess for seconds, guess in zip(known, guesses, strict=True) if seconds]
    factor = statistics.median(factors) if factors else 1.0
    return [seconds or guess * factor for seconds, guess in zip(known, guesses, strict=True)]


def shares(entries: Sequence[Progress]) -> list[float]:
    """Each task's part of a model's latency, as a mean over the models."""
    seconds = latencies(entries)
    totals = model_latencies(entries, seconds)
    return [
        sum(calls * each / totals[model] for model, calls in entry.task.calls.items()) / len(totals)
        for entry, each in zip(entries, seconds, strict=True)
    ]


def model_latencies(entries: Sequence[Progress], seconds: Sequence[float]) -> Mapping[str, float]:
    """Seconds of all calls of one inference, by model."""
    totals: dict[str, float] = {}
    for entry, each in zip(entries, seconds, strict=True):
        for model, calls in entry.task.calls.items():
            totals[model] = totals.get(model, 0.0) + calls * each
    return totals


def priorities(entries: Sequence[Progress]) -> list[float]:
    """Gain of all models together that a task's next batch is expected to bring."""
    return [share * entry.expected_gain for share, entry in zip(shares(entries), entries, strict=True)]
