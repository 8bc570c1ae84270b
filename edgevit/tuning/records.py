"""All records that concern a target, and the best choice for a workload by the rules of ``docs/tuning.md``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path

from edgevit.device.usage import cpu_model
from edgevit.target_schema import Target
from edgevit.tuning.layers import Layer, layer_files
from edgevit.tuning.reading import Rejected, read_records
from edgevit.tuning.record import (
    Evidence,
    FailureRecord,
    KernelRecord,
    Record,
    TargetFacts,
    TvmRecord,
)
from edgevit.tuning.relatives import Nearness, distance

Choice = dict[str, int]
"""One point of a kernel family's space."""

ChoiceKey = tuple[tuple[str, int], ...]

_TRUST: dict[Evidence, int] = {"measured": 0, "borrowed": 1, "estimated": 2}


def choice_key(choice: Mapping[str, int]) -> ChoiceKey:
    """A choice as something that sets can hold."""
    return tuple(sorted(choice.items()))


@dataclass(frozen=True)
class Pick:
    """The record that decides a kernel's shape.

    Attributes:
        record: as it stands in the log.
        layer: that holds it.
        evidence: for this target: a measurement on a relative is ``borrowed``.
    """

    record: KernelRecord
    layer: Layer
    evidence: Evidence

    @property
    def choice(self) -> Choice:
        """The kernel's shape."""
        return dict(self.record.choice)


@dataclass(frozen=True)
class _Candidate:
    pick: Pick
    distance: tuple[int, int]


class TuningLog:
    """Records of a target and its relatives.

    Attributes:
        rejected: lines that are no records.
        stale: records left out because their kernel family has another version now.
        tvm: MetaSchedule's records for this very target.
    """

    def __init__(
        self,
        records: Iterable[tuple[Layer, Record]] = (),
        target: Target | None = None,
        *,
        threads: int | None = None,
        device: str | None = None,
        versions: Mapping[str, int] | None = None,
        rejected: Sequence[Rejected] = (),
    ) -> None:
        """Sort records by workload; those of targets that are no relatives are left out.

        Args:
            records: with the layer that holds each.
            target: that choices are for; may only be left out without records.
            threads: that kernels will be called with; None for the target's cores.
            device: processor's name of the device they will run on, as devices give it, where that is known.
            versions: of the kernel families; records of others are stale. None: all are current.
            rejected: lines that are no records.
        """
        self.rejected = tuple(rejected)
        self.stale = 0
        self.tvm: list[TvmRecord] = []
        self._threads = threads or (target.cores if target else 1)
        self._device = device
        self._own = TargetFacts.of(target) if target else None
        self._candidates: dict[str, list[_Candidate]] = {}
        self._vetoes: set[tuple[str, ChoiceKey, tuple[object, ...]]] = set()
        for layer, record in records:
            if versions is not None and versions.get(record.family) != record.versions.family:
                self.stale += 1
            else:
                self._take(layer, record)

    def __len__(self) -> int:
        """Number of workloads that a record is known for."""
        return len(self._candidates)

    def best(self, workload: str) -> Choice | None:
        """The best known choice, or None."""
        pick = self.find(workload)
        return pick.choice if pick else None

    def find(
        self, workload: str, usable: Callable[[Choice, int], bool] = lambda _choice, _threads: True
    ) -> Pick | None:
        """The record of the best known choice, or None.

        Measured beats borrowed beats estimated. Among those: nearest target, device, layer, number of threads, then
        the newest; of what was measured in one such place, the lowest median.

        Args:
            workload: key.
            usable: tells whether the kernel can take a choice that is good for so many threads.
        """
        found = [
            candidate
            for candidate in self._candidates.get(workload, ())
            if not self._vetoed(candidate) and usable(candidate.pick.choice, candidate.pick.record.threads)
        ]
        groups: dict[tuple[object, ...], list[_Candidate]] = {}
        for candidate in found:
            groups.setdefault(_bench(candidate.pick), []).append(candidate)
        winners = [(_fastest(group), min(entry.pick.layer for entry in group)) for group in groups.values()]
        return min(winners, key=self._remoteness)[0].pick if winners else None

    def tried(self, workload: str, threads: int, device: str | None = None) -> set[ChoiceKey]:
        """Choices that need no further trial on this target: measured with so many threads, or known to fail.

        Args:
            workload: key.
            threads: of the measurements.
            device: identity of the device (:attr:`DeviceFacts.identity`); None for any.
        """
        assert self._own is not None
        own = self._own.identity
        known = {choice for key, choice, identity in self._vetoes if key == workload and identity == own}
        for candidate in self._candidates.get(workload, ()):
            record = candidate.pick.record
            here = device is None or (record.device is not None and record.device.identity == device)
            if candidate.pick.evidence == "measured" and record.threads == threads and here:
                known.add(choice_key(record.choice))
        return known

    def _take(self, layer: Layer, record: Record) -> None:
        assert self._own is not None, "records need a target"
        steps = distance(self._own, record.target)
        if steps is None:
            return
        if isinstance(record, FailureRecord):
            self._vetoes.add((record.workload, choice_key(record.choice), record.target.identity))
        elif isinstance(record, TvmRecord):
            if steps[0] == Nearness.SAME:
                self.tvm.append(record)
        else:
            evidence = self._evidence(record, steps)
            if evidence is not None:
                entry = _Candidate(Pick(record, layer, evidence), steps)
                self._candidates.setdefault(record.workload, []).append(entry)

    def _evidence(self, record: KernelRecord, steps: tuple[int, int]) -> Evidence | None:
        """What a record is worth for this target; None where it says nothing."""
        if steps[0] == Nearness.SAME:
            return record.evidence
        # What a relative borrowed or estimated was never timed anywhere near.
        return "borrowed" if record.evidence == "measured" else None

    def _vetoed(self, candidate: _Candidate) -> bool:
        assert self._own is not None
        record = candidate.pick.record
        choice = choice_key(record.choice)
        places = {self._own.identity, record.target.identity}
        return any((record.workload, choice, place) in self._vetoes for place in places)

    def _remoteness(self, entry: tuple[_Candidate, Layer]) -> tuple[object, ...]:
        """Order of winners whose latencies do not compare, with the nearest layer of each one's rivals."""
        winner, layer = entry
        record = winner.pick.record
        cpu = record.device.cpu if record.device else None
        return (
            _TRUST[winner.pick.evidence],
            winner.distance,
            0 if self._device is not None and cpu == self._device else 1,
            layer,
            abs(log2(record.threads / self._threads)),
            -record.threads,
            -int("".join(filter(str.isdigit, record.date)).ljust(17, "0")),  # newest first
            str(_bench(winner.pick)),
        )


