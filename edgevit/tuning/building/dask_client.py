"""Connect to a Dask scheduler, and see that its workers are fit to build for this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from edgevit.errors import EnvironmentFailure, UserError
from edgevit.tuning.building import cluster_worker
from edgevit.tuning.building.candidates import said

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""
CHECK_SECONDS = 30.0
"""How long all workers together may take to say what they are; they import edgevit for it."""
END_SECONDS = 5.0
"""How long leaving may take."""

_NOISY = ("distributed", "tornado", "asyncio")


@dataclass(frozen=True)
class Workers:
    """The workers of a cluster, all of them fit.

    Attributes:
        threads: orders that they serve at the same time.
        here: whether any is on this machine.
    """

    threads: int
    here: bool


def connect(address: str) -> Client:
    """A client of the scheduler; it opens no connection to workers.

    Raises:
        UserError: Dask is not installed.
        EnvironmentFailure: nobody answers, or no scheduler does.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError(
            f"building on a cluster needs Dask: {said(error)}.",
            where="--workers",
            advice="Install it with pip install 'edgevit[cluster]'.",
        ) from error
    try:
        if address.startswith("tcp:"):
            _greet(address)
        with warnings.catch_warnings():
            # Of other versions of what Dask needs; what edgevit needs is checked.
            warnings.filterwarnings("ignore", module=r"distributed\.")
            return Client(
                address, timeout=CONNECT_SECONDS, name="edgevit", set_as_default=False, direct_to_workers=False
            )
    except Exception as error:
        late = isinstance(error, TimeoutError | asyncio.TimeoutError)
        raise EnvironmentFailure(
            f"no Dask scheduler answers: {f'{CONNECT_SECONDS:.0f} s passed' if late else said(error)}.",
            where=address,
            advice="Start one with 'dask scheduler', and workers with 'dask worker ADDRESS'.",
        ) from error


def check_workers(client: Client, address: str, ours: Mapping[str, str]) -> Workers:
    """See that the scheduler and all its workers are like this machine.

    Args:
        client: of the scheduler.
        address: of the scheduler.
        ours: what this machine says of itself.

    Raises:
        EnvironmentFailure: one is not, or there are no workers.
    """
    try:
        scheduler = within(client, CHECK_SECONDS, lambda: _ask_scheduler(client))
        workers = within(client, CHECK_SECONDS, lambda: client.run(cluster_worker.describe, on_error="return"))
        threads = within(client, CHECK_SECONDS, lambda: client.nthreads())
    except Exception as error:
        raise EnvironmentFailure(
            f"the Dask scheduler does not say what workers it has: {said(error)}.", where=address
        ) from error
    _compare("the scheduler", address, scheduler, ours)  # it unpickles orders too
    for worker, theirs in sorted(workers.items()):
        _compare("a worker", worker, theirs, ours)
    slots = sum(int(threads.get(worker, 0)) for worker in workers)
    if not slots:
        raise EnvironmentFailure(
            "the Dask scheduler has no workers.", where=address, advice=f"Start some with 'dask worker {address}'."
        )
    return Workers(slots, any(theirs["machine"] == ours["machine"] for theirs in workers.values()))


def within(client: Client, seconds: float, call: Callable[[], Any]) -> Any:
    """What a method of the client returns; it runs in the client's loop, where such methods are awaited.

    Raises:
        TimeoutError: or asyncio's: it took longer.
        Exception: whatever Dask raises.
    """
    return client.sync(cast("Callable[[], Awaitable[Any]]", call), callback_timeout=seconds)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what Dask logs from the terminal: whatever matters is raised."""
    with contextlib.suppress(ImportError):
        import distributed  # noqa: F401 - it sets levels of its own when it is imported
    names = {name for name in logging.root.manager.loggerDict if name.split(".")[0] in _NOISY}
    levels = {name: logging.getLogger(name).level for name in {*names, *_NOISY}}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _greet(address: str) -> None:
    """Exchange greetings as Dask does, but with a time limit: Dask waits forever for one who accepts and is silent.

    Raises:
        Exception: nobody listens there, or something other than Dask.
    """
    from distributed.comm import connect as dial

    async def greet() -> None:
        connection = await dial(address, timeout=CONNECT_SECONDS)
        connection.abort()

    with ThreadPoolExecutor(1) as thread:  # this one may have a loop of its own
        thread.submit(lambda: asyncio.run(asyncio.wait_for(greet(), CONNECT_SECONDS + 1))).result()


async def _ask_scheduler(client: Client) -> dict[str, str] | Exception:
    """What the scheduler says of itself, or why it cannot."""
    try:
        return cast("dict[str, str]", await client.run_on_scheduler(cluster_worker.describe))
    except OSError:
        raise
    except Exception as error:
        return error


def _compare(who: str, where: str, theirs: Mapping[str, str] | Exception, ours: Mapping[str, str]) -> None:
    if isinstance(theirs, Exception):
        raise EnvironmentFailure(
            f"{who} of the cluster cannot import this edgevit: {said(theirs)}.",
            where=where,
            advice=cluster_worker.SAME_EVERYWHERE,
        )
    found = cluster_worker.differences(theirs, ours)
    if found:
        raise EnvironmentFailure(
            f"{who} of the cluster is another installation: {found}.",
            where=where,
            advice=cluster_worker.SAME_EVERYWHERE,
        )
