"""What a tuning run knows, as plain values for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from edgevit.tuning.roofline import Peaks, roofline_seconds
from edgevit.tuning.schedule import Progress, latencies, model_latencies, shares
from edgevit.tuning.shapes import short_shape
from edgevit.tuning.workloads import describe

State = Literal["waiting", "building", "measuring", "done"]


@dataclass(frozen=True)
class TaskView:
    """A task and how far it is.

    Attributes:
        key: of the workload.
        name: kernel family.
        shape: of the workload, in few words.
        calls: of the kernel in one inference, of all models together.
        share: of a model's latency, as a mean over the models.
        trials: of this run.
        failures: of this run.
        default_seconds: latency of the default; None where it is not measured.
        best_seconds: of the fastest choice; None where none is measured.
        roofline_seconds: below which no kernel for this work can get on the device; None where that is not known.
        state: ``done`` is a task that needs no further trial.
    """

    key: str
    name: str
    shape: str
    calls: int
    share: float
    trials: int
    failures: int
    default_seconds: float | None
    best_seconds: float | None
    roofline_seconds: float | None
    state: State

    @property
    def ratio(self) -> float | None:
        """How many times faster the best choice is than the default."""
        if not self.default_seconds or not self.best_seconds:
            return None
        return self.default_seconds / self.best_seconds

    @property
    def roofline_share(self) -> float | None:
        """Of the best choice's latency, the part that no kernel can avoid: 1 is as fast as the device allows."""
        if not self.roofline_seconds or not self.best_seconds:
            return None
        return self.roofline_seconds / self.best_seconds


@dataclass(frozen=True)
class ModelView:
    """Sums over all kernel calls of one inference, in seconds.

    Attributes:
        name: of the model.
        before: with every default; guessed where none is measured.
        after: with the best choices.
        roofline: of the device; None where it is not known for every kernel.
        kernels: distinct ones.
        guessed: of which nothing is measured yet.
    """

    name: str
    before: float
    after: float
    roofline: float | None = None
    kernels: int = 0
    guessed: int = 0


@dataclass(frozen=True)
class TuningView:
    """A tuning run at one moment.

    Attributes:
        models: whose kernels are tuned.
        entries: all tasks.
        elapsed: seconds since the run began.
        minutes: that it may take; None for no limit.
        trials: of this run.
        trial_limit: that it may make; None for no limit.
        rate: trials a second; None before the first.
        building: builds that are under way or wait.
        devices: that measure.
        failures: by kind.
        reason: why the run ended; None while it runs.
    """

    models: tuple[ModelView, ...]
    entries: tuple[TaskView, ...]
    elapsed: float
    minutes: float | None = None
    trials: int = 0
    trial_limit: int | None = None
    rate: float | None = None
    building: int = 0
    devices: tuple[str, ...] = ()
    failures: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None

    @property
    def seconds_left(self) -> float | None:
        """At most: what is left of the time, or what the trials that are left take; None without either limit."""
        limits = []
        if self.minutes is not None:
            limits.append(60 * self.minutes - self.elapsed)
        if self.trial_limit is not None and self.rate:
            limits.append((self.trial_limit - self.trials) / self.rate)
        return max(0.0, min(limits)) if limits else None


def task_view(
    progress: Progress, share: float, *, state: State = "waiting", roofline_seconds: float | None = None
) -> TaskView:
    """A task as it is now.

    Args:
        progress: what is known of it.
        share: of the models' latency: :func:`edgevit.tuning.schedule.shares`.
        state: what happens to it just now.
        roofline_seconds: :func:`edgevit.tuning.roofline.roofline_seconds` of its workload.
    """
    task = progress.task
    family: Any = task.family  # a module, which can be hashed
    return TaskView(
        key=task.key,
        name=task.family.NAME,
        shape=_shape(family, task.workload),
        calls=sum(task.calls.values()),
        share=share,
        trials=progress.trials,
        failures=progress.failures,
        default_seconds=progress.default_seconds,
        best_seconds=progress.seconds,
        roofline_seconds=roofline_seconds,
        state=state,
    )


def task_views(
    entries: Sequence[Progress], peaks: Peaks | None = None, state: Callable[[Progress], State] = lambda _: "waiting"
) -> tuple[TaskView, ...]:
    """All tasks as they are now.

    Args:
        entries: what is known of them.
        peaks: of the device; None where they were not measured.
        state: tells what happens to a task just now.
    """
    return tuple(
        task_view(entry, share, state=state(entry), roofline_seconds=_roofline(entry, peaks))
        for entry, share in zip(entries, shares(entries), strict=True)
    )


def model_views(entries: Sequence[Progress], peaks: Peaks | None = None) -> tuple[ModelView, ...]:
    """The models whose kernels are tuned.

    Args:
        entries: what is known of their tasks.
        peaks: of the device; None where they were not measured.
    """
    after = latencies(entries)
    before = [entry.default_seconds or each for entry, each in zip(entries, after, strict=True)]
    rooflines = [_roofline(entry, peaks) for entry in entries]
    known = [each for each in rooflines if each is not None]
    sums = model_latencies(entries, known) if len(known) == len(entries) else {}
    totals = model_latencies(entries, before)
    return tuple(
        ModelView(
            name,
            totals[name],
            seconds,
            sums.get(name),
            kernels=sum(name in entry.task.calls for entry in entries),
            guessed=sum(name in entry.task.calls and entry.seconds is None for entry in entries),
        )
        for name, seconds in model_latencies(entries, after).items()
    )


@cache
def _shape(family: Any, workload: Any) -> str:
    return short_shape(describe(family, workload))


def _roofline(entry: Progress, peaks: Peaks | None) -> float | None:
    return roofline_seconds(entry.task, peaks) if peaks is not None else None
