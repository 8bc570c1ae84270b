"""Batches on their way through builders and devices that fail: every outcome is told, and told once."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from edgevit.device.session import DeviceInfo
from edgevit.errors import DeviceError, DeviceLost, DeviceUnreachable, EnvironmentFailure, ToolchainError, UserError
from edgevit.tuning import pipeline as module
from edgevit.tuning.building.build import BuildFailure, Library
from edgevit.tuning.measure import Fault, Latency, Measurer, Outcome
from edgevit.tuning.pipeline import Batch, Ended, Pipeline, Told
from edgevit.tuning.reading import read_records
from edgevit.tuning.record import KernelRecord
from edgevit.tuning.records import Choice, choice_key
from edgevit.tuning.schedule import Progress
from edgevit.tuning.search import Budget, Trial, Tuner
from edgevit.tuning.tasks import Task
from edgevit.tuning.writing import LogWriter
from tests.device.processes import wait_until
from tests.tuning.test_search import DEVICE, SMALL, Ready, bowl, make_task

if TYPE_CHECKING:
    from edgevit.tuning.building.builders import Builders, Built

SECONDS = 30.0
"""Longer than anything here takes, by far."""

Before = Callable[["Board", Choice], None]


class Board:
    """A device that a test holds, loses and finds again."""

    threads = 1

    def __init__(self, name: str = "", before: Before = lambda board, choice: None, away: float = 0) -> None:
        self.device = DEVICE
        self.name = name
        self.away = away
        self.asked: list[list[Choice]] = []
        self.told: list[Choice] = []
        self.closed = threading.Event()
        self._before = before

    def reach(self) -> None:
        """It answers after so many attempts."""
        if self.closed.is_set():
            raise DeviceLost("closed.")
        if self.away > 0:
            self.away -= 1
            raise DeviceUnreachable("nobody answers.", where=self.name)

    def measure(
        self, task: Task, library: Library, reference_seconds: float | None = None, best_seconds: float | None = None
    ) -> Iterator[Outcome]:
        choices = [choice for choice, _ in library.functions]
        self.asked.append(choices)
        # As real ones do: without a reference, the default's own latency comes as well.
        if choices and reference_seconds is None and task.default not in choices and not self.device.emulated:
            yield Latency(task.default, (bowl(task.default),) * 5, 0)
        for choice in choices:
            self._before(self, choice)
            if self.closed.is_set():
                raise DeviceLost("closed.")
            self.told.append(choice)
            yield Latency(choice, (bowl(choice),) * 5, 0)

    def close(self) -> None:
        self.closed.set()


class Halves(Ready):
    """Builders that cut every batch into libraries of so many choices, as after a compiler that crashed."""

    def __init__(self, slots: int = 1, size: int = 2, bad: Sequence[Choice] = ()) -> None:
        super().__init__(slots)
        self._size = size
        self._bad = bad

    def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
        good = [choice for choice in choices if choice not in self._bad]
        parts = [good[start : start + self._size] for start in range(0, len(good), self._size)]
        libraries = [Library(b"", "default", tuple((choice, "f") for choice in part), {}) for part in parts]
        future: Future[Built] = Future()
        future.set_result((libraries, [BuildFailure(c, "build", "no") for c in choices if c in self._bad]))
        return future


class Hands:
    """Builders with a thread for each batch, which a test can look at."""

    here = True

    def __init__(self, slots: int, work: Callable[[], None]) -> None:
        self.slots = slots
        self._work = work
        self._threads: list[threading.Thread] = []

    def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
        future: Future[Built] = Future()

        def build() -> None:
            self._work()
            future.set_result(Ready().submit(task, choices).result())

        self._threads.append(threading.Thread(target=build))
        self._threads[-1].start()
        return future

    def close(self) -> None:
        for thread in self._threads:
            thread.join(SECONDS)


def rows(*numbers: int) -> list[Choice]:
    return [{"rows": number, "vectors": 1, "block": 1, "unroll": 1} for number in numbers]


def batch(*numbers: int, entry: Progress | None = None, name: str = "a", known: bool = True) -> Batch:
    if entry is None:
        entry = Progress(make_task(name))
        if known:
            entry.results[choice_key(entry.task.default)] = bowl(entry.task.default)
    return Batch(entry, entry.task, tuple(rows(*numbers)))


@pytest.fixture(autouse=True)
def no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test does, no thread outlives it; devices that went away are tried again at once."""
    monkeypatch.setattr(module, "_RETRY_SECONDS", 0.001)
    before = set(threading.enumerate())
    yield
    assert wait_until(lambda: not set(threading.enumerate()) - before), threading.enumerate()


