"""Build candidates on an existing Dask cluster.

Nothing is installed on it and nothing outlives the run. A Dask scheduler is remote code execution for whoever reaches
it, and what it answers is unpickled here: it must be trusted. Only the scheduler is connected to, never a worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from concurrent.futures import CancelledError
from typing import Any, cast

from edgevit.errors import EdgevitError, EnvironmentFailure
from edgevit.tuning.building import cluster_worker
from edgevit.tuning.building.build import BatchBuilder, Limits
from edgevit.tuning.building.build_pool import BuildPool
from edgevit.tuning.building.candidates import said
from edgevit.tuning.building.compiler import Asked
from edgevit.tuning.building.dask_client import (
    CONNECT_SECONDS,
    END_SECONDS,
    check_workers,
    connect,
    quiet,
    within,
)

PATIENCE_SECONDS = 60.0
"""How long a run waits for workers once all have gone."""

_LOOK_SECONDS = 2.0
_FETCH_SECONDS = 60.0


class DaskBuilders(BuildPool):
    """Builds on the workers of a Dask cluster, as many batches at the same time as they have threads.

    A worker that dies gives its orders to others. A choice that kills more workers than the scheduler allows
    (``distributed.scheduler.allowed-failures``) is a failure of that choice.

    Args:
        address: of the scheduler, which must be trusted: see the module.
        limits: of the time that building may take, on the worker; waiting for a worker does not count.
        patience: seconds that a run waits for workers once all have gone.

    Raises:
        UserError: Dask is not installed.
        EnvironmentFailure: the scheduler does not answer, has no workers, or a machine of the cluster lacks edgevit or
            has another version of it, of TVM or of Python.
    """

    def __init__(self, address: str, limits: Limits | None = None, patience: float = PATIENCE_SECONDS) -> None:
        self._cluster = _Cluster(address, patience)
        workers = self._cluster.workers
        sound: set[str] = set()
        builders = [_ClusterBuilder(self._cluster, limits or Limits(), sound) for _ in range(workers.threads)]
        super().__init__(builders, here=workers.here)

    def close(self) -> None:
        """Cancel what is not built, end the compilers on the workers, and leave the cluster; safe to call twice."""
        super().close()
        self._cluster.close()


class _Wait:
    """An order that a thread waits for: there is reason to look when it is done, and when nobody wants it any more."""

    def __init__(self) -> None:
        self.reason = threading.Event()
        self.interrupted = False

    def interrupt(self) -> None:
        self.interrupted = True
        self.reason.set()


class _ClusterBuilder(BatchBuilder):
    """Builds one batch at a time on whatever worker is free."""

    def __init__(self, cluster: _Cluster, limits: Limits, sound: set[str]) -> None:
        super().__init__(self._compile, limits, sound)
        self._cluster = cluster
        self._wait = _Wait()

    def interrupt(self) -> None:
        self._wait.interrupt()

    def close(self) -> None:
        """Nothing is its own."""

    def _compile(self, order: bytes, limit: float) -> Asked:
        return self._cluster.compile(order, limit, self._wait)


class _Cluster:
    """A client of the scheduler.

    Attributes:
        workers: as they were at first.
    """

    def __init__(self, address: str, patience: float) -> None:
        self._address = address
        self._patience = patience
        self._name = uuid.uuid4().hex
        self._ours = cluster_worker.describe()
        self._closed = False
        with contextlib.ExitStack() as stack:
            stack.enter_context(quiet())
            self._client = connect(address)
            stack.callback(self._leave)
            self.workers = check_workers(self._client, address, self._ours)
            self._stack = stack.pop_all()
        self._lock = threading.Lock()
        self._looked = time.monotonic()
        self._state = ""
        self._gone: float | None = None

    def compile(self, order: bytes, limit: float, wait: _Wait) -> Asked:
        """What becomes of a pickled order within ``limit`` seconds of a worker's time.

        Raises:
            EnvironmentFailure: the scheduler or all workers have gone, or a worker is unfit.
            CancelledError: it was interrupted.
        """
        reason = wait.reason = threading.Event()
        if wait.interrupted:
            raise CancelledError
        future = self._submit(order, limit)
        try:
            future.add_done_callback(lambda _: reason.set())
            while not wait.interrupted:
                if reason.wait(_LOOK_SECONDS) and not wait.interrupted:
                    with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                        return self._result(future)
                    # Its worker died before the answer was fetched: another one builds it again.
                    reason.clear()
                    future.add_done_callback(lambda _: reason.set())
                self._look()
            raise CancelledError
        finally:
            future.release()

    def close(self) -> None:
        """End what runs on the workers and leave."""
        if self._closed:
            return
        self._closed = True
        if self._client.status == "running":
            with contextlib.suppress(Exception):  # those that cannot be reached end what is idle by themselves
                within(
                    self._client,
                    END_SECONDS,
                    lambda: self._client.run(cluster_worker.end_client, self._name, on_error="ignore"),
                )
        self._stack.close()

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._client.close(timeout=END_SECONDS)

    def _submit(self, order: bytes, limit: float) -> Any:
        try:
            return self._client.submit(
                cluster_worker.compile_for, self._name, self._ours, order, limit, pure=False, retries=1
            )
        except Exception as error:
            raise self._lost() from error

    def _result(self, future: Any) -> Asked:
        """The answer to an order that is done.

        Raises:
            TimeoutError: or asyncio's: it is not there after all.
        """
        import distributed

        try:
            return cast("Asked", future.result(timeout=_FETCH_SECONDS))
        except distributed.KilledWorker:
            return "build", "the Dask workers that compiled it ended"
        except CancelledError as error:
            raise self._lost() from error
        except (TimeoutError, asyncio.TimeoutError, EdgevitError):
            raise
        except Exception as error:
            raise EnvironmentFailure(
                f"a worker of the cluster cannot compile: {said(error)}.",
                where=self._address,
                advice=cluster_worker.SAME_EVERYWHERE,
            ) from error

    def _look(self) -> None:
        """See whether anybody is left to build; for all threads that wait, the first that comes.

        Raises:
            EnvironmentFailure: nobody has been for too long.
        """
        if self._client.status == "closed":
            raise self._lost()
        if self._lock.acquire(blocking=False):
            try:
                if time.monotonic() - self._looked >= _LOOK_SECONDS:
                    self._count()
            finally:
                self._lock.release()
        if self._gone is not None and time.monotonic() - self._gone > self._patience:
            raise EnvironmentFailure(
                f"the Dask scheduler {self._state}, for {self._patience:.0f} s now.",
                where=self._address,
                advice="Start workers and run the same command again: what is measured is kept.",
            )

    def _count(self) -> None:
        workers = {}
        try:
            workers = within(self._client, CONNECT_SECONDS, lambda: self._client.nthreads())
            self._state = "has no workers"
        except Exception:
            self._state = "does not answer"
        self._looked = time.monotonic()
        if workers:
            self._gone = None
        elif self._gone is None:
            self._gone = self._looked

    def _lost(self) -> EnvironmentFailure:
        return EnvironmentFailure(
            "the connection to the Dask scheduler is lost.",
            where=self._address,
            advice="Run the same command again once it is back: what is measured is kept.",
        )
