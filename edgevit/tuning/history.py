"""How models' latencies fell over a tuning run, from nothing but the records that it left behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import Choice, ChoiceKey, choice_key


@dataclass(frozen=True)
class Point:
    """A trial and what the models' latencies were from then on.

    Attributes:
        trial: its number, from 1. A choice that was measured again counts once.
        minutes: since the first trial.
        workload: key of the task.
        seconds: of a call with this choice.
        ratio: the default's seconds over these: above 1 is faster; None where the default was never measured.
        totals: of each model, the sum over all kernel calls of one inference with the best choices so far, in seconds.
    """

    trial: int
    minutes: float
    workload: str
    seconds: float
    ratio: float | None
    totals: Mapping[str, float]


@dataclass(frozen=True)
class History:
    """All trials of a log that concern some models.

    Attributes:
        points: in the order of the trials.
        before: of each model, the sum with every default, in seconds.
        missing: of each model, kernels that were never measured; no sum holds them.
    """

    points: tuple[Point, ...]
    before: Mapping[str, float]
    missing: Mapping[str, int]


def history(
    records: Iterable[KernelRecord],
    calls: Mapping[str, Mapping[str, int]],
    defaults: Mapping[str, Choice] | None = None,
) -> History:
    """Replay measurements in the order of their dates; within a second, in the order given.

    The latest measurement of a choice counts from its first one on: tuners measure a choice that has become the best a
    second time, because the least of many readings was lucky. Until a task's first trial it counts with its default.

    Args:
        records: latencies that compare: of one target, device and number of threads, such as :func:`comparable` picks.
            Those without a measurement, and of other workloads, are left out.
        calls: of each workload's kernel in one inference, by model.
        defaults: the default choice of each workload. Where it is not given, the first choice that was measured is
            taken for it: tuners begin with the default. Where it is given and was never measured, the sums count the
            first choice in its place.
    """
    ordered = sorted(
        (record for record in records if record.evidence == "measured" and record.workload in calls),
        key=lambda record: record.date,
    )
    first: dict[tuple[str, ChoiceKey], KernelRecord] = {}
    latest: dict[tuple[str, ChoiceKey], float] = {}
    for record in ordered:
        trial = (record.workload, choice_key(record.choice))
        first.setdefault(trial, record)
        latest[trial] = record.timing.seconds
    own = _default_seconds(latest, defaults or {})
    return History(
        _points(first, latest, own, calls, defaults or {}),
        _totals(own, calls),
        {model: sum(model in by and key not in own for key, by in calls.items()) for model in _models(calls)},
    )


def comparable(records: Iterable[KernelRecord]) -> list[KernelRecord]:
    """The measurements of the one target, device and number of threads that has most of them; of equals, the last."""
    groups: defaultdict[tuple[object, ...], list[KernelRecord]] = defaultdict(list)
    for record in records:
        if record.evidence == "measured" and record.device is not None:
            groups[record.target.identity, record.device.identity, record.threads].append(record)
    return max(groups.values(), key=lambda group: (len(group), group[-1].date), default=[])


def _points(
    first: Mapping[tuple[str, ChoiceKey], KernelRecord],
    latest: Mapping[tuple[str, ChoiceKey], float],
    own: Mapping[str, float],
    calls: Mapping[str, Mapping[str, int]],
    defaults: Mapping[str, Choice],
) -> tuple[Point, ...]:
    best = dict(own)
    totals = _totals(best, calls)
    begun = min((_moment(record) for record in first.values()), default=0.0)
    points = []
    for number, (trial, record) in enumerate(first.items(), start=1):
        workload, seconds = trial[0], latest[trial]
        if seconds < best[workload]:
            best[workload] = seconds
            totals = _totals(best, calls)
        known = workload not in defaults or (workload, choice_key(defaults[workload])) in latest
        minutes = (_moment(record) - begun) / 60
        points.append(Point(number, minutes, workload, seconds, own[workload] / seconds if known else None, totals))
    return tuple(points)


def _default_seconds(latest: Mapping[tuple[str, ChoiceKey], float], defaults: Mapping[str, Choice]) -> dict[str, float]:
    """Of each workload that was measured."""
    found: dict[str, float] = {}
    for (workload, choice), seconds in latest.items():
        found.setdefault(workload, seconds)
        if workload in defaults and choice == choice_key(defaults[workload]):
            found[workload] = seconds
    return found


def _totals(seconds: Mapping[str, float], calls: Mapping[str, Mapping[str, int]]) -> dict[str, float]:
    totals = dict.fromkeys(_models(calls), 0.0)
    for workload, each in seconds.items():
        for model, count in calls[workload].items():
            totals[model] += count * each
    return totals


def _models(calls: Mapping[str, Mapping[str, int]]) -> list[str]:
    return list(dict.fromkeys(model for by in calls.values() for model in by))


def _moment(record: KernelRecord) -> float:
    return datetime.fromisoformat(record.date[:-1] + "+00:00").timestamp()