def opened(boards: Sequence[Board], builders: Any = None, **options: Any) -> Pipeline:
    return Pipeline(
        cast("Builders", builders or Ready(len(boards))), cast("list[Measurer]", boards), **{"patience": 0.0, **options}
    )


def finish(pipeline: Pipeline) -> tuple[Counter[int], list[Batch]]:
    """How often each choice was told, by its rows, and the batches that ended."""
    told: Counter[int] = Counter()
    ended: list[Batch] = []
    while pipeline.busy:
        event = pipeline.wait(SECONDS)
        assert event is not None, "nothing happens any more"
        if isinstance(event, Told):
            assert event.batch not in ended
            told[event.outcome.choice["rows"]] += 1
        else:
            assert isinstance(event, Ended)
            ended.append(event.batch)
    assert len(set(ended)) == len(ended)
    return told, ended


def once(*numbers: int) -> Counter[int]:
    return Counter(dict.fromkeys(numbers, 1))


def test_devices_measure_at_the_same_time() -> None:
    met = threading.Barrier(3, timeout=SECONDS)
    boards = [Board(before=lambda board, _: board.told or met.wait()) for _ in range(3)]  # type: ignore[arg-type]
    with opened(boards) as pipeline:
        batches = [batch(2 * place + 2, 2 * place + 3, name=str(place)) for place in range(6)]
        for each in batches:
            pipeline.submit(each)
        told, ended = finish(pipeline)
    assert told == once(*range(2, 14))
    assert set(ended) == set(batches)
    assert sum(len(board.asked) for board in boards) == 6
    assert all(board.asked for board in boards)


def test_what_a_lost_device_leaves_goes_to_the_others() -> None:
    gone = threading.Event()

    def lose(board: Board, choice: Choice) -> None:
        if choice["rows"] == 4:
            gone.set()
            raise DeviceLost("unplugged.")

    weak, strong = Board("weak", lose, away=1000), Board("strong", lambda *_: gone.wait(SECONDS))  # type: ignore[arg-type,return-value]
    with opened([weak, strong]) as pipeline:
        first, second = batch(2, 3, 4, 5), batch(6, 7, name="b")
        pipeline.submit(first)
        pipeline.submit(second)
        told, ended = finish(pipeline)
        assert pipeline.devices == 1
    assert told == once(2, 3, 4, 5, 6, 7)
    assert ended == [second, first]
    assert weak.told == rows(2, 3)
    assert strong.asked == [rows(6, 7), rows(4, 5)]
    assert weak.closed.is_set()


def test_what_is_left_of_several_libraries_goes_to_the_others() -> None:
    def lose(board: Board, choice: Choice) -> None:
        if choice["rows"] == 5:
            raise DeviceLost("unplugged.")

    weak, strong = Board("weak", lose, away=1000), Board("strong")
    with opened([weak, strong], Halves(bad=rows(3))) as pipeline:
        pipeline.submit(batch(2, 3, 4, 5, 6, 7))
        assert finish(pipeline)[0] == once(2, 3, 4, 5, 6, 7)
    assert weak.told == rows(2, 4)
    assert strong.asked == [rows(5, 6), rows(7)]


def test_a_device_that_is_lost_after_its_last_outcome_costs_nothing() -> None:
    class Late(Board):
        def measure(self, *arguments: Any) -> Iterator[Outcome]:
            yield from super().measure(*arguments)
            raise DeviceLost("unplugged.")

    other = Board()
    with opened([Late(away=1000), other]) as pipeline:
        pipeline.submit(batch(2, 3))
        assert finish(pipeline)[0] == once(2, 3)
        assert pipeline.devices == 1
        pipeline.submit(batch(4))
        assert finish(pipeline)[0] == once(4)
    assert other.told == rows(4)


