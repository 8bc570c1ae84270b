"""Workers of a Dask cluster die while they build, and the scheduler goes: nothing is lost, or an error says what is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edgevit.errors import EnvironmentFailure
from edgevit.targets import get_target
from edgevit.tuning.building.builders import open_builders
from edgevit.tuning.building.cluster import DaskBuilders
from tests.device.processes import wait_until
from tests.tuning import faulty_family as faulty
from tests.tuning import gated_family as gated
from tests.tuning.batches import functions, ways
from tests.tuning.dask_cluster import Place, place

pytest.importorskip("distributed")

HOST = get_target("host")


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Place]:
    """Three workers to kill."""
    yield from place(tmp_path, 3)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Place]:
    """One worker to kill."""
    yield from place(tmp_path, 1)


def test_a_worker_killed_while_it_builds_loses_nothing(three: Place) -> None:
    batches = [ways(way, faulty.SAME_CODE) for way in range(100, 108)]
    with open_builders(three.address) as builders:
        futures = [builders.submit(gated.task(HOST), batch) for batch in batches]
        assert wait_until(lambda: len(gated.waiting(three.gate)) == 3, 60)
        (compiler,) = gated.compilers(three.gate, 100)
        three.worker_of(compiler).kill()
        assert wait_until(lambda: not psutil.pid_exists(compiler))  # a compiler does not outlive its worker
        gated.open_gate(three.gate)
        built = [functions(future.result(timeout=120)) for future in futures]
    assert [[list(names) for names in libraries] for libraries, _ in built] == [
        [[choice["way"] for choice in batch]] for batch in batches
    ]
    assert all(failed == [] for _, failed in built)
    begun = [len(gated.compilers(three.gate, way)) for way in range(100, 108)]
    assert begun == [2, 1, 1, 1, 1, 1, 1, 1]
    assert wait_until(lambda: not three.compilers())


def test_a_choice_that_kills_workers_is_a_failure(three: Place) -> None:
    """This cluster lets an order kill two workers and no more."""
    with open_builders(three.address) as builders:
        future = builders.submit(gated.task(HOST), ways(100))
        killed: set[int] = set()

        def kill_next() -> bool:
            for pid in gated.compilers(three.gate, 100):
                if pid not in killed and psutil.pid_exists(pid):
                    killed.add(pid)
                    three.worker_of(pid).kill()
                    return True
            return False

        assert wait_until(kill_next, 60)
        assert wait_until(kill_next, 60)
        libraries, (failure,) = future.result(timeout=60)
    assert libraries == []
    assert (failure.choice, failure.failure) == ({"way": 100}, "build")
    assert "workers that compiled it ended" in failure.detail


def test_workers_that_stay_away_are_an_error(one: Place) -> None:
    with DaskBuilders(one.address, patience=1) as builders:
        future = builders.submit(gated.task(HOST), ways(100))
        assert wait_until(lambda: gated.waiting(one.gate), 60)
        one.cluster.workers[0].kill()
        error = future.exception(timeout=60)
        assert isinstance(error, EnvironmentFailure)
        assert "has no workers, for 1 s now" in error.message
        assert error.where == one.address


def test_a_worker_that_comes_late_goes_on(one: Place) -> None:
    with open_builders(one.address) as builders:
        future = builders.submit(gated.task(HOST), ways(100))
        assert wait_until(lambda: gated.waiting(one.gate), 60)
        one.cluster.workers[0].kill()
        gated.open_gate(one.gate)
        one.cluster.add_worker()
        assert functions(future.result(timeout=60))[1] == []


def test_a_scheduler_that_goes_is_an_error(one: Place) -> None:
    with open_builders(one.address) as builders:
        future = builders.submit(gated.task(HOST), ways(100))
        assert wait_until(lambda: gated.waiting(one.gate), 60)
        one.cluster.scheduler.kill()
        error = future.exception(timeout=60)
        assert isinstance(error, EnvironmentFailure)
        assert error.message == "the connection to the Dask scheduler is lost."
