"""Tune functions that TVM imports: MetaSchedule proposes; builder, device, guards and log are those of all tuning."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgevit.device.session import Session
from edgevit.device.usage import usable_cores
from edgevit.errors import EnvironmentFailure, ToolchainError
from edgevit.tuning.building.build import Builder
from edgevit.tuning.building.candidates import said
from edgevit.tuning.interrupts import Interrupts
from edgevit.tuning.layers import Layer
from edgevit.tuning.measure import Fault, Latency, Measurer, Outcome, Protocol
from edgevit.tuning.metaschedule.family import CANDIDATE, DEFAULT
from edgevit.tuning.metaschedule.progress import TvmProgress, identity
from edgevit.tuning.metaschedule.schedules import DEFAULT_TRACE, trace_key
from edgevit.tuning.metaschedule.tasks import TvmTask, call_seconds, tvm_latencies
from edgevit.tuning.origin import Origin
from edgevit.tuning.record import DeviceFacts, Record, TvmRecord
from edgevit.tuning.writing import LogWriter

BATCH = 16
"""Candidates that become one library."""
MARGIN = 1.25
"""How much longer than those before it a batch may take without passing the end of the run's time."""

_STALE_BATCHES = 5
"""Batches of nothing but known candidates after which a task is exhausted."""

Reason = Literal["minutes", "trials", "exhausted"]
"""Why a run ended: its time or trials are spent, or there is nothing left to propose."""


@dataclass(frozen=True)
class TvmTrial:
    """A candidate that was tried, told as soon as it is written down.

    Attributes:
        task: that it is for.
        outcome: of the trial.
        number: of the trial in this run; that of the last one for what is no trial: the default's own latency, and
            second measurements.
        best_seconds: of the task, with this trial.
        default_seconds: of the task.
    """

    task: TvmTask
    outcome: Outcome
    number: int
    best_seconds: float | None
    default_seconds: float | None


@dataclass(frozen=True)
class TvmSummary:
    """What a run did.

    Attributes:
        reason: why it ended.
        trials: candidates tried.
        measured: of which have a latency.
        correct: of which were right where nothing is timed: under an emulator, or in rounds too restless.
        failures: by kind.
        unbuilt: names of functions of which not even the schedule of last resort builds; they were not tuned.
        before: seconds that an inference spends in these functions with the schedules of last resort, by model; guessed
            where none is measured.
        after: the same with the best candidates.
    """

    reason: Reason
    trials: int
    measured: int
    correct: int
    failures: Mapping[str, int]
    unbuilt: tuple[str, ...]
    before: Mapping[str, float]
    after: Mapping[str, float]