def test_the_last_device_ends_the_run_with_its_own_words() -> None:
    def lose(board: Board, choice: Choice) -> None:
        if choice["rows"] == 3:
            raise DeviceLost(f"{board.name} was unplugged.", where=board.name)

    boards = [Board("one", lose, away=1000), Board("two", lose, away=1000)]
    with opened(boards) as pipeline:
        pipeline.submit(batch(2, 3, 4))
        with pytest.raises(DeviceLost, match="two: two was unplugged"):
            finish(pipeline)
    assert [board.asked for board in boards] == [[rows(2, 3, 4)], [rows(3, 4)]]


def test_a_device_that_comes_back_goes_on() -> None:
    lost: list[Choice] = []

    def lose(board: Board, choice: Choice) -> None:
        if choice["rows"] in (3, 5) and choice not in lost:
            lost.append(choice)
            board.away = 20
            raise DeviceLost("unplugged.")

    board = Board(before=lose)
    with opened([board], patience=SECONDS) as pipeline:
        pipeline.submit(batch(2, 3, 4, 5, 6))
        assert finish(pipeline)[0] == once(2, 3, 4, 5, 6)
    assert lost == rows(3, 5)
    assert board.asked == [rows(2, 3, 4, 5, 6), rows(3, 4, 5, 6), rows(5, 6)]


def test_a_device_that_answers_and_always_fails_is_given_up() -> None:
    def fail(board: Board, choice: Choice) -> None:
        raise DeviceError("it will not.")

    broken, sound = Board(before=fail), Board()
    with opened([broken, sound], patience=SECONDS) as pipeline:
        pipeline.submit(batch(2, 3))
        assert finish(pipeline)[0] == once(2, 3)
    assert broken.asked == [rows(2, 3)] * 2
    with opened([Board(before=fail)], patience=SECONDS) as pipeline:
        pipeline.submit(batch(2, 3))
        with pytest.raises(DeviceError, match="it will not"):
            finish(pipeline)


@pytest.mark.parametrize("seed", range(8))
def test_whatever_fails_nothing_is_told_twice_or_lost(seed: int) -> None:
    draw = random.Random(seed)
    lock = threading.Lock()

    def unlucky(board: Board, choice: Choice) -> None:
        with lock:
            fails, board.away = draw.random() < 0.2, draw.choice([0, 3, 10_000])
        if fails:
            raise DeviceLost("unplugged.")
        board.away = 0

    boards = [*(Board(str(place), unlucky) for place in range(3)), Board("immortal")]
    with opened(boards, Halves(3, draw.randint(1, 4), rows(7, 30)), patience=0.02) as pipeline:
        batches = [batch(*range(first, first + 6), name=str(first)) for first in range(2, 62, 6)]
        told, ended = Counter[int](), list[Batch]()
        for each in batches:
            pipeline.submit(each)
            if pipeline.room <= 0:
                event = pipeline.wait(SECONDS)
                told.update([event.outcome.choice["rows"]] if isinstance(event, Told) else [])
                ended += [event.batch] if isinstance(event, Ended) else []
        rest = finish(pipeline)
    assert told + rest[0] == once(*range(2, 62))
    assert Counter([*ended, *rest[1]]) == Counter(batches)


