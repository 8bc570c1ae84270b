"""A Dask scheduler and workers, each a process as the ``dask`` program starts it, without a nanny."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil

from tests.device.processes import MARK, kill_tree, marked, wait_until
from tests.tuning import gated_family as gated

ROOT = Path(__file__).parents[2]


class DaskCluster:
    """What runs: a context manager that ends it.

    Attributes:
        address: of the scheduler.
        scheduler: its process.
        workers: their processes.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "DASK_CONFIG": str(folder),  # not the user's
            "DASK_TEMPORARY_DIRECTORY": str(folder),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
            **environment,
        }
        self._stack = ExitStack()
        self._file = folder / "scheduler.json"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(self._file)
        )
        assert wait_until(lambda: self._file.exists() and self._file.read_text().endswith("}"), 30), self.log()
        self.address: str = json.loads(self._file.read_text())["address"]

    def add_worker(self, environment: Mapping[str, str] | None = None) -> None:
        """Start a worker; it may take a moment to join."""
        local = ("--host", "127.0.0.1", "--local-directory", str(self._folder), "--memory-limit", "0")
        options = ("--no-nanny", "--nthreads", "1", *local)
        self.workers.append(self._start("worker", self.address, *options, environment=environment or {}))

    def wait_for(self, count: int) -> None:
        """Wait until that many workers have joined."""
        assert wait_until(lambda: self.log().count("Registered to") >= count, 30), self.log()

    def log(self) -> str:
        """What all have said."""
        return (self._folder / "log").read_text()

    def close(self) -> None:
        """End all."""
        self._stack.close()

    def _start(self, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})) -> subprocess.Popen[bytes]:
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env={**self._environment, **environment},
            )
        self._stack.callback(kill_tree, process)
        return process


@contextmanager
def dask_cluster(folder: Path, workers: int, environment: Mapping[str, str]) -> Iterator[DaskCluster]:
    """A scheduler and that many workers, which have joined."""
    folder.mkdir(exist_ok=True)
    cluster = DaskCluster(folder, environment)
    try:
        for _ in range(workers):
            cluster.add_worker()
        cluster.wait_for(workers)
        yield cluster
    finally:
        cluster.close()


@dataclass
class Place:
    """A cluster, the folder where its compilers wait for a gate, and a mark on all its processes."""

    cluster: DaskCluster
    gate: Path
    mark: str

    @property
    def address(self) -> str:
        return self.cluster.address

    def compilers(self) -> list[psutil.Process]:
        return marked(self.mark, containing="build_process")

    def worker_of(self, pid: int) -> psutil.Process:
        """The Dask worker whose compiler that is."""
        workers = {worker.pid for worker in self.cluster.workers}
        return next(parent for parent in psutil.Process(pid).parents() if parent.pid in workers)


def place(folder: Path, workers: int) -> Iterator[Place]:
    """A place with that many workers, for a fixture; afterwards nothing is left of it."""
    mark, gate = uuid.uuid4().hex, folder / "gate"
    gate.mkdir()
    with dask_cluster(folder / "cluster", workers, {MARK: mark, gated.FOLDER: str(gate)}) as cluster:
        yield Place(cluster, gate, mark)
    assert wait_until(lambda: not marked(mark)), [process.cmdline() for process in marked(mark)]
