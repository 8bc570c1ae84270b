"""What is known of a function that MetaSchedule tunes, from earlier runs and from this one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgevit.tuning.metaschedule import family as tvm_family
from edgevit.tuning.metaschedule.schedules import (
    DEFAULT_TRACE,
    BadTrace,
    apply_trace,
    as_module,
    median_seconds,
    module_hash,
    trace_key,
)
from edgevit.tuning.metaschedule.tasks import TvmTask
from edgevit.tuning.record import TargetFacts, TvmRecord
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from edgevit.tuning.metaschedule.space import Database


@dataclass(eq=False)
class TvmProgress:
    """What is known of a task.

    Attributes:
        task: as extracted.
        measured: the same, as builders and devices take it.
        default: module with the schedule of last resort, as TVM's JSON.
        known: identities of candidates that need no further trial.
        seconds: of candidates, by trace.
        default_seconds: of the schedule of last resort.
        trials: of the batch at hand, as TVM's database writes them, by number.
        numbers: given to candidates so far.
    """

    task: TvmTask
    measured: Task
    default: str
    known: set[str] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=dict)
    default_seconds: float | None = None
    trials: dict[int, list[Any]] = field(default_factory=dict)
    numbers: int = 0

    @classmethod
    def of(cls, task: TvmTask, threads: int) -> TvmProgress:
        """Nothing is known of a task yet.

        Args:
            task: to tune.
            threads: that its function is called with.
        """
        import tvm

        default = tvm.ir.save_json(tvm_family.default_module(task))
        workload = tvm_family.Workload({tvm_family.DEFAULT: default})
        family: Any = tvm_family
        calls, inputs, outputs = task.calls, task.inputs, task.outputs
        return cls(
            task, Task(task.key, family, workload, task.target, calls, inputs, outputs, threads=threads), default
        )

    @property
    def best_seconds(self) -> float | None:
        """Of the fastest, the default among them."""
        known = [*self.seconds.values(), *([self.default_seconds] if self.default_seconds else [])]
        return min(known, default=None)

    def batch(self, candidates: list[Any]) -> list[dict[str, int]]:
        """Choices that stand for candidates, whose modules the workload then holds."""
        import tvm

        from edgevit.tuning.metaschedule.space import trial_json

        task = self.task
        numbers = range(self.numbers + 1, self.numbers + 1 + len(candidates))
        self.numbers += len(candidates)
        described = [trial_json(candidate, task.module, task.target.tvm_target()) for candidate in candidates]
        self.trials = dict(zip(numbers, described, strict=True))
        modules = {number: tvm.ir.save_json(each.sch.mod) for number, each in zip(numbers, candidates, strict=True)}
        self.measured.workload.modules = {tvm_family.DEFAULT: self.default, **modules}
        return [{tvm_family.CANDIDATE: number} for number in numbers]

    def take(self, records: Iterable[TvmRecord], device: str, threads: int, database: Database) -> int:
        """Take over what earlier runs found; how many trials that were.

        Args:
            records: of any function, target and device.
            device: identity of the one at hand, as records have it.
            threads: that the function is called with.
            database: takes what MetaSchedule may go on from.
        """
        own = TargetFacts.of(self.task.target).identity
        mine = [record for record in records if record.hash == self.task.digest and record.target.identity == own]
        count = 0
        for record in sorted(mine, key=lambda record: record.moment):
            here = record.device is not None and (record.device.identity, record.threads) == (device, threads)
            if record.trace == DEFAULT_TRACE:
                self.default_seconds = median_seconds(record) if here and record.run_seconds else self.default_seconds
            elif here or record.failure:
                count += self._take_trial(record, database)
        return count

    def _take_trial(self, record: TvmRecord, database: Database) -> bool:
        try:
            self.known.add(identity(apply_trace(record.trace, self.task.module)))
        except BadTrace:
            return False
        key = trace_key(record.trace)
        self.seconds.pop(key, None)
        if record.run_seconds:
            database.add(self.task.module, record.trace, record.run_seconds, record.tvm_target, record.arguments)
            self.seconds[key] = median_seconds(record)
        return True


def identity(module: Any) -> str:
    """Equal for candidates that are the same code."""
    return module_hash(as_module(module["main"]))