def test_building_and_measuring_take_turns_where_they_share_a_machine() -> None:
    building, measuring, both = 0, 0, list[tuple[int, int]]()
    lock, paces = threading.Lock(), itertools.cycle((1, 10))

    def work() -> None:
        nonlocal building
        with lock:
            building += 1
            both.append((building, measuring))
        time.sleep(0.001 * next(paces))
        with lock:
            building -= 1

    def look(board: Board, choice: Choice) -> None:
        nonlocal measuring
        with lock:
            measuring += 1
            both.append((building, measuring))
        time.sleep(0.002)
        with lock:
            measuring -= 1

    batches = [batch(number, number + 1, name=str(number)) for number in range(2, 26, 2)]
    told, most = Counter[int](), 0
    with opened([Board(before=look)], Hands(2, work), exclusive=True) as pipeline:
        while batches or pipeline.busy:
            while batches and pipeline.room > 0:
                pipeline.submit(batches.pop())
            most = max(most, pipeline.building)
            event = pipeline.wait(SECONDS)
            told.update([event.outcome.choice["rows"]] if isinstance(event, Told) else [])
    assert told == once(*range(2, 26))
    assert most == 2  # builders do work side by side
    assert all(not builds or not measures for builds, measures in both)


def test_building_and_measuring_go_on_side_by_side_elsewhere() -> None:
    met = threading.Barrier(2, timeout=SECONDS)
    built: list[int] = []

    def work() -> None:
        built.append(1)
        if len(built) == 2:
            met.wait()

    board = Board(before=lambda _, choice: choice["rows"] == 2 and met.wait())  # type: ignore[arg-type,return-value]
    with opened([board], Hands(1, work)) as pipeline:
        pipeline.submit(batch(2))
        while pipeline.building:
            pipeline.wait(0.01)
        assert pipeline.room == 2
        pipeline.submit(batch(3, name="b"))
        assert finish(pipeline)[0] == once(2, 3)


def test_closing_ends_what_is_measured() -> None:
    begun = threading.Event()

    def hang(board: Board, choice: Choice) -> None:
        begun.set()
        board.closed.wait(SECONDS)

    board, builders = Board(before=hang), Ready()
    with opened([board], builders, patience=SECONDS) as pipeline:
        pipeline.submit(batch(2, 3))
        pipeline.wait(0.0)
        assert begun.wait(SECONDS)
        assert pipeline.measuring == 1
    assert builders.closed
    assert board.closed.is_set()
    pipeline.close()


def test_closing_does_not_wait_for_a_device_that_is_away() -> None:
    def lose(board: Board, choice: Choice) -> None:
        raise DeviceLost("unplugged.")

    board = Board(before=lose, away=float("inf"))
    with opened([board], patience=3600.0) as pipeline:
        pipeline.submit(batch(2, 3))
        assert pipeline.wait(0.05) is None
        assert board.asked


def test_a_session_that_opens_too_late_is_closed() -> None:
    """Connecting takes its time, in which the run may end."""
    asked, ended = threading.Event(), threading.Event()
    closed: list[bool] = []

    class Late:
        kind = "rpc"

        def close(self) -> None:
            closed.append(True)

    def connect() -> Any:
        asked.set()
        assert ended.wait(SECONDS)
        return Late()

    measurer = Measurer(connect, threads=1)
    with Pipeline(cast("Builders", Ready()), [measurer], patience=0.0) as pipeline:
        pipeline.submit(batch(2))
        pipeline.wait(0.0)
        assert asked.wait(SECONDS)
        measurer.close()
        ended.set()
    assert wait_until(lambda: closed)
    assert closed == [True]


def run(
    boards: Sequence[Board],
    path: Path,
    builders: Any = None,
    tick: Callable[[Tuner], None] = lambda _: None,
    tasks: Sequence[Task] = (),
    **options: Any,
) -> tuple[Tuner, list[Trial]]:
    """A tuner's run; what it was told."""
    trials: list[Trial] = []
    budget = Budget(rest=0.0, trials=options.pop("trials", None))
    with LogWriter(path) as log:
        tuner = Tuner(
            tasks or [make_task(space=SMALL)],
            cast("list[Measurer]", boards),
            cast("Builders", builders or Ready(len(boards))),
            log,
            budget=budget,
            patience=0.0,
            report=trials.append,
            **options,
        )
        tuner.run(tick)
    return tuner, trials


def doubles(path: Path) -> list[Any]:
    """Choices with more than one record."""
    found = [(r.workload, choice_key(r.choice)) for r in read_records(path) if isinstance(r, KernelRecord)]
    return [key for key, count in Counter(found).items() if count > 1]


