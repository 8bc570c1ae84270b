"""Which process of this machine listens on a port."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_WORKER = "tvm.exec.popen_worker"


@dataclass(frozen=True)
class Listener:
    """A listening process.

    Attributes:
        pid: process id.
        name: its program's name.
        orphan: a worker of TVM's tracker or server whose owner is gone. It keeps the port, may even go on
            answering, and makes the next start fail.
    """

    pid: int
    name: str
    orphan: bool


def find_listener(port: int) -> Listener | None:
    """The process that listens on ``port``; None if there is none or the system does not tell."""
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):  # other users' processes, and on macOS everybody's, are root's to see
        return None
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
        if listens and connection.pid:
            try:
                return _describe(psutil.Process(connection.pid))
            except psutil.Error:
                return None
    return None


def _describe(process: Any) -> Listener:
    orphan = _WORKER in process.cmdline() and not _has_owner(process)
    return Listener(process.pid, process.name(), orphan)


def _has_owner(worker: Any) -> bool:
    # A worker without its owner is adopted by init, or by a session manager that took over init's part.
    owner = worker.parent()
    return owner is not None and any("python" in word.lower() for word in owner.cmdline()[:1])