def _bench(pick: Pick) -> tuple[object, ...]:
    """Latencies compare only if this is equal: same target, device and threads."""
    record = pick.record
    device = record.device.identity if record.device else ""
    return pick.evidence, record.target.identity, device, record.threads


def _fastest(group: list[_Candidate]) -> _Candidate:
    """The choice of the lowest median, where the latest measurement of each choice counts."""
    latest: dict[ChoiceKey, _Candidate] = {}
    for candidate in sorted(group, key=_age):
        latest[choice_key(candidate.pick.record.choice)] = candidate
    return min(latest.items(), key=lambda item: (item[1].pick.record.timing.seconds, item[0]))[1]


def _age(candidate: _Candidate) -> tuple[object, ...]:
    """Order in which records of one choice replace each other."""
    record = candidate.pick.record
    return record.moment, record.timing.samples, record.timing.seconds


def load_tuning_log(target: Target, folder: Path | None = None, *, device: str | None = None) -> TuningLog:
    """Everything known for a target: from ``folder``, the user's own logs and those that ship with edgevit.

    Lines that are no records are listed in the log's ``rejected``; nothing is written.

    Args:
        target: that choices are for.
        folder: of further records, which are nearest.
        device: processor's name of the device at hand; None: this machine's if the target is this machine.

    Raises:
        UserError: ``folder`` does not exist.
    """
    if device is None and target.name == "host":
        device = cpu_model()
    found: list[tuple[Layer, Record]] = []
    rejected: list[Rejected] = []
    for layer, file in layer_files(folder, target):
        for entry in read_records(file):
            if isinstance(entry, Rejected):
                rejected.append(entry)
            else:
                found.append((layer, entry))
    versions = None
    if found:
        from edgevit.tuning.workloads import family_versions

        versions = family_versions()
    return TuningLog(found, target, device=device, versions=versions, rejected=rejected)