def test_devices_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    other = Board()
    other.device = DeviceInfo(kind="rpc", cpu="Cortex-A53", cores=4, system="linux")
    with pytest.raises(UserError, match="not alike: Cortex-A72 with 4 cores, Cortex-A53 with 4") as caught:
        run([Board(), other], tmp_path / "log.jsonl")
    assert "a key of its own" in str(caught.value.advice)
    assert list(read_records(tmp_path / "log.jsonl")) == []


@pytest.mark.parametrize("error", [ToolchainError("no compiler."), EnvironmentFailure("no workers.")])
def test_what_builders_die_of_reaches_the_run(tmp_path: Path, error: Exception) -> None:
    class Failing(Ready):
        def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
            future: Future[Built] = Future()
            future.set_exception(error)
            return future

    builders = Failing()
    with pytest.raises(type(error), match=str(error)):
        run([Board()], tmp_path / "log.jsonl", builders)
    assert builders.closed


def test_what_breaks_in_a_devices_thread_reaches_the_run(tmp_path: Path) -> None:
    def break_(board: Board, choice: Choice) -> None:
        raise ZeroDivisionError("nobody thought of this")

    with pytest.raises(ZeroDivisionError, match="nobody thought of this"):
        run([Board(before=break_), Board()], tmp_path / "log.jsonl")


def test_ctrl_c_passes_through_and_keeps_what_is_known(tmp_path: Path) -> None:
    path, boards, builders = tmp_path / "log.jsonl", [Board(), Board()], Ready(2)

    def interrupt(tuner: Tuner) -> None:
        if tuner.trials == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(boards, path, builders, interrupt, batch=2)
    assert len(list(read_records(path))) == 3
    assert builders.closed
    assert all(board.closed.is_set() for board in boards)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_several_devices_find_what_one_finds(tmp_path: Path, count: int) -> None:
    tasks = [make_task(name, SMALL) for name in "abc"]
    tuner, trials = run([Board() for _ in range(count)], tmp_path / "log.jsonl", tasks=tasks, batch=2)
    assert tuner.trials == sum(task.space.size for task in tasks) == 18
    assert {entry.best["rows"] for entry in tuner.entries} == {3}
    assert len(trials) == len(list(read_records(tmp_path / "log.jsonl")))


def test_a_default_that_two_devices_measure_at_the_same_time_counts_once(tmp_path: Path) -> None:
    """Neither knows the other's yet."""
    met = threading.Barrier(2, timeout=SECONDS)
    boards = [Board(before=lambda board, _: board.told or met.wait()) for _ in range(2)]  # type: ignore[arg-type]
    tuner, trials = run(boards, tmp_path / "log.jsonl", batch=2, trials=4)
    assert tuner.trials == len(trials) == 4
    assert doubles(tmp_path / "log.jsonl") == []


def test_a_default_is_measured_once_though_a_batch_became_two_libraries(tmp_path: Path) -> None:
    tuner, trials = run([Board()], tmp_path / "log.jsonl", Halves(size=2), batch=6)
    assert tuner.trials == len(trials) == 6
    assert doubles(tmp_path / "log.jsonl") == []


def test_a_default_that_a_lost_device_has_measured_is_not_measured_again(tmp_path: Path) -> None:
    def lose(board: Board, choice: Choice) -> None:
        if len(board.told) == 3:
            raise DeviceLost("unplugged.")

    tuner, trials = run([Board(before=lose, away=1000), Board()], tmp_path / "log.jsonl", batch=6)
    assert tuner.trials == len(trials) == 6
    assert doubles(tmp_path / "log.jsonl") == []


def test_choices_that_do_not_build_are_faults_and_end_their_batch() -> None:
    with opened([Board()], Halves(bad=rows(2, 3))) as pipeline:
        one = batch(2, 3)
        pipeline.submit(one)
        events = [pipeline.wait(SECONDS) for _ in range(3)]
        assert [event.outcome for event in events[:2] if isinstance(event, Told)] == [
            Fault(choice, "build", "no") for choice in rows(2, 3)
        ]
        assert events[2] == Ended(one)
        assert not pipeline.busy
