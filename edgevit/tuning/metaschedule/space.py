"""TVM's MetaSchedule as a search: its spaces, its evolution and its task scheduler, driven by a tuner of ours.

MetaSchedule asks for three things in turn: which candidates to take, that they are built, and how long they take. Here
the tuner chooses among its candidates, and builds and measures them when it is asked how long they take. Nothing of
MetaSchedule's own builders and runners is used, which start processes that outlive a killed tuner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.meta_schedule import _ffi_api
from tvm.s_tir.meta_schedule.logging import get_logging_func
from tvm.target import Target

from edgevit.tuning.metaschedule.cost import CostModel

POPULATION = 32
"""Schedules of each generation; replaying one takes tens of milliseconds."""
GENERATIONS = 2
"""Before candidates are taken."""

_FROM_MEASURED = 0.5
_NO_LIMIT = 1 << 30


class Proposals(Protocol):
    """A tuner, as MetaSchedule sees it."""

    def choose(self, index: int, propose: Callable[[], Sequence[Any] | None]) -> list[Any] | None:
        """Candidates of a task to measure next; None to end the task.

        Args:
            index: of the task.
            propose: MetaSchedule's next batch; None where it has no more.
        """
        ...

    def measure(self) -> list[list[float] | str]:
        """Seconds of the candidates chosen last, each with several samples, or why there are none."""
        ...


@dataclass(frozen=True)
class Subject:
    """A function to search for.

    Attributes:
        name: for MetaSchedule's messages.
        module: with the function as ``main``.
        weight: calls in an inference.
    """

    name: str
    module: Any
    weight: float


@dataclass(frozen=True)
class Draw:
    """How candidates are drawn.

    Attributes:
        batch: candidates proposed at a time.
        seed: of a random number generator, positive.
        threads: that write candidates.
    """

    batch: int
    seed: int
    threads: int


class _Context(ms.TuneContext):  # type: ignore[misc]
    """A tuning context; TVM's own constructor imports intrinsics of GPUs, which takes many seconds."""

    def __init__(self, subject: Subject, target: Any, strategy: Any, seed: int, threads: int) -> None:
        self.__init_handle_by_constructor__(
            _ffi_api.TuneContext,
            subject.module,
            target,
            _generator(),
            strategy,
            subject.name,
            threads,
            seed,
            get_logging_func(logging.getLogger("tvm.s_tir.meta_schedule")),
        )
        _ffi_api.TuneContextInitialize(self)


@derived_object
class _Strategy(ms.search_strategy.PySearchStrategy):  # type: ignore[misc]
    """Evolutionary search of which the tuner takes what it likes."""

    def __init__(self, index: int, tuner: Proposals) -> None:
        super().__init__()
        self.index = index
        self.tuner = tuner
        self.search = ms.search_strategy.EvolutionarySearch(
            population_size=POPULATION,
            init_measured_ratio=_FROM_MEASURED,
            init_min_unmeasured=POPULATION // 2,
            genetic_num_iters=GENERATIONS,
        )

    def _initialize_with_tune_context(self, context: Any) -> None:
        self.search._initialize_with_tune_context(context)

    def pre_tuning(self, *arguments: Any) -> None:
        self.search.pre_tuning(*arguments)

    def post_tuning(self) -> None:
        self.search.post_tuning()

    def generate_measure_candidates(self) -> list[Any] | None:
        return self.tuner.choose(self.index, self.search.generate_measure_candidates)

    def notify_runner_results(self, candidates: Any, results: Any) -> None:
        self.search.notify_runner_results(candidates, results)

    def clone(self) -> Any:
        return _Strategy(self.index, self.tuner)


@derived_object
class _Builder(ms.builder.PyBuilder):  # type: ignore[misc]
    """Builds nothing: what is measured is built then, all at once."""

    def build(self, build_inputs: Any) -> list[Any]:
        return [ms.builder.BuilderResult(str(index), None) for index, _ in enumerate(build_inputs)]


@derived_object
class _Runner(ms.runner.PyRunner):  # type: ignore[misc]
    """Tells what the tuner measured."""

    def __init__(self, tuner: Proposals) -> None:
        super().__init__()
        self.tuner = tuner

    def run(self, runner_inputs: Any) -> list[Any]:
        results = [
            ms.runner.RunnerResult(None, found) if isinstance(found, str) else ms.runner.RunnerResult(found, None)
            for found in self.tuner.measure()
        ]
        assert len(results) == len(runner_inputs)
        return [ms.runner.RunnerFuture(lambda: True, lambda result=result: result) for result in results]


class Database:
    """What is known before a search, and what it finds; in memory, for the log is what lasts."""

    def __init__(self) -> None:
        self.found = ms.database.MemoryDatabase()

    def add(self, module: Any, trace: Any, seconds: Sequence[float], target: Any, arguments: Any) -> None:
        """A trial of an earlier run."""
        workload = self.found.commit_workload(module)
        record = ms.database.TuningRecord.from_json([trace, list(seconds), target, arguments], workload)
        self.found.commit_tuning_record(record)


def search(
    subjects: Sequence[Subject],
    target: dict[str, object],
    tuner: Proposals,
    database: Database,
    draw: Draw,
) -> None:
    """Let MetaSchedule propose until the tuner ends every task, or there is nothing left to propose.

    Args:
        subjects: functions to search for.
        target: to generate code for, TVM's description.
        tuner: chooses and measures.
        database: what is known.
        draw: how candidates are drawn.

    Raises:
        RuntimeError: whatever TVM says of a function that it cannot search for.
    """
    tasks = [
        _Context(subject, Target(target), _Strategy(index, tuner), draw.seed + index, draw.threads)
        for index, subject in enumerate(subjects)
    ]
    scheduler = ms.task_scheduler.GradientBased(seed=draw.seed)
    scheduler.tune(
        tasks,
        [subject.weight for subject in subjects],
        _NO_LIMIT,
        _NO_LIMIT,
        draw.batch,
        _Builder(),
        _Runner(tuner),
        [ms.measure_callback.AddToDatabase(), ms.measure_callback.UpdateCostModel()],
        database.found,
        CostModel(draw.seed),
    )


def has_space(module: Any, target: dict[str, object]) -> bool:
    """Whether MetaSchedule can arrange a function's loops."""
    subject = Subject("main", module, 1.0)
    try:
        strategy = ms.search_strategy.EvolutionarySearch()
        return bool(_Context(subject, Target(target), strategy, 1, 1).generate_design_space())
    except Exception:  # functions that are no blocks in loops fail in many ways
        return False


def trial_json(candidate: Any, module: Any, target: dict[str, object]) -> list[Any]:
    """A candidate as TVM's database writes it: trace, no seconds, target, arguments."""
    record = ms.database.TuningRecord(
        candidate.sch.trace, ms.database.Workload(module), [], Target(target), candidate.args_info
    )
    found: list[Any] = record.as_json()
    return found


def workload_json(module: Any) -> list[Any]:
    """A module as TVM's database writes it: hash and text."""
    found: list[Any] = ms.database.Workload(module).as_json()
    return found


def _generator() -> Any:
    """The space of processors in general: what names tensor intrinsics needs their registration first."""
    # Custom rules are for functions that bring their own, and are missed aloud where there are none.
    rules = [
        rule
        for rule in ms.schedule_rule.ScheduleRule.create("llvm")
        if not isinstance(rule, ms.schedule_rule.ApplyCustomRule)
    ]
    return ms.space_generator.PostOrderApply(sch_rules=rules, postprocs="llvm", mutator_probs="llvm")
