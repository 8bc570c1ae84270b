"""How far the static model's ranking agrees with measurements: the evidence that its estimates deserve any trust.

For every task with enough measured choices: Kendall's tau-b between estimates and latencies, and what a user would have
got who had taken the model's pick.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgevit.tuning.estimating import MARGINS
from edgevit.tuning.record import KernelRecord, Record, TargetFacts
from edgevit.tuning.records import ChoiceKey, choice_key
from edgevit.tuning.static.model import ChoiceEstimate, rank
from edgevit.tuning.tasks import Task

LEAST = 8
"""Measured choices that a task needs to be counted."""

Estimator = Callable[[Task, dict[str, int]], ChoiceEstimate]
"""Estimates a choice: :meth:`edgevit.tuning.static.model.StaticModel.fine`, or ``rough``."""


@dataclass(frozen=True)
class TaskAgreement:
    """How estimates and measurements of one task's choices agree.

    Attributes:
        workload: key.
        family: of kernels.
        calls: in one inference of all models.
        choices: that were both measured and estimated.
        tau: Kendall's tau-b; None where either side holds equal values only.
        pick_seconds: measured latency of the choice with the lowest estimate.
        best_seconds: lowest measured latency of these choices.
        default_seconds: measured latency of the default; None where it is not among them.
        estimated_gain: of the pick over the default by the estimates, as a part of the default's; None without one.
    """

    workload: str
    family: str
    calls: int
    choices: int
    tau: float | None
    pick_seconds: float
    best_seconds: float
    default_seconds: float | None
    estimated_gain: float | None

    @property
    def to_default(self) -> float | None:
        """The pick's latency as a multiple of the default's; below 1 the model's word was worth something."""
        return self.pick_seconds / self.default_seconds if self.default_seconds else None

    @property
    def to_best(self) -> float:
        """The pick's latency as a multiple of the best measured one: the regret."""
        return self.pick_seconds / self.best_seconds


@dataclass(frozen=True)
class Summary:
    """Agreement over some tasks.

    Attributes:
        tasks: number of them.
        choices: of all of them.
        tau: quartiles over tasks: first, median, third; None without any.
        weighted_tau: mean, each task weighted by its part of the time that all calls take with the defaults.
        to_default: geometric mean of the pick's latency over the default's.
        to_best: geometric mean of the pick's latency over the best one's.
        wins: share of tasks whose pick is faster than the default.
        losses: share of tasks whose pick is slower.
        acted: tasks whose pick the model puts ahead of the default by their family's margin, so that it is used.
        acted_to_default: geometric mean over those of the pick's latency over the default's; None without any.
        acted_wins: of those, tasks whose pick is faster.
    """

    tasks: int
    choices: int
    tau: tuple[float, float, float] | None
    weighted_tau: float | None
    to_default: float | None
    to_best: float | None
    wins: float
    losses: float
    acted: int
    acted_to_default: float | None
    acted_wins: int

    @classmethod
    def of(cls, tasks: Sequence[TaskAgreement], margins: Mapping[str, float] = MARGINS) -> Summary:
        """Summary of tasks; ``margins`` are the estimated gains from which on a pick is used, by family."""
        taus = [task.tau for task in tasks if task.tau is not None]
        ratios = [task.to_default for task in tasks if task.to_default is not None]
        acted = [
            task.to_default
            for task in tasks
            if task.to_default is not None and (task.estimated_gain or 0.0) > margins.get(task.family, math.inf)
        ]
        return cls(
            tasks=len(tasks),
            choices=sum(task.choices for task in tasks),
            tau=_quartiles(taus),
            weighted_tau=_weighted(tasks),
            to_default=_geometric(ratios),
            to_best=_geometric([task.to_best for task in tasks]),
            wins=sum(ratio < 1 for ratio in ratios) / len(ratios) if ratios else 0.0,
            losses=sum(ratio > 1 for ratio in ratios) / len(ratios) if ratios else 0.0,
            acted=len(acted),
            acted_to_default=_geometric(acted),
            acted_wins=sum(ratio < 1 for ratio in acted),
        )


