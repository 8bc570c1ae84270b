"""Records of estimates: what is written, what overrides them, and that a second run repeats nothing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from edgevit.compiler.graph import Tensor
from edgevit.compiler.kernels import conv, in_space, winograd, workload_key
from edgevit.targets import get_target
from edgevit.tuning import estimating
from edgevit.tuning.estimating import MARGINS, TaskEstimate, estimate_tasks, rank_choices
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import TuningLog, choice_key
from edgevit.tuning.search import read_known
from edgevit.tuning.static.model import ChoiceEstimate, StaticModel
from edgevit.tuning.tasks import Task
from edgevit.tuning.writing import LogWriter
from tests.tuning import faulty_family
from tests.tuning.making import failed, measured

RPI4 = get_target("rpi4")


def product(rows: int) -> conv.Workload:
    return conv.Workload(1, 1, rows, (16,), 32, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, None)


def image() -> conv.Workload:
    return conv.Workload(1, 16, 16, (16,), 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, None)


def task_of(family: Any, workload: Any, **fields: Any) -> Task:
    x = Tensor("x", (1, 1))
    return Task(workload_key(family, workload), family, workload, RPI4, {"m": 2}, (x,), (x,), **fields)


class Faked:
    """A static model whose word is known."""

    threads = RPI4.cores

    def __init__(self, seconds: Any) -> None:
        self.seconds = seconds
        self.compiled: list[dict[str, int]] = []

    def rough(self, task: Task, choice: dict[str, int]) -> ChoiceEstimate:
        return ChoiceEstimate(choice, self.seconds(task, choice), 0, 0, (0, 0, 0), fine=False)

    def fine(self, task: Task, choice: dict[str, int]) -> ChoiceEstimate:
        self.compiled.append(choice)
        return ChoiceEstimate(choice, self.seconds(task, choice), 0, 0, (0, 0, 0), fine=True)


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> Faked:
    """Choices of one row a tile are ten times as fast as any other."""
    model = Faked(lambda _, choice: 1e-4 if choice.get("rows") == 1 else 1e-3)
    monkeypatch.setattr(estimating, "StaticModel", lambda *_: model)
    return model


def run(path: Path, tasks: list[Task], **options: Any) -> tuple[estimating.EstimateSummary, list[TaskEstimate]]:
    told: list[TaskEstimate] = []
    with LogWriter(path) as log:
        known = read_known(RPI4, path)
        summary = estimate_tasks(tasks, log, known, rough=64, fine=2, progress=told.append, **options)
    return summary, told


def written(path: Path) -> list[KernelRecord]:
    found = list(read_records(path))
    assert all(isinstance(record, KernelRecord) for record in found)
    return [record for record in found if isinstance(record, KernelRecord)]


@pytest.fixture(autouse=True)
def _own_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEVIT_TUNING_DIR", str(tmp_path / "user"))


def test_better_choices_are_written_only_where_the_evidence_allows(tmp_path: Path, faked: Faked) -> None:
    tasks = [task_of(winograd, image()), task_of(conv, product(96))]
    assert "winograd" in MARGINS
    assert "conv" not in MARGINS
    summary, told = run(tmp_path / "log.jsonl", tasks)
    records = written(tmp_path / "log.jsonl")
    assert [record.evidence for record in records] == ["estimated"] * 3
    assert all(record.device is None and record.timing.samples == 0 for record in records)
    by_key: dict[str, list[KernelRecord]] = {task.key: [] for task in tasks}
    for record in records:
        by_key[record.workload].append(record)
    (better, default), (only,) = by_key[tasks[0].key], by_key[tasks[1].key]
    assert better.choice["rows"] == 1
    assert (default.choice, only.choice) == (tasks[0].default, tasks[1].default)
    assert [each.verdict for each in told] == ["better", "default"]
    assert [choice for choice in faked.compiled if "size" not in choice] == [tasks[1].default]
    assert (summary.tasks, summary.better, summary.records) == (2, 1, 3)
    # Two calls of each: the defaults take a millisecond.
    assert summary.before["m"] == pytest.approx(4e-3)
    assert summary.after["m"] == pytest.approx(2.2e-3)
    best = TuningLog([(0, record) for record in records], RPI4).best(tasks[0].key)  # type: ignore[misc]
    assert best == better.choice


def test_margins_may_be_widened(tmp_path: Path, faked: Faked) -> None:
    summary, told = run(tmp_path / "log.jsonl", [task_of(conv, product(96))], margins={"conv": 0.5})
    assert [each.verdict for each in told] == ["better"]
    assert summary.better == 1


def test_a_gain_below_the_margin_leaves_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Faked(lambda task, choice: 1e-3 if choice == task.default else (1 - MARGINS["winograd"] / 2) * 1e-3)
    monkeypatch.setattr(estimating, "StaticModel", lambda *_: model)
    _, told = run(tmp_path / "log.jsonl", [task_of(winograd, image())])
    assert [each.verdict for each in told] == ["default"]
    assert told[0].best is not None
    assert told[0].best.choice != told[0].task.default


def test_a_second_run_repeats_nothing(tmp_path: Path, faked: Faked) -> None:
    tasks = [task_of(winograd, image()), task_of(conv, product(96)), task_of(conv, product(192))]
    path = tmp_path / "log.jsonl"
    first, told = run(path, tasks, limit=2)
    assert (first.tasks, first.unfinished) == (2, 1)
    faked.compiled.clear()
    second, more = run(path, tasks)
    assert (second.tasks, second.known, second.unfinished) == (1, 2, 0)
    assert {each.task.key for each in told}.isdisjoint(each.task.key for each in more)
    before = path.read_bytes()
    faked.compiled.clear()
    third, none = run(path, tasks)
    assert (third.tasks, third.known, none, faked.compiled) == (0, 3, [], [])
    assert path.read_bytes() == before


def test_no_task_is_begun_once_time_is_up(tmp_path: Path, faked: Faked) -> None:
    moments = iter([0.0, 0.0, 61.0, 61.0])
    tasks = [task_of(conv, product(rows)) for rows in (96, 192, 288)]
    summary, _ = run(tmp_path / "log.jsonl", tasks, minutes=1.0, clock=lambda: next(moments))
    assert (summary.tasks, summary.unfinished) == (1, 2)


def test_measured_records_override_estimates_and_spare_the_work(tmp_path: Path, faked: Faked) -> None:
    task = task_of(winograd, image())
    path = tmp_path / "log.jsonl"
    run(path, [task])
    slow = measured(task.default, 1.0, workload=task.key, target=RPI4)
    known = [(0, record) for record in [*written(path), slow]]
    pick = TuningLog(known, RPI4).find(task.key)  # type: ignore[arg-type]
    assert pick is not None
    assert (pick.evidence, pick.choice) == ("measured", task.default)
    other = tmp_path / "other.jsonl"
    with LogWriter(other) as log:
        log.append(slow)
    summary, told = run(other, [task])
    assert (summary.tasks, summary.measured, told) == (0, 1, [])


def test_choices_that_are_known_to_fail_are_left_out(tmp_path: Path, faked: Faked) -> None:
    task = task_of(winograd, image())
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        for choice in task.space:
            if choice["rows"] == 1:
                log.append(failed(choice, workload=task.key, target=RPI4))
    with LogWriter(path) as log:
        told: list[TaskEstimate] = []
        estimate_tasks([task], log, read_known(RPI4, path), rough=64, fine=2, progress=told.append)
    assert [each.verdict for each in told] == ["default"]


def test_followers_keep_their_leaders_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leader = task_of(winograd, image())
    smaller = conv.Workload(1, 8, 12, (16,), 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, None)
    follower = task_of(winograd, smaller, leader=leader.key)
    model = Faked(lambda _, choice: 1e-3 * (1 + abs(choice["size"] - 2) + abs(choice["vectors"] - 5)))
    monkeypatch.setattr(estimating, "StaticModel", lambda *_: model)
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        told: list[TaskEstimate] = []
        tasks = [follower, leader]
        estimate_tasks(tasks, log, read_known(RPI4, path), rough=256, fine=2, progress=told.append, limit=1)
        assert [each.task.key for each in told] == [leader.key]
        # Another run knows the leader's choice from the log.
        estimate_tasks(tasks, log, read_known(RPI4, path), rough=256, fine=2, progress=told.append)
    choices = {record.workload: record.choice for record in reversed(written(path))}
    assert follower.layout_of(choices[follower.key]) == leader.layout_of(choices[leader.key]) == (2, 5)


def test_choices_that_do_not_compile_are_no_candidates() -> None:
    target = get_target("rpi4")
    task = faulty_family.task(target)
    task = Task(task.key, task.family, task.workload, target, task.calls, task.inputs, task.outputs)
    task.__dict__["space"] = task.space.of(
        {"way": (faulty_family.RIGHT, faulty_family.OTHER_CODE, faulty_family.REFUSED)}, task.default, {}
    )
    ranked = rank_choices(task, StaticModel(target, 1), rough=10, fine=10)
    assert {each.choice["way"] for each in ranked} <= {faulty_family.RIGHT, faulty_family.OTHER_CODE}
    assert any(each.choice == task.default for each in ranked)
    faulty = faulty_family.task(target, default=faulty_family.REFUSED)
    faulty.__dict__["space"] = faulty.space.of({"way": (faulty_family.REFUSED,)}, faulty.default, {})
    assert rank_choices(faulty, StaticModel(target, 1)) == []


def test_a_board_that_is_not_there_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Neither a device nor any tool beside the compiler.
    monkeypatch.setattr(shutil, "which", lambda _: None)
    task = task_of(conv, product(96))
    path = tmp_path / "log.jsonl"
    with LogWriter(path) as log:
        summary = estimate_tasks([task], log, rough=24, fine=2, margins={"conv": 0.9})
    (record,) = written(path)
    assert summary.tasks == 1
    assert summary.refused == 0
    assert 1e-7 < record.timing.seconds < 1e-2
    assert record.threads == RPI4.cores
    assert any("ESTIMATE" in note for note in summary.notes())
    assert summary.to_json()["estimate"] is True


def test_a_ranking_is_the_same_every_time() -> None:
    task = task_of(conv, product(96))
    model = Faked(lambda _, choice: 1e-3 + 1e-6 * (choice["rows"] + choice["vectors"]))
    first, again = (rank_choices(task, model, rough=40, fine=4) for _ in range(2))  # type: ignore[arg-type]
    assert first == again
    assert first[0].seconds <= first[-1].seconds
    assert len({choice_key(each.choice) for each in first}) == len(first)
    assert all(in_space(each.choice, task.family, task.workload, RPI4) for each in first)
