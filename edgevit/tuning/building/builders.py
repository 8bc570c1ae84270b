"""Where candidates are built: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from edgevit.errors import UserError
from edgevit.tuning.building.build import Builder, Limits
from edgevit.tuning.building.build import Built as Built
from edgevit.tuning.building.build_pool import BuildPool
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

_ADDRESS = re.compile(r"(?:(?:tcp|tls)://)?(?:[\w.-]+|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):(\d{1,5})", re.ASCII)


class Builders(Protocol):
    """Where batches of candidates are built.

    Attributes:
        slots: batches that are built at the same time.
        here: whether building takes this machine's processor.
    """

    slots: int
    here: bool

    def submit(self, task: Task, choices: Sequence[Choice]) -> Future[Built]:
        """What will become of a batch; it never raises: failures are the future's."""
        ...

    def close(self) -> None:
        """End every process that it started, also in the middle of builds; safe to call twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LocalBuilders(BuildPool):
    """Builds in processes of this machine.

    Args:
        count: of processes; each starts when it is needed.
        limits: of the time that building may take.
    """

    def __init__(self, count: int, limits: Limits | None = None) -> None:
        limits = limits or Limits()
        sound: set[str] = set()
        builders = [
            Builder(library_seconds=limits.library_seconds, kernel_seconds=limits.kernel_seconds, sound=sound)
            for _ in range(count)
        ]
        super().__init__(builders, here=True)


def open_builders(workers: str | int | None) -> Builders:
    """Open what ``--workers`` names.

    A Dask scheduler runs whatever it is sent, on all its workers, and what it answers is unpickled here: whoever
    reaches a scheduler runs code on its machines and on those of its clients. Name only schedulers that you trust, on
    a network that you trust, or use TLS.

    Args:
        workers: how many processes of this machine (None: one), or the address of a Dask scheduler: ``tcp://HOST:PORT``,
            ``tls://HOST:PORT`` or ``HOST:PORT``.

    Raises:
        UserError: it is neither, or a cluster is named and Dask is not installed.
        EnvironmentFailure: the scheduler does not answer, has no workers, or a machine of the cluster lacks edgevit or
            has another version of it, of TVM or of Python.
    """
    text = str(1 if workers is None else workers).strip()
    if re.fullmatch(r"\d{1,4}", text, re.ASCII) and int(text) > 0:
        return LocalBuilders(int(text))
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[1]) < 1 << 16:
        raise UserError(
            f"{text!r} names no workers.",
            where="--workers",
            advice="Give a number of processes, or the address of a Dask scheduler such as tcp://HOST:8786.",
        )
    from edgevit.tuning.building.cluster import DaskBuilders

    return DaskBuilders(text if "://" in text else f"tcp://{text}")
