"""Tune tasks on a device: choose a task, choose what to try, measure, write down, until it is enough."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgevit.errors import EnvironmentFailure, UserError
from edgevit.tuning.layers import Layer, layer_files
from edgevit.tuning.measure import Fault, Latency, Measurer, Outcome
from edgevit.tuning.origin import Origin
from edgevit.tuning.pipeline import PATIENCE_SECONDS, Batch, Event, Pipeline, Told
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
    from edgevit.tuning.building.builders import Builders

BATCH = 16
"""Choices that become one library."""
FIRST_BATCH = 8
"""Choices of a task's first batch at most: the default, what is best elsewhere, and little else."""
MARGIN = 1.25
"""How much longer than those before it a batch may take without passing the end of the run's time."""
_TICK_SECONDS = 0.5
KIN = 4
"""Other workloads of the family, most alike, whose best choices are tried."""

Reason = Literal["minutes", "trials", "settled", "exhausted", "interrupted"]
"""Why a run ended: its time or trials are spent, what is left cannot matter, everything was tried, or Ctrl-C."""


@dataclass(frozen=True)
class Budget:
    """What a run may spend; None for as much as it takes.

    Attributes:
        minutes: of the clock. A batch that is not expected to end in time is made smaller, or not begun; one that is
            still on its way then is dropped.
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


def forget_measured(
    known: Iterable[tuple[Layer, Record]], target: Target, device: DeviceInfo, threads: int
) -> list[tuple[Layer, Record]]:
    """What is known but for what was measured on a device itself: a run that starts from it measures that again."""
    known = list(known)
    measured = {id(record) for record in _measured_here(known, target, DeviceFacts.of(device).identity, threads)}
    return [(layer, record) for layer, record in known if id(record) not in measured]


class Tuner:
    """One run over some tasks.

    What the log holds is not tried again, so a run that was ended at any instant is resumed by another one like it.

    Attributes:
        entries: what is known of each task.
        trials: choices of which the outcome is known.
        measured: of which have a latency.
        failures: by kind.
        pipeline: builders and devices at work; None before the run.
        report: told of every trial; may be set before the run.
        budget: what may be spent; may be set before the run.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        devices: Sequence[Measurer],
        builders: Builders,
        log: LogWriter,
        known: Iterable[tuple[Layer, Record]] = (),
        *,
        target: Target | None = None,
        budget: Budget | None = None,
        batch: int = BATCH,
        seed: int = 0,
        provenance: str = "",
        exclusive: bool = False,
        patience: float = PATIENCE_SECONDS,
        report: Callable[[Trial], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take stock of what is known.

        Args:
            tasks: of one target; those without a choice count for the latency only.
            devices: that run candidates, all alike.
            builders: that compile them.
            log: takes every result the moment it exists.
            known: records of all layers: :func:`read_known`.
            target: of the tasks; only needed where there may be none.
            budget: what may be spent; None for no limit.
            batch: choices to build and measure together.
            seed: of what is drawn.
            provenance: command or run, for the records.
            exclusive: whether building disturbs measuring, so that they take turns.
            patience: seconds to wait for a device that went away.
            report: told of every trial.
            clock: seconds since some moment.

        Raises:
            DeviceError: a device cannot be reached.
            UserError: the devices are not alike.
        """
        self._target = target or tasks[0].target
        self._devices = devices
        self._builders = builders
        self._exclusive = exclusive
        self._patience = patience
        self._log = log
        self.budget = budget or Budget()
        self._batch = batch
        self._seed = seed
        self.report = report
        self._clock = clock
        self._begun: float | None = None
        self.pipeline: Pipeline | None = None
        device = _alike(devices)
        self._emulated, threads = device.emulated, devices[0].threads
        self._origin = Origin(self._target, device, threads, provenance)
        known = list(known)
        self._records = TuningLog(known, self._target, threads=threads, device=device.cpu)
        self._pinned: dict[tuple[str, tuple[int, ...]], Task] = {}
        self._submitted = self.trials = self.measured = 0
        self.failures: Counter[str] = Counter()
        self._details: Counter[str] = Counter()
        self._family_seconds: defaultdict[str, float] = defaultdict(float)
        self._family_trials: Counter[str] = Counter()
        identity = DeviceFacts.of(device).identity
        self.entries = [Progress(task, tried=self._records.tried(task.key, threads, identity)) for task in tasks]
        self._by_key = {entry.task.key: entry for entry in self.entries}
        for record in sorted(_measured_here(known, self._target, identity, threads), key=lambda r: r.moment):
            if record.workload in self._by_key:
                self._by_key[record.workload].take(record)
        for entry in self.entries:
            entry.gains += [0.0] * (len(entry.tried) // batch)

    def run(self, tick: Callable[[Tuner], None] = lambda _: None) -> Summary:
        """Tune until it is enough. A Ctrl-C passes through; what was measured is in the log.

        Args:
            tick: called after every event, and twice a second if there is none.

        Raises:
            EnvironmentFailure: nothing of what was tried could be measured, the disk is full, or the builders are gone.
            ToolchainError: not even a default builds.
            DeviceError: the last device was lost and does not come back.
        """
        self._begun = self._clock()
        with Pipeline(self._builders, self._devices, exclusive=self._exclusive, patience=self._patience) as pipeline:
            self.pipeline = pipeline
            reason = self._drive(pipeline, tick)
        if self.trials and not self.measured and not self._emulated:
            raise self._nothing_measured()
        return self.summary(reason)

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return 0.0 if self._begun is None else self._clock() - self._begun

    def _drive(self, pipeline: Pipeline, tick: Callable[[Tuner], None]) -> Reason:
        """Keep builders and devices busy until there is a reason to end."""
        reason: Reason | None = None
        event: Event | None = None
        while True:
            if not isinstance(event, Told):
                reason = self._feed(pipeline)
            if reason and not pipeline.busy:
                return reason
            event = pipeline.wait(_TICK_SECONDS)
            if isinstance(event, Told):
                self._write(event.batch, event.outcome)
            elif event is not None:
                self._note(event.batch)
            tick(self)
            if self.budget.minutes is not None and self.elapsed >= 60 * self.budget.minutes:
                return "minutes"

    def _feed(self, pipeline: Pipeline) -> Reason | None:
        """Fill the builders; why to end, if nothing more is worth a trial."""
        while pipeline.room > 0:
            chosen = self._next()
            if not isinstance(chosen, Batch):
                return chosen
            pipeline.submit(chosen)
        return None

    def summary(self, reason: Reason) -> Summary:
        """What the run did so far."""
        after = latencies(self.entries)
        before = [entry.default_seconds or each for entry, each in zip(self.entries, after, strict=True)]
        return Summary(
            reason,
            self.trials,
            self.measured,
            dict(self.failures),
            model_latencies(self.entries, before),
            model_latencies(self.entries, after),
        )

    def _next(self) -> Batch | Reason:
        """What to try next, or why to try nothing more."""
        count = self._batch
        if self.budget.trials is not None:
            count = min(count, self.budget.trials - self._submitted)
            if count < 1:
                return "trials"
        for entry in self.entries:
            self._follow(entry)
        # What a batch that is on its way will gain is not known: the next one of its task is worth half.
        worth = [
            value * 0.5**entry.pending for value, entry in zip(priorities(self.entries), self.entries, strict=True)
        ]
        ranked = sorted(zip(worth, self.entries, strict=True), key=lambda item: -item[0])
        left = [(priority, entry) for priority, entry in ranked if not entry.exhausted]
        if left and sum(priority for priority, _ in left) < self.budget.rest:
            return "settled"
        for _, entry in left:
            timely = self._in_time(entry, count if entry.tried else min(count, FIRST_BATCH))
            if timely < 1:
                return "minutes"
            choices = self._propose(entry, timely)
            if choices:
                return self._begin(entry, choices)
        return "exhausted"

    def _begin(self, entry: Progress, choices: Sequence[Choice]) -> Batch:
        entry.tried.update(map(choice_key, choices))  # whatever becomes of them, not again in this run
        entry.pending += 1
        self._submitted += len(choices)
        return Batch(entry, entry.task, tuple(choices), begun=self._clock(), known_seconds=entry.seconds)

    def _note(self, batch: Batch) -> None:
        """Draw conclusions from a batch of which everything is known."""
        entry = batch.entry
        entry.pending -= 1
        # The first batch is compared with the default, which it measured.
        before, after = batch.known_seconds or entry.default_seconds, entry.seconds
        entry.gains.append(max(0.0, 1 - after / before) if before and after else 0.0)
        self._family_seconds[entry.task.family.NAME] += self._clock() - batch.begun
        self._family_trials[entry.task.family.NAME] += len(batch.choices)

    def _in_time(self, entry: Progress, count: int) -> int:
        """How many of ``count`` trials will end in time, as far as the family's trials so far tell."""
        if self.budget.minutes is None:
            return count
        left = 60 * self.budget.minutes - self.elapsed
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

    def _write(self, batch: Batch, outcome: Outcome) -> None:
        """Note an outcome, in the log if it is for keeps."""
        entry, task, key = batch.entry, batch.task, choice_key(outcome.choice)
        again = isinstance(outcome, Latency) and outcome.again
        if not again:
            self.trials += 1
            entry.trials += 1
        entry.tried.add(key)
        if isinstance(outcome, Latency):
            default = outcome.seconds if outcome.choice == task.default else entry.default_seconds
            record = self._origin.measured(task.family, task.workload, outcome.choice, outcome.samples, default)
            self._log.append(record)
            entry.take(record)
            self.measured += not again
        elif isinstance(outcome, Fault):
            entry.drop(key)
            self.failures[outcome.failure] += 1
            self._details[f"{outcome.failure}: {outcome.detail}"] += 1
            entry.failures += 1
            # Emulators crash and take long for reasons of their own.
            if not self._emulated or outcome.failure in ("build", "wrong"):
                fault = (outcome.choice, outcome.failure, outcome.detail)
                self._log.append(self._origin.failed(task.family, task.workload, *fault))
        if self.report is not None:
            self.report(Trial(entry, outcome, self.trials, again))

    def _nothing_measured(self) -> EnvironmentFailure:
        if self._details:
            cause, times = self._details.most_common(1)[0]
            return EnvironmentFailure(
                f"none of {self.trials} trials could be measured; {times} times the cause was {cause}.",
                where=self._target.name,
                advice="Is the target the device's? 'edgevit devices doctor' looks at device and toolchain.",
            )
        return EnvironmentFailure(
            f"none of {self.trials} trials could be measured: the default kernels' own times never settled.",
            where=self._target.name,
            advice="End what else runs on the device, let it cool down, and run the same command again.",
        )


def _alike(devices: Sequence[Measurer]) -> DeviceInfo:
    """What the devices say of themselves, which must be the same: latencies of others do not compare."""
    first, *others = [device.device for device in devices]
    for other in others:
        if DeviceFacts.of(other).identity != DeviceFacts.of(first).identity:
            raise UserError(
                f"the devices are not alike: {first.cpu} with {first.cores} cores, {other.cpu} with {other.cores}.",
                advice="Register each kind of device under a key of its own.",
            )
    return first


def _distance(one: Task, other: Task) -> tuple[float, float]:
    """How far apart the work of two tasks is: those that are alike but for their sizes come first."""
    sizes = one.signature.distance(other.signature)
    work = abs(math.log((one.workload.flops + 1) / (other.workload.flops + 1)))
    return (math.inf if sizes is None else sizes), work


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