@dataclass(frozen=True)
class Agreement:
    """Agreement of a static model with the measurements of one target, device and number of threads.

    Attributes:
        target: name.
        device: processor's name, as the device gives it.
        threads: that kernels were called with.
        margins: estimated gain from which on a pick is used, by family.
        tasks: with enough measured choices.
        left_out: tasks with fewer.
    """

    target: str
    device: str
    threads: int
    margins: Mapping[str, float]
    tasks: tuple[TaskAgreement, ...]
    left_out: int

    @property
    def all(self) -> Summary:
        """Over all tasks."""
        return Summary.of(self.tasks, self.margins)

    @property
    def families(self) -> Mapping[str, Summary]:
        """By family, most choices first."""
        return self._by(lambda task: task.family)

    @property
    def halves(self) -> Mapping[str, Summary]:
        """Of the tasks whose key is even, on which the model's constants were chosen, and of the others."""
        return self._by(lambda task: "held out" if is_held_out(task.workload) else "chosen on")

    def _by(self, name: Callable[[TaskAgreement], str]) -> dict[str, Summary]:
        groups: dict[str, list[TaskAgreement]] = {}
        for task in self.tasks:
            groups.setdefault(name(task), []).append(task)
        found = {each: Summary.of(group, self.margins) for each, group in groups.items()}
        return dict(sorted(found.items(), key=lambda item: (-item[1].choices, item[0])))

    def notes(self) -> list[str]:
        """What a reader must know besides the figures."""
        used = ", ".join(f"{family} {margin:.0%}" for family, margin in self.margins.items())
        notes = [
            f"Latencies: {self.device}, {self.threads} thread{'s' * (self.threads != 1)}, code for {self.target}; "
            "estimates: static model, nothing was run for them.",
            "The pick is the measured choice with the lowest estimate; it is compared with the measured default and "
            "with the lowest latency of the same choices.",
            f"A pick is used where the estimates put it ahead of the default by more than: {used or 'never'}.",
        ]
        if self.left_out:
            notes.append(f"{self.left_out} tasks with fewer than {LEAST} measured choices are left out.")
        return notes

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "target": self.target,
            "device": self.device,
            "threads": self.threads,
            "margins": dict(self.margins),
            "all": asdict(self.all),
            "families": {name: asdict(summary) for name, summary in self.families.items()},
            "halves": {name: asdict(summary) for name, summary in self.halves.items()},
            "tasks": [asdict(task) for task in self.tasks],
            "left_out": self.left_out,
            "notes": self.notes(),
        }


def is_held_out(workload: str) -> bool:
    """Whether a workload's measurements had no say in the static model's constants: its key is odd."""
    return int(workload.rpartition("/")[2], 16) % 2 == 1


def agreement(
    tasks: Sequence[Task],
    records: Iterable[Record],
    estimate: Estimator,
    *,
    threads: int = 1,
    device: str | None = None,
    least: int = LEAST,
    most: int | None = None,
    margins: Mapping[str, float] = MARGINS,
    progress: Callable[[float], None] = lambda _: None,
) -> Agreement:
    """Compare estimates with the measured kernel records of a target.

    Args:
        tasks: of one target, one at least.
        records: of a log; those of other targets, evidence, threads and devices are left out.
        estimate: of a choice.
        threads: that kernels were called with.
        device: identity of the device (:attr:`DeviceFacts.identity`); None for the one with most records.
        least: measured choices that a task needs.
        most: choices of a task to estimate, the default among them, drawn alike in every run; None for all.
        margins: estimated gain from which on a pick is used, by family.
        progress: told the finished share of the work, 0 to 1.

    Raises:
        ValueError: no measured record fits.
    """
    found = _measured(records, tasks, threads)
    if not found:
        raise ValueError("no measured record is of these tasks, this target and this number of threads")
    chosen = device or max(sorted(found), key=lambda identity: sum(map(len, found[identity][1].values())))
    cpu, latencies = found[chosen]
    agreements: list[TaskAgreement] = []
    counted = [task for task in tasks if len(latencies.get(task.key, ())) >= least]
    for done, task in enumerate(counted):
        agreed = agree(task, latencies[task.key], estimate, most)
        agreements += [agreed] if agreed is not None and agreed.choices >= least else []
        progress((done + 1) / len(counted))
    known = sum(task.key in latencies for task in tasks)
    return Agreement(tasks[0].target.name, cpu, threads, margins, tuple(agreements), known - len(agreements))


