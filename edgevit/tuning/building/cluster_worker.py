"""What runs on the workers of a Dask cluster: each compiles in processes of its own.

A compiler that crashes or hangs therefore takes no worker with it, and ends when its worker does. It is kept between
orders, and ended when its client says so or has sent nothing for a while.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgevit.errors import EnvironmentFailure
from edgevit.tuning.building.compiler import Asked, Compiler

IDLE_SECONDS = 300.0
"""How long compilers outlive the last order of a client that vanished."""

SAME_EVERYWHERE = "Install the same edgevit on every machine of the cluster, and start its workers again."
"""What to do about machines that differ."""

_SOURCES = (
    "compiler/**/*.py",
    "link.py",
    "target_schema.py",
    "tuning/building/build_process.py",
    "tuning/building/candidates.py",
    "tuning/building/cluster_worker.py",
)
_COMPARED = ("edgevit", "TVM", "Python")

_clients: dict[str, _Compilers] = {}
_lock = threading.Lock()


def describe() -> dict[str, str]:
    """What decides the code that this process generates, and the name of its machine."""
    major, minor, _ = platform.python_version_tuple()
    return {
        "edgevit": f"{_version('edgevit')} (sources {_sources()})",
        "TVM": _version("apache-tvm"),
        "Python": f"{major}.{minor}",
        "machine": platform.node(),
    }


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """How two machines differ in what must be the same; empty if they do not."""
    return "; ".join(
        f"{name} {theirs.get(name)} there, {ours[name]} here" for name in _COMPARED if theirs.get(name) != ours[name]
    )


def compile_for(client: str, ours: Mapping[str, str], order: bytes, limit: float) -> Asked:
    """What becomes of a pickled order within ``limit`` seconds, in a process of this worker.

    Args:
        client: who orders.
        ours: what :func:`describe` says there.
        order: pickled, so that only the process that compiles it imports what it is about.
        limit: time limit in seconds.

    Raises:
        EnvironmentFailure: this worker is not like its client, or cannot start a process.
        CancelledError: the client has gone.
    """
    with _lock:
        compilers = _clients.get(client)
    if compilers is None:
        found = differences(describe(), ours)
        if found:  # workers may join a cluster at any time
            raise EnvironmentFailure(
                f"a worker that joined the cluster is another installation: {found}.",
                where=platform.node(),
                advice=SAME_EVERYWHERE,
            )
        with _lock:
            compilers = _clients.setdefault(client, _Compilers())
    try:
        return compilers.ask(order, limit)
    except OSError as error:
        raise EnvironmentFailure(
            f"a worker of the cluster cannot start a compiler: {error}.",
            where=platform.node(),
            advice="Give that machine what it lacks, or take its workers out of the cluster.",
        ) from error


def end_client(client: str) -> None:
    """End the compilers of a client, also in the middle of an order; what it ordered and is not begun never begins."""
    with _lock:
        compilers = _clients.setdefault(client, _Compilers())
    compilers.end()


class _Compilers:
    """Compilers that serve one client: as many as this worker serves at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Compiler] = []
        self._busy: set[Compiler] = set()
        self._ended = False
        self._timer: threading.Timer | None = None

    def ask(self, order: bytes, limit: float) -> Asked:
        compiler = self._take()
        try:
            return compiler.ask(order, limit)
        finally:
            self._give_back(compiler)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for compiler in self._busy:
                compiler.interrupt()
        self._close_idle()

    def _take(self) -> Compiler:
        with self._lock:
            if self._ended:
                raise CancelledError
            self._set_timer(None)
            compiler = self._idle.pop() if self._idle else Compiler()
            self._busy.add(compiler)
            return compiler

    def _give_back(self, compiler: Compiler) -> None:
        with self._lock:
            self._busy.discard(compiler)
            if not self._ended:
                self._idle.append(compiler)
                self._set_timer(threading.Timer(IDLE_SECONDS, self._close_idle))
                return
        compiler.close()

    def _close_idle(self) -> None:
        with self._lock:
            self._set_timer(None)
            idle, self._idle = self._idle, []
        for compiler in idle:
            compiler.close()

    def _set_timer(self, timer: threading.Timer | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer
        if timer is not None:
            timer.daemon = True
            timer.start()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(unknown)"


def _sources() -> str:
    """Digest of the modules that write kernels: two checkouts of the same version may differ in them."""
    folder = Path(__file__).parents[2]
    paths = [path for pattern in _SOURCES for path in folder.glob(pattern)]
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in paths):
        digest.update(f"{name}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]
