"""``edgevit tune --estimate``: rank choices by the static model of a target that is not there, and write records.

What comes of it are ESTIMATES. A choice other than the default is written down only where the model's word was worth
something on a processor that could be measured: see :data:`MARGINS`. Any measured or borrowed record overrides it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgevit.tuning.layers import Layer
from edgevit.tuning.origin import Origin
from edgevit.tuning.proposing import propose
from edgevit.tuning.record import FailureRecord, KernelRecord, Record, TargetFacts
from edgevit.tuning.records import Choice, ChoiceKey, choice_key
from edgevit.tuning.static.model import ChoiceEstimate, StaticModel, rank
from edgevit.tuning.tasks import Task
from edgevit.tuning.writing import LogWriter

MARGINS: Mapping[str, float] = {"winograd": 0.05}
"""By how much the estimate of a choice must beat the default's before it is written down, by family.

Where both could be measured, the model found faster shapes than the defaults for Winograd convolutions alone; for other
families its picks were no better, or worse, so that their defaults stay.
"""

ROUGH = 384
"""Choices of a task that are estimated from their loop nests, of which the best are compiled."""
FINE = 8
"""Choices of a task that are compiled, besides the default."""
_BATCH = 64

Verdict = Literal["better", "default", "refused"]
"""A choice beats the default by the margin; none does; not even the default could be estimated."""


@dataclass(frozen=True)
class TaskEstimate:
    """ESTIMATE of one task, told as soon as it is written down.

    Attributes:
        task: estimated; as its leader's choice pins it.
        default: estimate of the default; None where it could not be made.
        best: estimate of the choice with the fewest seconds; None as the default's.
        verdict: what came of it.
        done: share of all tasks that are finished, 0 to 1.
    """

    task: Task
    default: ChoiceEstimate | None
    best: ChoiceEstimate | None
    verdict: Verdict
    done: float


@dataclass(frozen=True)
class EstimateSummary:
    """What a run of estimates did; nothing was measured.

    Attributes:
        tasks: estimated in this run.
        known: tasks that the log had estimates of before.
        measured: tasks left alone because they were measured on this target.
        better: tasks for which a choice other than the default was written down.
        refused: tasks whose default could not be estimated.
        unfinished: tasks that time or the limit left for the next run.
        records: written.
        before: sum of the estimates of all defaults in this run, by model, in seconds.
        after: the same with the written choices.
    """

    tasks: int
    known: int
    measured: int
    better: int
    refused: int
    unfinished: int
    records: int
    before: Mapping[str, float]
    after: Mapping[str, float]

    def notes(self) -> list[str]:
        """What a reader must know besides the figures."""
        families = ", ".join(f"{name} ({margin:.0%})" for name, margin in MARGINS.items())
        return [
            "These are ESTIMATES by a static model of the target; nothing was run or measured.",
            f"Only these families' choices are written where they beat the default, by more than: {families}.",
            "Every measured record, and every one borrowed from a relative, overrides an estimated one.",
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything; ``estimate`` is true."""
        return {
            "estimate": True,
            "tasks": self.tasks,
            "known": self.known,
            "measured": self.measured,
            "better": self.better,
            "refused": self.refused,
            "unfinished": self.unfinished,
            "records": self.records,
            "estimated_seconds_before": dict(self.before),
            "estimated_seconds_after": dict(self.after),
            "notes": self.notes(),
        }