def agree(
    task: Task, latencies: Mapping[ChoiceKey, float], estimate: Estimator, most: int | None = None
) -> TaskAgreement | None:
    """Agreement of one task; None where nothing could be estimated.

    Args:
        task: whose choices were measured.
        latencies: measured, in seconds.
        estimate: of a choice.
        most: choices to estimate, the default among them, drawn alike in every run; None for all.
    """
    estimates: list[tuple[ChoiceEstimate, float]] = []
    for key in _drawn(task, latencies, most):
        try:
            estimates.append((estimate(task, dict(key)), latencies[key]))
        except Exception:  # noqa: PERF203, S112 - a choice that does not compile any more
            continue
    if not estimates:
        return None
    pick, pick_seconds = min(estimates, key=lambda pair: rank(pair[0], task))
    default = next((pair for pair in estimates if pair[0].choice == task.default), None)
    return TaskAgreement(
        workload=task.key,
        family=task.family.NAME,
        calls=sum(task.calls.values()),
        choices=len(estimates),
        tau=kendall_tau([each.seconds for each, _ in estimates], [seconds for _, seconds in estimates]),
        pick_seconds=pick_seconds,
        best_seconds=min(seconds for _, seconds in estimates),
        default_seconds=default[1] if default else None,
        estimated_gain=1 - pick.seconds / default[0].seconds if default else None,
    )


def kendall_tau(estimates: Sequence[float], latencies: Sequence[float]) -> float | None:
    """Kendall's tau-b of two rankings, -1 to 1; None where it is not defined."""
    from scipy.stats import kendalltau

    if len(set(estimates)) < 2 or len(set(latencies)) < 2:
        return None
    return float(kendalltau(estimates, latencies).statistic)


def _measured(
    records: Iterable[Record], tasks: Sequence[Task], threads: int
) -> dict[str, tuple[str, dict[str, dict[ChoiceKey, float]]]]:
    """Processor's name and latencies by workload and choice, by device; the latest measurement of a choice counts."""
    own, by_key = TargetFacts.of(tasks[0].target).identity, {task.key: task for task in tasks}
    kept = [record for record in records if isinstance(record, KernelRecord) and record.evidence == "measured"]
    found: dict[str, tuple[str, dict[str, dict[ChoiceKey, float]]]] = {}
    for record in sorted(kept, key=lambda record: record.date):
        task, place = by_key.get(record.workload), record.device
        if task is None or place is None or (record.target.identity, record.threads) != (own, threads):
            continue
        _, latencies = found.setdefault(place.identity, (place.cpu or place.kind, {}))
        latencies.setdefault(record.workload, {})[choice_key(record.choice)] = record.timing.seconds
    return found


def _drawn(task: Task, latencies: Mapping[ChoiceKey, float], most: int | None) -> list[ChoiceKey]:
    def order(key: ChoiceKey) -> tuple[bool, str]:
        # The same choices whatever else the log holds.
        return dict(key) != task.default, hashlib.sha256(f"{task.key}{key}".encode()).hexdigest()

    return sorted(latencies, key=order)[:most]


def _quartiles(values: Sequence[float]) -> tuple[float, float, float] | None:
    if len(values) < 2:
        return (values[0],) * 3 if values else None
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, median, third


def _weighted(tasks: Sequence[TaskAgreement]) -> float | None:
    pairs = [(task.calls * (task.default_seconds or task.best_seconds), task.tau) for task in tasks]
    known = [(weight, tau) for weight, tau in pairs if tau is not None]
    total = sum(weight for weight, _ in known)
    return sum(weight * tau for weight, tau in known) / total if total else None


def _geometric(ratios: Sequence[float]) -> float | None:
    return math.exp(statistics.fmean(map(math.log, ratios))) if ratios else None
