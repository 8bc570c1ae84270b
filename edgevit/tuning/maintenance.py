"""Look after logs: what is known, one file of everything, several logs as one, and logs without what is of no use."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from edgevit.errors import UserError
from edgevit.files import write_atomic
from edgevit.target_schema import Target
from edgevit.tuning.layers import Layer, layer_files, log_files
from edgevit.tuning.reading import Line, Rejected, read_lines, read_records
from edgevit.tuning.record import FailureRecord, KernelRecord, Record, TargetFacts, TvmRecord
from edgevit.tuning.records import choice_key
from edgevit.tuning.relatives import Nearness, nearness
from edgevit.tuning.writing import LogWriter


@dataclass
class Holding:
    """What a layer holds of a target.

    Attributes:
        counts: records by kind: ``measured``, ``borrowed``, ``estimated``, ``failure`` and ``tvm``.
        workloads: keys.
        devices: where records were measured.
        newest: date of the newest record.
    """

    layer: Layer
    target: str
    counts: Counter[str] = field(default_factory=Counter)
    workloads: set[str] = field(default_factory=set)
    devices: set[str] = field(default_factory=set)
    newest: str = ""

    def add(self, record: Record) -> None:
        """Count a record."""
        self.counts[record.evidence if isinstance(record, KernelRecord) else record.kind] += 1
        self.workloads.add(record.workload)
        if record.device and record.device.cpu:
            self.devices.add(record.device.cpu)
        self.newest = max(self.newest, record.date)


@dataclass(frozen=True)
class Status:
    """What all logs hold, by layer and target.

    Attributes:
        stale: records of kernel families that have another version now; they count nowhere else.
        rejected: lines that are no records.
    """

    holdings: tuple[Holding, ...]
    stale: int
    rejected: tuple[Rejected, ...]


def status(target: Target | None = None, folder: Path | None = None) -> Status:
    """Count the records of all layers.

    Args:
        target: count only its own records; None for those of every target.
        folder: of further records.

    Raises:
        UserError: ``folder`` does not exist.
    """
    holdings: dict[tuple[Layer, str], Holding] = {}
    rejected: list[Rejected] = []
    stale = 0
    for layer, entry in _everything(target, folder):
        if isinstance(entry, Rejected):
            rejected.append(entry)
        elif _versions().get(entry.family) != entry.versions.family:
            stale += 1
        else:
            name = entry.target.name
            holdings.setdefault((layer, name), Holding(layer, name)).add(entry)
    return Status(tuple(holdings[key] for key in sorted(holdings)), stale, tuple(rejected))


def export(file: Path, target: Target | None = None, folder: Path | None = None) -> int:
    """Write the records of all layers into one new log, without doubles, in the order of their workloads.

    Args:
        file: to write; one that is there is replaced.
        target: only its own records; None for those of every target.
        folder: of further records.

    Returns:
        The number of records.

    Raises:
        UserError: ``folder`` does not exist, ``file`` cannot be written, or the disk is full.
    """
    found = {entry.line(): entry for _, entry in _everything(target, folder) if not isinstance(entry, Rejected)}
    ordered = sorted(found, key=lambda line: (found[line].target.name, found[line].workload, found[line].moment, line))
    write_atomic(file, b"".join(ordered))
    return len(ordered)


@dataclass(frozen=True)
class Merged:
    """What ``merge`` did: records added, records that were there or stood twice, and lines that are none."""

    added: int
    known: int
    rejected: tuple[Rejected, ...]


def merge(sources: Sequence[Path], output: Path) -> Merged:
    """Append the records of logs to another one, each once, oldest first. Interrupted, it may be repeated.

    Args:
        sources: logs, or folders of logs.
        output: to append to; it is made if there is none, and may be one of the sources.

    Raises:
        UserError: a source does not exist, or ``output`` cannot be written.
        EnvironmentFailure: the disk is full.
    """
    rejected: list[Rejected] = []
    known = 0
    files = [file for source in sources for file in _existing(source)]
    with LogWriter(output) as writer, writer.exclusive():
        seen = {_digest(entry) for entry in read_records(output) if not isinstance(entry, Rejected)}
        fresh: list[Record] = []
        for file in files:
            for entry in () if file.samefile(output) else read_records(file):
                if isinstance(entry, Rejected):
                    rejected.append(entry)
                elif _digest(entry) in seen:
                    known += 1
                else:
                    seen.add(_digest(entry))
                    fresh.append(entry)
        for record in sorted(fresh, key=lambda record: (record.moment, record.line())):
            writer.append(record)
    return Merged(len(fresh), known, tuple(rejected))


@dataclass(frozen=True)
class Pruned:
    """What ``prune`` did to a log.

    Attributes:
        file: the log.
        kept: records that are left, those of later versions of edgevit included.
        dropped: number of records by reason.
        set_aside: lines that were no records.
    """

    file: Path
    kept: int
    dropped: Mapping[str, int]
    set_aside: tuple[Rejected, ...]


def prune(paths: Iterable[Path], *, keep: int, target: Target | None = None) -> Iterator[Pruned]:
    """Drop from each log what decides nothing.

    That is: records of stale kernel versions; doubles; records of a choice that was measured again later, or is known
    to fail; estimates of workloads that were measured; and all but the ``keep`` fastest choices of a workload, device
    and number of threads. Failures stay as long as their kernel version does.

    Args:
        paths: logs, or folders of logs.
        keep: choices to keep; at least 1.
        target: drop only its own records; None for those of every target.

    Raises:
        UserError: a path does not exist, or a log cannot be written; that log is as it was before.
        EnvironmentFailure: the disk is full, or another process holds the log.
    """
    own = TargetFacts.of(target) if target else None
    for file in [file for path in paths for file in _existing(path)]:
        with LogWriter(file) as writer, writer.exclusive():
            plan = _Plan(own, keep)
            for index, line in enumerate(read_lines(file)):
                plan.take(index, line)
            drop = plan.drop()
            if drop:
                writer.replace(partial(_without, drop))
            yield Pruned(file, plan.lines - len(drop), Counter(drop.values()), tuple(writer.set_aside))


def _without(drop: Mapping[int, str], lines: Iterator[Line]) -> Iterator[bytes]:
    return (line.raw for index, line in enumerate(lines) if index not in drop)


class _Plan:
    """Which lines of a log to drop, and why; holds no records, so that logs may be large."""

    def __init__(self, own: TargetFacts | None, keep: int) -> None:
        self.lines = 0
        self._own = own
        self._keep = keep
        self._dropped: dict[int, str] = {}
        self._seen: set[bytes] = set()
        self._failures: set[tuple[object, ...]] = set()
        self._measured: set[tuple[object, ...]] = set()
        self._trials: dict[tuple[object, ...], dict[object, list[tuple[tuple[object, ...], float, int]]]] = {}
        self._places: dict[int, tuple[tuple[object, ...], object, bool]] = {}

    def take(self, index: int, line: Line) -> None:
        """Look at a line."""
        self.lines += 1
        record = line.found
        if isinstance(record, Rejected) or (self._own and nearness(self._own, record.target) != Nearness.SAME):
            return
        if _versions().get(record.family) != record.versions.family:
            self._dropped[index] = "stale"
        elif self._is_double(record):
            self._dropped[index] = "double"
        elif isinstance(record, KernelRecord):
            self._take_kernel(index, record)
        elif isinstance(record, TvmRecord) and record.run_seconds:
            seconds = statistics.median(record.run_seconds)
            self._trial(index, record, str(record.trace), "tvm", (record.moment, 0, seconds), seconds)

    def drop(self) -> dict[int, str]:
        """Index of each line to drop, and the reason."""
        for index, (place, choice, estimated) in self._places.items():
            if (*place, choice) in self._failures:
                self._dropped[index] = "failed since"
            elif estimated and place in self._measured:
                self._dropped[index] = "measured since"
        for choices in self._trials.values():
            best = []
            for entries in choices.values():
                alive = sorted(entry for entry in entries if entry[2] not in self._dropped)
                for _, _, index in alive[:-1]:
                    self._dropped[index] = "measured again"
                best += [(seconds, index) for _, seconds, index in alive[-1:]]
            for _, index in sorted(best)[self._keep :]:
                self._dropped[index] = "slower"
        return self._dropped

    def _take_kernel(self, index: int, record: KernelRecord) -> None:
        place, choice, timing = (record.workload, record.target.identity), choice_key(record.choice), record.timing
        self._places[index] = place, choice, record.evidence == "estimated"
        if record.evidence == "measured":
            self._measured.add(place)
        age = (record.moment, timing.samples, timing.seconds)
        self._trial(index, record, choice, record.evidence, age, timing.seconds)

    def _trial(
        self, index: int, record: Record, choice: object, evidence: str, age: tuple[object, ...], seconds: float
    ) -> None:
        device = record.device.identity if record.device else ""
        group = (record.workload, record.target.identity, evidence, device, record.threads)
        self._trials.setdefault(group, {}).setdefault(choice, []).append((age, seconds, index))

    def _is_double(self, record: Record) -> bool:
        if isinstance(record, FailureRecord):
            failure = (record.workload, record.target.identity, choice_key(record.choice))
            known = failure in self._failures
            self._failures.add(failure)
            return known
        digest = _digest(record)
        known = digest in self._seen
        self._seen.add(digest)
        return known


def _everything(target: Target | None, folder: Path | None) -> Iterator[tuple[Layer, Record | Rejected]]:
    own = TargetFacts.of(target) if target else None
    for layer, file in layer_files(folder):
        for entry in read_records(file):
            if own is None or isinstance(entry, Rejected) or nearness(own, entry.target) == Nearness.SAME:
                yield layer, entry


def _existing(path: Path) -> list[Path]:
    files = log_files(path)
    if not files and not path.is_dir():
        raise UserError(
            "there is no such tuning log.", where=str(path), advice="Give a .jsonl file, or a folder of such files."
        )
    return files


def _versions() -> Mapping[str, int]:
    from edgevit.tuning.workloads import family_versions

    return family_versions()


def _digest(record: Record) -> bytes:
    return hashlib.blake2b(record.line(), digest_size=16).digest()