def estimate_tasks(
    tasks: Sequence[Task],
    log: LogWriter,
    known: Iterable[tuple[Layer, Record]] = (),
    *,
    threads: int | None = None,
    minutes: float | None = None,
    limit: int | None = None,
    rough: int = ROUGH,
    fine: int = FINE,
    margins: Mapping[str, float] = MARGINS,
    provenance: str = "",
    progress: Callable[[TaskEstimate], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> EstimateSummary:
    """Estimate tasks and write records of the kind ``estimated``; what the log holds is not estimated again.

    For each task the default's estimate is written, and that of the best choice where it beats the default by its
    family's margin. Of families without a margin only the default is estimated. Tasks that follow others in how weights
    are packed come after those.

    Args:
        tasks: of one target.
        log: takes the records of each task when it is finished.
        known: records of all layers: :func:`edgevit.tuning.search.read_known`.
        threads: that kernels will be called with; None for the target's cores.
        minutes: of the clock, after which no task is begun; None for as long as it takes.
        limit: tasks to estimate at most; None for all.
        rough: choices of each task that are estimated from their loop nests.
        fine: of which so many are compiled.
        margins: by how much a choice must beat the default, by family.
        provenance: command or run, for the records.
        progress: told of every task.
        clock: seconds since some moment.

    Raises:
        EnvironmentFailure: the disk is full.
    """
    if not tasks:
        return EstimateSummary(0, 0, 0, 0, 0, 0, 0, {}, {})
    effort = _Effort(rough, fine, margins)
    return _Run(tasks, log, list(known), threads, effort, provenance).run(minutes, limit, progress, clock)


def rank_choices(
    task: Task,
    model: StaticModel,
    *,
    rough: int = ROUGH,
    fine: int = FINE,
    without: Iterable[ChoiceKey] = (),
) -> list[ChoiceEstimate]:
    """Compiled estimates of a task's most promising choices and its default, fewest seconds first.

    A space of up to ``rough`` points is estimated whole from its loop nests. Of a larger one, points are proposed as a
    tuner does, with estimates in place of measurements.

    Args:
        task: with its space.
        model: of the task's target.
        rough: choices to estimate from their loop nests.
        fine: of those to compile; choices with equal nests' estimates count as one.
        without: choices to leave out, such as those that are known to fail.

    Returns:
        Estimates; empty where not even the default could be estimated.
    """
    barred = set(without) - {choice_key(task.default)}
    found = _estimated(task, model, rough, barred)
    shortlist: dict[float, Choice] = {}
    for each in sorted(found, key=lambda each: rank(each, task)):
        if len(shortlist) < fine:
            shortlist.setdefault(each.seconds, each.choice)
    compiled: dict[ChoiceKey, ChoiceEstimate] = {}
    for choice in (task.default, *shortlist.values()):
        try:
            compiled[choice_key(choice)] = model.fine(task, choice)
        except Exception:  # noqa: S112, PERF203 - whatever it is, it is no candidate
            continue
    if choice_key(task.default) not in compiled:
        return []
    return sorted(compiled.values(), key=lambda each: rank(each, task))


def _estimated(task: Task, model: StaticModel, count: int, barred: set[ChoiceKey]) -> list[ChoiceEstimate]:
    """Estimates from loop nests, of all points or of those that a search with estimates comes to."""
    tried, results = set(barred), dict[ChoiceKey, ChoiceEstimate]()
    whole = task.space.size <= count
    while len(tried) - len(barred) < count:
        seconds = {key: each.seconds for key, each in results.items()}
        if whole:
            batch = [choice for choice in task.space if choice_key(choice) not in tried]
        else:
            seed = f"{task.key}/{len(tried)}"
            batch = propose(task.space, seconds, tried, min(_BATCH, count - len(tried) + len(barred)), seed=seed)
        if not batch:
            break
        for choice in batch:
            tried.add(choice_key(choice))
            try:
                results[choice_key(choice)] = model.rough(task, choice)
            except Exception:  # noqa: S112 - a choice that the family refuses
                continue
    return list(results.values())


@dataclass(frozen=True)
class _Effort:
    """How much is done for each task; see :func:`estimate_tasks`."""

    rough: int
    fine: int
    margins: Mapping[str, float]


class _Run:
    """One run over some tasks."""

    def __init__(
        self,
        tasks: Sequence[Task],
        log: LogWriter,
        known: Sequence[tuple[Layer, Record]],
        threads: int | None,
        effort: _Effort,
        provenance: str,
    ) -> None:
        target = tasks[0].target
        self._model = StaticModel(target, threads)
        self._origin = Origin(target, None, self._model.threads, provenance)
        # What others wait for comes first.
        self._tasks = sorted(tasks, key=lambda task: task.leader is not None)
        self._log = log
        self._effort = effort
        self._chosen: dict[str, Choice] = {}
        self._before: dict[str, float] = {}
        self._after: dict[str, float] = {}
        self._measured: set[str] = set()
        self._failed: dict[str, set[ChoiceKey]] = {}
        self._estimates: dict[str, KernelRecord] = {}
        own = TargetFacts.of(target).identity
        for _, record in known:
            if record.target.identity == own:
                self._note(record)

    def run(
        self,
        minutes: float | None,
        limit: int | None,
        progress: Callable[[TaskEstimate], None],
        clock: Callable[[], float],
    ) -> EstimateSummary:
        """Estimate what is left, until time or the limit is spent."""
        begun = clock()
        left = [task for task in self._tasks if task.key not in self._measured | self._estimates.keys()]
        records = better = refused = done = 0
        for task in left:
            late = minutes is not None and clock() - begun >= 60 * minutes
            if late or (limit is not None and done >= limit):
                break
            found = self._task(task, (done + 1) / len(left))
            done += 1
            better += found.verdict == "better"
            refused += found.verdict == "refused"
            records += self._write(found)
            progress(found)
        known = sum(task.key in self._estimates and task.key not in self._measured for task in self._tasks)
        measured = sum(task.key in self._measured for task in self._tasks)
        return EstimateSummary(
            done, known, measured, better, refused, len(left) - done, records, self._before, self._after
        )

    def _note(self, record: Record) -> None:
        if isinstance(record, FailureRecord):
            self._failed.setdefault(record.workload, set()).add(choice_key(record.choice))
        elif isinstance(record, KernelRecord) and record.evidence == "measured":
            self._measured.add(record.workload)
        elif isinstance(record, KernelRecord) and record.evidence == "estimated":
            best = self._estimates.get(record.workload)
            quicker = best is None or record.timing.seconds < best.timing.seconds
            if quicker and record.threads == self._origin.threads:
                self._estimates[record.workload] = record

    def _task(self, task: Task, done: float) -> TaskEstimate:
        pinned, effort = self._pinned(task), self._effort
        margin = effort.margins.get(task.family.NAME)
        rough, fine = (effort.rough, effort.fine) if margin is not None else (1, 0)
        ranked = rank_choices(pinned, self._model, rough=rough, fine=fine, without=self._failed.get(task.key, ()))
        if not ranked:
            return TaskEstimate(pinned, None, None, "refused", done)
        default, best = next(each for each in ranked if each.choice == pinned.default), ranked[0]
        better = margin is not None and best.seconds < (1 - margin) * default.seconds
        return TaskEstimate(pinned, default, best, "better" if better else "default", done)

    def _pinned(self, task: Task) -> Task:
        """The task as its leader's choice leaves it: of this run, or of one before."""
        choice = self._chosen.get(task.leader or "")
        if choice is None and task.leader in self._estimates:
            choice = dict(self._estimates[task.leader].choice)
        return task.pin(choice) if choice is not None else task

    def _write(self, found: TaskEstimate) -> int:
        """Append a finished task's records; the number of them."""
        if found.default is None or found.best is None:
            return 0
        task = found.task
        # What decides comes first: a run that is killed between the two loses nothing that matters.
        written = [found.best, found.default] if found.verdict == "better" else [found.default]
        for each in written:
            self._log.append(self._origin.estimated(task.family, task.workload, each.choice, _six(each.seconds)))
        self._chosen[task.key] = dict(written[0].choice)
        for model, calls in task.calls.items():
            self._before[model] = self._before.get(model, 0.0) + calls * found.default.seconds
            self._after[model] = self._after.get(model, 0.0) + calls * written[0].seconds
        return len(written)


def _six(value: float) -> float:
    return float(f"{value:.6g}")
