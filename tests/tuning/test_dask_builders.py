"""A Dask cluster builds what one process builds.

Scheduler and workers are real processes, as the ``dask`` program starts them.
"""

from __future__ import annotations

import logging
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from edgevit.errors import EnvironmentFailure, ToolchainError, UserError
from edgevit.targets import get_target
from edgevit.tuning.building import cluster_worker, dask_client
from edgevit.tuning.building.build import Builder, Limits
from edgevit.tuning.building.builders import open_builders
from edgevit.tuning.building.candidates import Compiled, Order
from edgevit.tuning.building.cluster import DaskBuilders
from tests.device.processes import MARK, free_port, listener, marked, wait_until
from tests.tuning import faulty_family as faulty
from tests.tuning import gated_family as gated
from tests.tuning.batches import functions, ways
from tests.tuning.dask_cluster import Place, dask_cluster, place

pytest.importorskip("distributed")

HOST = get_target("host")


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Three workers that no test harms."""
    yield from place(tmp_path_factory.mktemp("lasting"), 3)


def test_a_cluster_builds_what_one_process_builds(lasting: Place, capfd: pytest.CaptureFixture[str]) -> None:
    batches = [
        ways(faulty.SAME_CODE, faulty.OTHER_CODE),
        ways(faulty.OTHER_CODE, faulty.REFUSED, faulty.WRONG),
        ways(faulty.WRONG, faulty.HALF, faulty.KILLS_COMPILER, faulty.OTHER_CODE),
        ways(faulty.HALF),
        [],
    ]
    task = faulty.task(HOST)
    with Builder() as builder:
        alone = [functions(builder.build(task, batch)) for batch in batches]
    with open_builders(lasting.address.removeprefix("tcp://")) as builders:
        assert (builders.slots, builders.here) == (3, True)
        futures = [builders.submit(task, batch) for batch in batches]
        assert [functions(future.result()) for future in futures] == alone
        (library,), _ = futures[3].result()
        assert library.data.startswith(b"\x7fELF")
        assert library.forms[library.reference] == ((64, "float32"), (64, "float32"))
        (failure,) = futures[2].result()[1]
        assert failure.failure == "build"
        assert "compiler ended" in failure.detail
        assert {lasting.worker_of(process.pid).pid for process in lasting.compilers()} <= {
            worker.pid for worker in lasting.cluster.workers
        }
    assert wait_until(lambda: not lasting.compilers())
    assert all(worker.poll() is None for worker in lasting.cluster.workers)
    assert capfd.readouterr() == ("", "")


def test_a_choice_that_hangs_is_found(lasting: Place) -> None:
    with DaskBuilders(lasting.address, Limits(library_seconds=5, kernel_seconds=1)) as builders:
        future = builders.submit(faulty.task(HOST), ways(faulty.OTHER_CODE, faulty.COMPILES_FOREVER))
        (library,), (failure,) = future.result()
    assert (failure.choice, failure.failure) == ({"way": faulty.COMPILES_FOREVER}, "timeout")
    assert [choice["way"] for choice, _ in library.functions] == [faulty.OTHER_CODE]


def test_a_default_that_does_not_build_is_the_futures_error(lasting: Place) -> None:
    with open_builders(lasting.address) as builders:
        future = builders.submit(faulty.task(HOST, faulty.REFUSED), ways(faulty.OTHER_CODE))
        assert isinstance(future.exception(), ToolchainError)


def test_closing_ends_builds_on_the_workers(lasting: Place) -> None:
    level = logging.getLogger("distributed").level
    builders = open_builders(lasting.address)
    futures = [builders.submit(gated.task(HOST), ways(way)) for way in range(150, 156)]
    assert wait_until(lambda: len(gated.waiting(lasting.gate)) == 3, 60)
    builders.close()
    assert all(future.cancelled() for future in futures)
    assert wait_until(lambda: not lasting.compilers())
    builders.close()
    assert builders.submit(gated.task(HOST), ways(150)).cancelled()
    assert len(gated.waiting(lasting.gate)) == 3
    assert logging.getLogger("distributed").level == level
    with open_builders(lasting.address) as again:  # the workers are as they were
        assert functions(again.submit(faulty.task(HOST), ways(faulty.OTHER_CODE)).result())[1] == []


def test_a_cluster_without_workers(tmp_path: Path) -> None:
    with (
        dask_cluster(tmp_path / "cluster", 0, {}) as cluster,
        pytest.raises(EnvironmentFailure, match="has no workers") as caught,
    ):
        open_builders(cluster.address)
    assert f"dask worker {cluster.address}" in str(caught.value.advice)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(dask_client, "CONNECT_SECONDS", 2.0)
    with pytest.raises(EnvironmentFailure, match="no Dask scheduler answers"):
        open_builders(f"127.0.0.1:{free_port()}")
    with listener(b"") as port, pytest.raises(EnvironmentFailure, match="no Dask scheduler answers"):
        open_builders(f"127.0.0.1:{port}")
    with pytest.raises(EnvironmentFailure, match="no Dask scheduler answers"):
        open_builders(f"tls://127.0.0.1:{free_port()}")  # without certificates
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["edgevit", "TVM", "Python"])
def test_workers_of_another_installation(lasting: Place, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    theirs = cluster_worker.describe()
    assert all("unknown" not in text for text in theirs.values())
    monkeypatch.setattr(cluster_worker, "describe", pretending({**theirs, name: "9.9"}))
    with pytest.raises(EnvironmentFailure, match=f"another installation: {name} .* there, 9.9 here"):
        open_builders(lasting.address)


def test_machines_without_edgevit_are_named(tmp_path: Path) -> None:
    (tmp_path / "edgevit").mkdir()
    (tmp_path / "edgevit" / "__init__.py").touch()  # hides the real one
    without = {"PYTHONPATH": str(tmp_path)}
    with dask_cluster(tmp_path / "one", 0, {}) as cluster:
        cluster.add_worker(without)
        cluster.wait_for(1)
        with pytest.raises(EnvironmentFailure, match="a worker of the cluster cannot import this edgevit") as caught:
            open_builders(cluster.address)
    assert caught.value.where is not None
    assert caught.value.where.startswith("tcp://127.0.0.1:")
    assert caught.value.where != cluster.address
    with (
        dask_cluster(tmp_path / "two", 0, without) as cluster,
        pytest.raises(EnvironmentFailure, match="the scheduler of the cluster cannot import this edgevit"),
    ):
        open_builders(cluster.address)


def pretending(facts: dict[str, str]) -> Callable[[], dict[str, str]]:
    def describe() -> dict[str, str]:
        return facts

    describe.__module__, describe.__qualname__ = cluster_worker.__name__, "describe"
    return describe


def test_a_worker_that_joins_is_checked(lasting: Place) -> None:
    with pytest.raises(EnvironmentFailure, match="joined the cluster is another installation: TVM"):
        cluster_worker.compile_for("nobody", {**cluster_worker.describe(), "TVM": "9.9"}, b"", 1.0)


def test_compilers_of_a_client_that_vanished_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_worker, "IDLE_SECONDS", 0.5)
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    ours = cluster_worker.describe()
    order = pickle.dumps(Order(faulty.__name__, faulty.Workload(64), HOST, ({"way": faulty.RIGHT},)))
    assert isinstance(cluster_worker.compile_for(mark, ours, order, 60.0), Compiled)
    assert wait_until(lambda: not marked(mark))
    assert isinstance(cluster_worker.compile_for(mark, ours, order, 60.0), Compiled)  # it was only slow
    cluster_worker.end_client(mark)
    assert marked(mark) == []
    with pytest.raises(CancelledError):
        cluster_worker.compile_for(mark, ours, order, 60.0)


def test_dask_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="needs Dask") as caught:
        open_builders("tcp://127.0.0.1:8786")
    assert "pip install 'edgevit[cluster]'" in str(caught.value.advice)
