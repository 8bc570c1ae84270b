"""Tune tasks on a device: choose a task, choose what to try, measure, write down, until it is enough."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from edgevit.errors import EnvironmentFailure
from edgevit.tuning.layers import Layer, layer_files
from edgevit.tuning.measure import Fault, Latency, Outcome
from edgevit.tuning.origin import Origin
from edgevit.tuning.proposing import propose
from edgevit.tuning.reading import Rejected, read_records
from edgevit.tuning.record import DeviceFacts, KernelRecord, Record, TargetFacts
from edgevit.tuning.records import Choice, TuningLog, choice_key
from edgevit.tuning.schedule import REST, Progress, latencies, model_latencies, priorities
from edgevit.tuning.tasks import Task
from edgevit.tuning.writing import LogWriter

if TYPE_CHECKING:
    from edgevit.device.session import DeviceInfo
    from edgevit.target_schema import Target

BATCH = 16
"""Choices that become one library."""
CONFIRMATIONS = 4
"""How often after a batch the best choice is measured again, while another one takes its place."""
MARGIN = 1.25
"""How much longer than those before it a batch may take without passing the end of the run's time."""
KIN = 4
"""Other workloads of the family, most alike in size, whose best choices are tried."""

Reason = Literal["minutes", "trials", "settled", "exhausted"]
"""Why a run ended: its time or trials are spent, what is left cannot matter, or everything was tried."""


class Measuring(Protocol):
    """What measures: :class:`edgevit.tuning.measure.Measurer`."""

    threads: int

    @property
    def device(self) -> DeviceInfo:
        """Where it measures."""
        ...

    def measure(
        self, task: Task, choices: Sequence[Choice], reference_seconds: float | None = None
    ) -> Iterator[Outcome]:
        """Outcomes, in the order in which they become known."""
        ...


@dataclass(frozen=True)
class Budget:
    """What a run may spend; None for as much as it takes.

    Attributes:
        minutes: of the clock. A batch that is not expected to end in time is made smaller, or not begun.
        trials: choices built and run.
        rest: expected gain of all models together below which the run ends.
    """

    minutes: float | None = None
    trials: int | None = None
    rest: float = REST