class TvmTuner:
    """One run over functions that TVM imports.

    What the log holds is not tried again, so a run that was ended at any instant is resumed by another one like it.
    """

    def __init__(
        self,
        tasks: Sequence[TvmTask],
        connect: Callable[[], Session],
        log: LogWriter,
        known: Iterable[tuple[Layer, Record]] = (),
        *,
        threads: int,
        minutes: float | None = None,
        trials: int | None = None,
        report: Callable[[TvmTrial], None] = lambda _: None,
        batch: int = BATCH,
        seed: int = 0,
        provenance: str = "",
        protocol: Protocol | None = None,
        builder: Builder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember what to do; nothing is started before :meth:`run`.

        Args:
            tasks: of one target.
            connect: opens a session; called again after a device was lost.
            log: takes every result the moment it exists.
            known: records of all layers: :func:`edgevit.tuning.search.read_known`.
            threads: to call functions with.
            minutes: of the clock; None for no limit.
            trials: candidates built and run; None for no limit.
            report: told of every trial.
            batch: candidates to build and measure together.
            seed: of what is drawn.
            provenance: command or run, for the records.
            protocol: how to measure.
            builder: that compiles candidates; None for one of its own. The run closes it.
            clock: seconds since some moment.
        """
        self._tasks = list(tasks)
        self._connect = connect
        self._log = log
        self._known = [record for _, record in known if isinstance(record, TvmRecord)]
        self._threads = threads
        self._minutes = minutes
        self._limit = trials
        self._report = report
        self._batch = batch
        self._seed = seed
        self._provenance = provenance
        self._protocol = protocol
        self._builder = builder
        self._clock = clock
        self._begun = 0.0
        self._entries: list[TvmProgress] = []
        self._current: tuple[TvmProgress, list[Any]] | None = None
        self._reason: Reason | None = None
        self._error: BaseException | None = None
        self._interrupts = Interrupts()
        self._trials = self._measured = self._correct = 0
        self._unbuilt: dict[TvmProgress, ToolchainError] = {}
        self._failures: Counter[str] = Counter()
        self._details: Counter[str] = Counter()

    def run(self) -> TvmSummary:
        """Tune until time or trials are spent. A Ctrl-C passes through; what was measured is in the log.

        Raises:
            EnvironmentFailure: nothing of what was tried could be measured, or the disk is full.
            ToolchainError: not even a schedule of last resort builds.
            DeviceError: the device cannot be reached, or was lost and does not come back.
            UserError: the session is this process.
        """
        self._begun = self._clock()
        if not self._tasks:
            return self._summary("exhausted")
        with (
            Measurer(self._connect, threads=self._threads, protocol=self._protocol) as self._measurer,
            self._builder or Builder() as self._build,
        ):
            self._device = self._measurer.device
            self._origin = Origin(self._tasks[0].target, self._device, self._threads, self._provenance)
            self._search()
        if self._error is not None:
            raise self._error
        if not (self._correct if self._device.emulated else self._measured):
            if self._unbuilt:
                raise next(iter(self._unbuilt.values()))
            if self._trials:
                raise self._nothing_measured()
        return self._summary(self._reason or "exhausted")

    def choose(self, index: int, propose: Callable[[], Sequence[Any] | None]) -> list[Any] | None:
        """Candidates of a task to try next, none of them known; None when the task or the run is at its end.

        MetaSchedule calls this through C++, where exceptions have no business: they are kept for :meth:`run`.
        """
        try:
            self._interrupts.check()
            return None if self._reason or self._error else self._choose(self._entries[index], propose)
        except BaseException as error:  # a Ctrl-C too
            self._error = error
            return None

    def measure(self) -> list[list[float] | str]:
        """Latencies of the candidates chosen last, or why there are none; called as :meth:`choose` is."""
        assert self._current is not None
        entry, candidates = self._current
        try:
            return self._measure(entry, candidates)
        except BaseException as error:
            self._error = error
            return ["the run ended"] * len(candidates)

    def _search(self) -> None:
        import tvm

        from edgevit.tuning.metaschedule import space as tvm_space

        database = tvm_space.Database()
        description = self._tasks[0].target.tvm_target()
        with tvm.target.Target(description):
            tasks = [task for task in self._tasks if tvm_space.has_space(task.module, description)]
            self._entries = [TvmProgress.of(task, self._threads) for task in tasks]
            place = DeviceFacts.of(self._device).identity
            known = sum(entry.take(self._known, place, self._threads, database) for entry in self._entries)
            totals = tvm_latencies(tasks)
            subjects = [tvm_space.Subject(e.task.key, e.task.module, _weight(e.task, totals)) for e in self._entries]
            try:
                if subjects:
                    batch = min(self._batch, self._limit or self._batch)
                    # Another run must not draw what this one drew.
                    drawn = tvm_space.Draw(batch, 1 + (self._seed + 7919 * known) % (1 << 30), usable_cores())
                    with self._interrupts.held():
                        tvm_space.search(subjects, description, self, database, drawn)
            except (RuntimeError, ValueError, TypeError) as error:  # TVM's own errors are RuntimeErrors
                self._error = self._error or _search_failed(error, self._tasks[0].target.name)

    def _choose(self, entry: TvmProgress, propose: Callable[[], Sequence[Any] | None]) -> list[Any] | None:
        if entry in self._unbuilt:
            return None
        for _ in range(_STALE_BATCHES):
            room = self._room()
            if room < 1:
                return None
            proposed = propose()
            if proposed is None:
                return None
            fresh: dict[str, Any] = {}
            for candidate in proposed:
                same = identity(candidate.sch.mod)
                if same not in entry.known:
                    fresh.setdefault(same, candidate)
            chosen = dict(list(fresh.items())[:room])
            if chosen:
                entry.known |= chosen.keys()
                self._current = entry, list(chosen.values())
                return list(chosen.values())
        return None

    def _room(self) -> int:
        """How many trials may still be made; sets the reason when there are none."""
        room = self._batch
        if self._limit is not None:
            room = min(room, self._limit - self._trials)
            if room < 1:
                self._reason = "trials"
                return 0
        if self._minutes is not None:
            elapsed = self._clock() - self._begun
            left = 60 * self._minutes - elapsed
            each = MARGIN * elapsed / self._trials if self._trials else 0.0
            room = 0 if left <= 0 else min(room, int(left / each)) if each else room
            if room < 1:
                self._reason = "minutes"
        return room

    def _measure(self, entry: TvmProgress, candidates: list[Any]) -> list[list[float] | str]:
        choices = entry.batch(candidates)
        try:
            with self._interrupts.free():  # no C++ is in between
                libraries, failures = self._build.build(entry.measured, choices)
        except ToolchainError as error:  # others may build
            self._unbuilt[entry] = error
            return [error.message] * len(choices)
        found: dict[int, list[float] | str] = {}
        for failed in failures:
            self._note(entry, Fault(failed.choice, failed.failure, failed.detail), found)
        for library in libraries:
            known = entry.default_seconds, entry.best_seconds
            for outcome in self._measurer.measure(entry.measured, library, *known):
                self._note(entry, outcome, found)
                self._interrupts.check()
        return [found.get(number, "it was not measured") for number in entry.trials]

    def _note(self, entry: TvmProgress, outcome: Outcome, found: dict[int, list[float] | str]) -> None:
        """Note an outcome, in the log if it is for keeps."""
        number = outcome.choice[CANDIDATE]
        again = number in found
        self._trials += number != DEFAULT and not again
        if isinstance(outcome, Latency):
            self._note_latency(entry, outcome, number, again)
            found[number] = list(outcome.samples)
        elif isinstance(outcome, Fault):
            found[number] = self._note_fault(entry, outcome, number)
        else:
            self._correct += number != DEFAULT and not again
            found.setdefault(number, "nothing is timed here" if self._device.emulated else "times never settled")
        self._report(TvmTrial(entry.task, outcome, self._trials, entry.best_seconds, entry.default_seconds))

    def _note_latency(self, entry: TvmProgress, outcome: Latency, number: int, again: bool) -> None:
        if number == DEFAULT:
            entry.default_seconds = outcome.seconds
            self._append(entry, [DEFAULT_TRACE, *next(iter(entry.trials.values()))[1:]], outcome.samples)
            return
        trial = entry.trials[number]
        self._append(entry, trial, outcome.samples)
        entry.seconds[trace_key(trial[0])] = outcome.seconds
        self._measured += not again

    def _note_fault(self, entry: TvmProgress, outcome: Fault, number: int) -> str:
        trial, said = entry.trials[number], f"{outcome.failure}: {outcome.detail}"
        if entry.seconds.pop(trace_key(trial[0]), None) is not None:
            self._measured -= 1
        self._failures[outcome.failure] += 1
        self._details[said] += 1
        # Emulators crash and take long for reasons of their own.
        if not self._device.emulated or outcome.failure in ("build", "wrong"):
            self._append(entry, trial, (), outcome)
        return said

    def _append(
        self, entry: TvmProgress, trial: Sequence[Any], samples: Sequence[float], fault: Fault | None = None
    ) -> None:
        from edgevit.tuning.metaschedule.database import trial_record
        from edgevit.tuning.metaschedule.space import workload_json

        trace, _, target, arguments = trial
        # Six digits: more would only make logs longer.
        filled = [trace, [float(f"{seconds:.6g}") for seconds in samples], target, arguments]
        workload = workload_json(entry.task.module)
        self._log.append(trial_record(workload, filled, self._origin, fault.failure if fault else None))

    def _summary(self, reason: Reason) -> TvmSummary:
        best = {entry.task.digest: entry.best_seconds for entry in self._entries}
        after = {digest: seconds for digest, seconds in best.items() if seconds is not None}
        slow = {entry.task.digest: entry.default_seconds for entry in self._entries}
        before = after | {digest: seconds for digest, seconds in slow.items() if seconds is not None}
        guessed = dict(zip((task.digest for task in self._tasks), call_seconds(self._tasks, before), strict=True))
        return TvmSummary(
            reason,
            self._trials,
            self._measured,
            self._correct,
            dict(self._failures),
            tuple(entry.task.name for entry in self._unbuilt),
            tvm_latencies(self._tasks, guessed),
            tvm_latencies(self._tasks, guessed | after),
        )

    def _nothing_measured(self) -> EnvironmentFailure:
        cause, times = "the default kernels' own times never settled", self._trials
        if self._details:
            cause, times = self._details.most_common(1)[0]
        return EnvironmentFailure(
            f"none of {self._trials} trials of TVM's functions could be measured; {times} times the cause was {cause}.",
            where=self._tasks[0].target.name,
            advice="Is the target the device's? 'edgevit devices doctor' looks at device and toolchain.",
        )


def _search_failed(error: Exception, where: str) -> ToolchainError:
    found = ToolchainError(
        f"MetaSchedule failed: {said(error)}",
        where=where,
        advice="Rerun with --debug and report the traceback together with 'edgevit devices doctor --json'.",
    )
    found.__cause__ = error
    return found


def _weight(task: TvmTask, totals: Mapping[str, float]) -> float:
    """Calls of a task in all models, so that each model counts alike: MetaSchedule multiplies it with the latency."""
    return statistics.fmean(task.calls.get(model, 0) / seconds for model, seconds in totals.items())
