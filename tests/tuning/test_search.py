"""The search against cost functions whose best point is known."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from edgevit.compiler.kernels import workload_key
from edgevit.device.session import DeviceInfo
from edgevit.errors import EnvironmentFailure
from edgevit.targets import get_target
from edgevit.tuning.building.build import Library
from edgevit.tuning.measure import Correct, Fault, Latency, Measurer, Outcome, measure_twice
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import FailureRecord, KernelRecord
from edgevit.tuning.records import Choice, TuningLog, choice_key
from edgevit.tuning.search import Budget, Reason, Summary, Trial, Tuner, read_known
from edgevit.tuning.tasks import Task
from edgevit.tuning.writing import LogWriter
from tests.tuning.making import measured

if TYPE_CHECKING:
    from edgevit.tuning.building.builders import Built

TARGET = get_target("rpi4")
DEVICE = DeviceInfo(kind="rpc", cpu="Cortex-A72", cores=4, system="linux")
LARGE = {"rows": tuple(range(1, 16)), "vectors": (1, 2, 3, 4, 5, 6), "block": (1, 2, 4, 8, 16, 32), "unroll": (1, 2, 4)}
SMALL = {"rows": (1, 2, 3), "unroll": (1, 2)}

Cost = Callable[[Choice], float]


@dataclass(frozen=True)
class Workload:
    """A kernel that is not there."""

    name: str
    size: int = 1000
    dtype: str = "float32"

    @property
    def flops(self) -> int:
        return self.size

    @property
    def bytes(self) -> int:
        return self.size


def make_task(
    name: str = "a",
    space: dict[str, tuple[int, ...]] | None = None,
    calls: int = 1,
    default: Choice | None = None,
    **rest: Any,
) -> Task:
    axes = LARGE if space is None else space
    chosen = default or {axis: values[0] for axis, values in axes.items()}
    family: Any = SimpleNamespace(
        NAME="fake",
        VERSION=1,
        LAYOUT=("vectors",),
        space=lambda workload, target: axes,
        analytic_default=lambda workload, target, layout=None: {**chosen, **(layout or {})},
    )
    return Task(workload_key(family, Workload(name)), family, Workload(name), TARGET, {"model": calls}, (), (), **rest)


def bowl(choice: Choice) -> float:
    """Smallest, 1 ms, at rows 9, vectors 4, block 8, unroll 2; rows and vectors depend on each other."""
    rows, vectors = choice.get("rows", 9), choice.get("vectors", 4)
    block, unroll = choice.get("block", 8), choice.get("unroll", 2)
    tile = 0.02 * (rows * vectors - 36) ** 2 / 36 + 0.1 * abs(vectors - 4) + 0.03 * abs(rows - 9)
    return 1e-3 * (1 + tile + 0.15 * abs(math.log2(block / 8)) + 0.1 * abs(math.log2(unroll / 2)))


class Fake:
    """A device that measures by formula; time is counted, not spent."""

    threads = 1

    def __init__(self, costs: dict[str, Cost] | None = None, *, fail: Callable[[Choice], str | None] = lambda _: None):
        self.device = DEVICE
        self.costs = costs or {}
        self.fail = fail
        self.asked: list[tuple[str, Choice]] = []
        self.again: list[tuple[str, Choice]] = []
        self.references: list[float | None] = []
        self.now = 0.0

    def reach(self) -> None:
        """Always there."""

    def close(self) -> None:
        """Nothing to end."""

    def measure(
        self, task: Task, library: Library, reference_seconds: float | None = None, best_seconds: float | None = None
    ) -> Iterator[Outcome]:
        self.references.append(reference_seconds)

        def run(part: Library, reference: float | None) -> Iterator[Outcome]:
            return self.run(task, [choice for choice, _ in part.functions], reference)

        return measure_twice(run, task, library, reference_seconds, best_seconds)

    def run(self, task: Task, choices: Sequence[Choice], reference_seconds: float | None) -> Iterator[Outcome]:
        cost = self.costs.get(task.key, bowl)
        if reference_seconds is None and task.default not in choices:
            yield Latency(task.default, (cost(task.default),) * 5, 0)
        for choice in choices:
            assert choice in task.space
            first = (task.key, choice) not in self.asked
            (self.asked if first else self.again).append((task.key, choice))
            self.now += 1.0
            failure = self.fail(choice)
            if self.device.emulated and not failure:
                yield Correct(choice)
            elif failure:
                yield Fault(choice, failure, "said so")  # type: ignore[arg-type]
            else:
                yield Latency(choice, (cost(choice),) * 5, 0)


class Ready:
    """Builders that have everything built already."""

    here = False

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.closed = False

    def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
        functions = tuple(
            (choice, "default" if choice == task.default else f"candidate_{place}")
            for place, choice in enumerate(choices)
        )
        future: Future[Built] = Future()
        future.set_result(([Library(b"", "default", functions, {})], []))
        return future

    def close(self) -> None:
        self.closed = True


def tune(
    tasks: Sequence[Task], fake: Fake, path: Path, *, report: Callable[[Trial], None] | None = None, **options: Any
) -> tuple[Summary, Tuner]:
    budget = Budget(**{name: options.pop(name) for name in ("minutes", "trials", "rest") if name in options})
    builders, options = Ready(), {"exclusive": True, **options}
    with LogWriter(path) as log:
        known, devices = read_known(TARGET, path), cast("list[Measurer]", [fake])
        tuner = Tuner(
            tasks, devices, builders, log, known, budget=budget, report=report, clock=lambda: fake.now, **options
        )
        summary = tuner.run()
    assert builders.closed
    return summary, tuner


def records(path: Path) -> list[Any]:
    return list(read_records(path))


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_best_of_a_large_space(tmp_path: Path, seed: int) -> None:
    fake = Fake()
    summary, tuner = tune([make_task()], fake, tmp_path / "log.jsonl", trials=128, rest=0.0, seed=seed)
    assert make_task().space.size == 1620
    assert tuner.entries[0].best == {"rows": 9, "vectors": 4, "block": 8, "unroll": 2}
    assert summary.after["model"] == pytest.approx(1e-3, rel=1e-5)
    assert summary.before["model"] == pytest.approx(bowl(make_task().default), rel=1e-5)
    assert len(fake.asked) <= 128
    assert len({choice_key(choice) for _, choice in fake.again}) == len(fake.again) < 30


def test_tries_a_small_space_whole_and_ends(tmp_path: Path) -> None:
    fake = Fake()
    summary, tuner = tune([make_task(space=SMALL)], fake, tmp_path / "log.jsonl", rest=0.0)
    assert (summary.reason, len(fake.asked)) == ("exhausted", 6)
    assert tuner.entries[0].best == {"rows": 3, "unroll": 2}
    assert tune([make_task(space={})], fake, tmp_path / "two.jsonl", rest=0.0)[0].measured == 1


def test_every_result_is_written_at_once(tmp_path: Path) -> None:
    path, seen = tmp_path / "log.jsonl", []

    def look(trial: Trial) -> None:
        seen.append(len(records(path)))

    odd = lambda choice: "wrong" if choice["rows"] == 2 else None  # noqa: E731
    summary, _ = tune([make_task(space=SMALL)], Fake(fail=odd), path, rest=0.0, report=look, provenance="a test")
    assert seen == [1, 2, 3, 4, 5, 6, 7]  # the best twice
    found = records(path)
    assert {type(record) for record in found} == {KernelRecord, FailureRecord}
    assert {record.provenance for record in found} == {"a test"}
    assert {record.choice["rows"] for record in found if isinstance(record, FailureRecord)} == {2}
    assert summary.failures == {"wrong": 2}


def test_resumes_without_repeating(tmp_path: Path) -> None:
    path, fake = tmp_path / "log.jsonl", Fake(fail=lambda choice: "crash" if choice["rows"] == 3 else None)
    for _ in range(4):
        tune([make_task("a"), make_task("b")], fake, path, trials=37, rest=0.0)
    # What is asked for a second time had become the best.
    again = [(key, choice_key(choice)) for key, choice in fake.again]
    assert len(set(again)) == len(again) < 20
    assert len(fake.asked) >= 4 * 36
    # The default is measured once; after that its recorded latency is the anchor.
    firsts = [record for record in records(path) if record.choice == make_task().default]
    assert len(firsts) == 2
    assert fake.references.count(None) == 2


@pytest.mark.parametrize("seed", range(3))
def test_the_best_is_measured_again(tmp_path: Path, seed: int) -> None:
    draw, seen = random.Random(seed), set[tuple[tuple[str, int], ...]]()

    def lucky(choice: Choice) -> float:
        """First readings are up to a third off."""
        known = choice_key(choice) in seen
        seen.add(choice_key(choice))
        return bowl(choice) * (1.0 if known or choice == make_task().default else draw.uniform(0.7, 1.3))

    fake, task = Fake({make_task().key: lucky}), make_task()
    _, tuner = tune([task], fake, tmp_path / "log.jsonl", trials=128, rest=0.0)
    assert fake.again
    entry = tuner.entries[0]
    assert entry.seconds == pytest.approx(bowl(entry.best), rel=1e-5)
    assert bowl(entry.best) == min(bowl(choice) for _, choice in fake.again)
    # The log says the same: there, too, the later measurement counts.
    assert TuningLog(read_known(TARGET, tmp_path / "log.jsonl"), TARGET, threads=1).best(task.key) == entry.best


def test_results_of_another_device_do_not_count(tmp_path: Path) -> None:
    path, other = tmp_path / "log.jsonl", Fake()
    other.device = other.device.model_copy(update={"cpu": "another"})
    for fake, count in ((Fake(), 6), (Fake(), 0), (other, 6)):
        tune([make_task(space=SMALL)], fake, path, rest=0.0)
        assert len(fake.asked) == count


def test_starts_from_relatives(tmp_path: Path) -> None:
    path, fake, task = tmp_path / "log.jsonl", Fake(), make_task()
    best = {"rows": 9, "vectors": 4, "block": 8, "unroll": 2}
    with LogWriter(path) as log:
        log.append(measured(best, workload=task.key, target="rpi5"))
    tune([task], fake, path, trials=4, rest=0.0)
    assert [choice for _, choice in fake.asked[:2]] == [task.default, best]


def test_good_choices_of_one_workload_are_tried_for_the_others(tmp_path: Path) -> None:
    first, second, fake = make_task("a", calls=100), make_task("b", calls=1000), Fake()
    tune([first], fake, tmp_path / "log.jsonl", trials=320, rest=0.0)
    fake.asked.clear()
    second = Task(second.key, first.family, second.workload, TARGET, second.calls, (), ())
    tune([first, second], fake, tmp_path / "log.jsonl", trials=16, rest=0.0)
    assert {"rows": 9, "vectors": 4, "block": 8, "unroll": 2} in [choice for _, choice in fake.asked]


def test_trials_go_where_they_matter(tmp_path: Path) -> None:
    hot, cold, flat = make_task("hot", calls=50), make_task("cold", calls=1), make_task("flat", calls=20)
    fake = Fake({flat.key: lambda choice: 1e-3})
    tune([cold, hot, flat], fake, tmp_path / "log.jsonl", trials=128, rest=0.0)
    spent = {task.key: sum(key == task.key for key, _ in fake.asked) for task in (hot, cold, flat)}
    assert spent[hot.key] > spent[flat.key] > 0
    assert spent[hot.key] > 3 * spent[cold.key]


def test_ends_when_the_rest_cannot_matter(tmp_path: Path) -> None:
    fake = Fake({make_task().key: lambda choice: 1e-3})
    summary, _ = tune([make_task()], fake, tmp_path / "log.jsonl")
    assert summary.reason == "settled"
    assert len(fake.asked) < 300


@pytest.mark.parametrize(("options", "reason"), [({"minutes": 2.0}, "minutes"), ({"trials": 41}, "trials")])
def test_budgets_are_hard(tmp_path: Path, options: dict[str, Any], reason: Reason) -> None:
    fake = Fake()
    summary, _ = tune([make_task()], fake, tmp_path / "log.jsonl", rest=0.0, **options)
    assert summary.reason == reason
    assert fake.now <= 120
    assert 40 <= summary.trials <= 120


def test_a_follower_keeps_to_its_leaders_layout(tmp_path: Path) -> None:
    leader = make_task("leader", calls=100)
    follower = make_task("follower", leader=leader.key)
    fake = Fake()
    _, tuner = tune([follower, leader], fake, tmp_path / "log.jsonl", trials=600, rest=0.0)
    best = {entry.task.key: entry.best for entry in tuner.entries}
    assert best[leader.key]["vectors"] == best[follower.key]["vectors"] == 4
    assert tuner.entries[0].task.space.axes["vectors"] == (4,)


def test_nothing_measured_is_an_error(tmp_path: Path) -> None:
    fake = Fake(fail=lambda choice: "crash")
    fake.costs = {}
    task = make_task(space=SMALL)
    with pytest.raises(EnvironmentFailure, match="6 times the cause was crash: said so"):
        tune([task], fake, tmp_path / "log.jsonl", rest=0.0)
    assert {type(record) for record in records(tmp_path / "log.jsonl")} == {FailureRecord}


def test_an_emulator_gives_no_latencies(tmp_path: Path) -> None:
    fake = Fake(fail=lambda choice: {1: "crash", 2: "wrong"}.get(choice["rows"]))
    fake.device = fake.device.model_copy(update={"emulated": True})
    summary, _ = tune([make_task(space=SMALL)], fake, tmp_path / "log.jsonl", rest=0.0)
    assert (summary.trials, summary.measured) == (6, 0)
    assert [record.failure for record in records(tmp_path / "log.jsonl")] == ["wrong", "wrong"]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.tuning.test_search import Fake, make_task, tune

class Slow(Fake):
    def run(self, *arguments):
        for outcome in super().run(*arguments):
            time.sleep(0.002)
            yield outcome

tune([make_task()], Slow(), Path({path!r}), report=lambda trial: print(trial.number, flush=True), rest=0.0)
"""


def test_a_kill_loses_and_repeats_nothing(tmp_path: Path) -> None:
    path, root = tmp_path / "log.jsonl", str(Path(__file__).parents[2])
    program = KILLED.format(root=root, path=str(path))
    told = 0
    for stop in (5, 23, 40):
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == stop:
                os.kill(process.pid, signal.SIGKILL)
                break
        told += stop
        process.stdout.close()
        process.wait()
        found = records(path)
        assert len(found) >= told
        # Each choice once, and those that became the best twice.
        counts = Counter(choice_key(record.choice) for record in found)
        assert max(counts.values()) <= 2
        assert sum(count == 2 for count in counts.values()) < len(found) / 4
        told = len(found)