@dataclass(frozen=True)
class Trial:
    """A choice that was tried, told as soon as it is written down.

    Attributes:
        progress: of its task, this trial included.
        outcome: of the trial.
        number: of the trial in this run.
        again: the choice had become the best, and was measured a second time; this is no trial of its own.
    """

    progress: Progress
    outcome: Outcome
    number: int
    again: bool = False


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        reason: why it ended.
        trials: choices tried.
        measured: of which have a latency.
        failures: by kind.
        before: sum of the kernels' latencies with every default, by model, in seconds; guessed where none is measured.
        after: the same with the best choices.
    """

    reason: Reason
    trials: int
    measured: int
    failures: Mapping[str, int]
    before: Mapping[str, float]
    after: Mapping[str, float]


def read_known(target: Target, log: Path, folder: Path | None = None) -> list[tuple[Layer, Record]]:
    """Every record that concerns a target: those of a log that is written to, and of all layers.

    Args:
        target: to tune for.
        log: to be written to; it need not exist.
        folder: of further records.

    Raises:
        UserError: ``folder`` does not exist.
    """
    files = layer_files(folder, target)
    if log.is_file() and not any(file.samefile(log) for _, file in files):
        files.insert(0, (Layer.GIVEN, log))
    found = ((layer, entry) for layer, file in files for entry in read_records(file))
    return [(layer, entry) for layer, entry in found if not isinstance(entry, Rejected)]


class Tuner:
    """One run over some tasks.

    What the log holds is not tried again, so a run that was ended at any instant is resumed by another one like it.

    Attributes:
        entries: what is known of each task.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        measurer: Measuring,
        log: LogWriter,
        known: Iterable[tuple[Layer, Record]] = (),
        *,
        budget: Budget | None = None,
        batch: int = BATCH,
        seed: int = 0,
        provenance: str = "",
        report: Callable[[Trial], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take stock of what is known.

        Args:
            tasks: of one target, one at least; those without a choice count for the latency only.
            measurer: builds and measures.
            log: takes every result the moment it exists.
            known: records of all layers: :func:`read_known`.
            budget: what may be spent; None for no limit.
            batch: choices to build and measure together.
            seed: of what is drawn.
            provenance: command or run, for the records.
            report: told of every trial.
            clock: seconds since some moment.

        Raises:
            DeviceError: the device cannot be reached.
        """
        self._target = tasks[0].target
        self._measurer = measurer
        self._log = log
        self._budget = budget or Budget()
        self._batch = batch
        self._seed = seed
        self._report = report
        self._clock = clock
        device = measurer.device
        self._origin = Origin(self._target, device, measurer.threads, provenance)
        known = list(known)
        self._records = TuningLog(known, self._target, threads=measurer.threads, device=device.cpu)
        self._pinned: dict[tuple[str, tuple[int, ...]], Task] = {}
        self._trials = self._measured = 0
        self._failures: Counter[str] = Counter()
        self._details: Counter[str] = Counter()
        self._family_seconds: defaultdict[str, float] = defaultdict(float)
        self._family_trials: Counter[str] = Counter()
        identity = DeviceFacts.of(device).identity
        self.entries = [
            Progress(task, tried=self._records.tried(task.key, measurer.threads, identity)) for task in tasks
        ]
        self._by_key = {entry.task.key: entry for entry in self.entries}
        for record in sorted(_measured_here(known, self._target, identity, measurer.threads), key=lambda r: r.date):
            if record.workload in self._by_key:
                self._by_key[record.workload].take(record)
        for entry in self.entries:
            entry.gains += [0.0] * (len(entry.tried) // batch)

    def run(self) -> Summary:
        """Tune until it is enough. A Ctrl-C passes through; what was measured is in the log.

        Raises:
            EnvironmentFailure: nothing of what was tried could be measured, or the disk is full.
            ToolchainError: not even a default builds.
            DeviceError: the device was lost and does not come back.
        """
        begun = self._clock()
        while True:
            chosen = self._next(self._clock() - begun)
            if isinstance(chosen, str):
                break
            entry, choices = chosen
            moment = self._clock()
            self._try(entry, choices)
            self._family_seconds[entry.task.family.NAME] += self._clock() - moment
            self._family_trials[entry.task.family.NAME] += len(choices)
        if self._trials and not self._measured and not self._measurer.device.emulated:
            raise self._nothing_measured()
        return self.summary(chosen)

    def summary(self, reason: Reason) -> Summary:
        """What the run did so far."""
        after = latencies(self.entries)
        before = [entry.default_seconds or each for entry, each in zip(self.entries, after, strict=True)]
        return Summary(
            reason,
            self._trials,
            self._measured,
            dict(self._failures),
            model_latencies(self.entries, before),
            model_latencies(self.entries, after),
        )

    def _next(self, elapsed: float) -> tuple[Progress, list[Choice]] | Reason:
        """The task to go on with and what to try of it, or why to end."""
        count = self._batch
        if self._budget.trials is not None:
            count = min(count, self._budget.trials - self._trials)
            if count < 1:
                return "trials"
        for entry in self.entries:
            self._follow(entry)
        ranked = sorted(zip(priorities(self.entries), self.entries, strict=True), key=lambda item: -item[0])
        left = [(priority, entry) for priority, entry in ranked if not entry.exhausted]
        if left and sum(priority for priority, _ in left) < self._budget.rest:
            return "settled"
        for _, entry in left:
            timely = self._in_time(entry, count, elapsed)
            if timely < 1:
                return "minutes"
            choices = self._propose(entry, timely)
            if choices:
                return entry, choices
        return "exhausted"

    def _in_time(self, entry: Progress, count: int, elapsed: float) -> int:
        """How many of ``count`` trials will end in time, as far as the family's trials so far tell."""
        if self._budget.minutes is None:
            return count
        left = 60 * self._budget.minutes - elapsed
        if left <= 0:
            return 0
        rates = {family: seconds / self._family_trials[family] for family, seconds in self._family_seconds.items()}
        slowest = max(rates.values(), default=0.0)
        each = MARGIN * rates.get(entry.task.family.NAME, slowest)
        return min(count, int(left / each)) if each else count

    def _propose(self, entry: Progress, count: int) -> list[Choice]:
        task = entry.task
        pick = self._records.find(task.key, lambda choice, _: choice in task.space)
        kin = [other for other in self.entries if other.task.family is task.family and other.results]
        kin = sorted((other for other in kin if other is not entry), key=lambda other: _distance(task, other.task))
        seeds = [*([pick.choice] if pick else []), *(other.best for other in kin[:KIN])]
        seed = f"{self._seed}/{task.key}/{len(entry.tried)}"
        return propose(task.space, entry.usable, entry.tried, count, seeds=seeds, seed=seed)

    def _follow(self, entry: Progress) -> None:
        """Let a task's space be what its leader's best choice leaves of it."""
        leader = self._by_key.get(entry.task.leader or "")
        if leader is not None:
            best = leader.best
            place = (entry.task.key, entry.task.layout_of(best))
            entry.task = self._pinned.setdefault(place, entry.task.pin(best))

    def _try(self, entry: Progress, choices: Sequence[Choice]) -> None:
        known = entry.seconds
        entry.tried.update(map(choice_key, choices))  # whatever becomes of them, not again in this run
        for outcome in self._measurer.measure(entry.task, choices, entry.default_seconds):
            self._trials += 1
            entry.trials += 1
            self._write(entry, outcome)
        self._confirm(entry)
        # The first batch is compared with the default, which it measured.
        before, after = known or entry.default_seconds, entry.seconds
        entry.gains.append(max(0.0, 1 - after / before) if before and after else 0.0)

    def _confirm(self, entry: Progress) -> None:
        """Measure the best choice again, until the best is one that was: the least of many readings was lucky."""
        for _ in range(CONFIRMATIONS):
            best = entry.best
            if best == entry.task.default or choice_key(best) in entry.confirmed:
                return
            entry.confirmed.add(choice_key(best))
            for outcome in self._measurer.measure(entry.task, [best], entry.default_seconds):
                self._write(entry, outcome, again=True)

    def _write(self, entry: Progress, outcome: Outcome, *, again: bool = False) -> None:
        """Note an outcome, in the log if it is for keeps."""
        task, emulated, key = entry.task, self._measurer.device.emulated, choice_key(outcome.choice)
        entry.tried.add(key)
        if isinstance(outcome, Latency):
            record = self._origin.measured(task.family, task.workload, outcome.choice, outcome.samples)
            self._log.append(record)
            entry.take(record)
            self._measured += not again
        elif isinstance(outcome, Fault):
            entry.results.pop(key, None)
            self._failures[outcome.failure] += 1
            self._details[f"{outcome.failure}: {outcome.detail}"] += 1
            entry.failures += 1
            # Emulators crash and take long for reasons of their own.
            if not emulated or outcome.failure in ("build", "wrong"):
                fault = (outcome.choice, outcome.failure, outcome.detail)
                self._log.append(self._origin.failed(task.family, task.workload, *fault))
        self._report(Trial(entry, outcome, self._trials, again))

    def _nothing_measured(self) -> EnvironmentFailure:
        if self._details:
            cause, times = self._details.most_common(1)[0]
            return EnvironmentFailure(
                f"none of {self._trials} trials could be measured; {times} times the cause was {cause}.",
                where=self._target.name,
                advice="Is the target the device's? 'edgevit devices doctor' looks at device and toolchain.",
            )
        return EnvironmentFailure(
            f"none of {self._trials} trials could be measured: the default kernels' own times never settled.",
            where=self._target.name,
            advice="End what else runs on the device, let it cool down, and run the same command again.",
        )


def _distance(one: Task, other: Task) -> float:
    """How far apart the work of two tasks is."""
    return abs(math.log((one.workload.flops + 1) / (other.workload.flops + 1)))


def _measured_here(
    known: Iterable[tuple[Layer, Record]], target: Target, device: str, threads: int
) -> Iterator[KernelRecord]:
    """Latencies that compare with those of this run."""
    own = TargetFacts.of(target).identity
    for _, record in known:
        if (
            isinstance(record, KernelRecord)
            and record.evidence == "measured"
            and (record.target.identity, record.threads) == (own, threads)
            and record.device is not None
            and record.device.identity == device
        ):
            yield record
