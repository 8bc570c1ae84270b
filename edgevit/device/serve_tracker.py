"""TVM's tracker in this very process, in the foreground.

``tvm.exec.rpc_tracker`` runs it in a worker process. When that program is killed the worker stays, keeps the
port and makes the next start fail. Here nothing can be left behind.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from edgevit.device.stock_server import bind
from edgevit.errors import DeviceError


def run_tracker(host: str, port: int, on_listening: Callable[[int], None]) -> None:
    """Serve until interrupted.

    Args:
        host: address to listen on.
        port: TCP port; 0 lets the system choose.
        on_listening: told the port.

    Raises:
        DeviceError: the port is taken, or ``host`` is no address of this machine.
    """
    try:
        listener = bind(host, port, None)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        advice = "Choose another --port; 'edgevit devices doctor' says who has the default one."
        raise DeviceError(
            f"cannot listen: {error.strerror or error}.",
            where=f"{host}:{port}",
            advice=advice if taken else "Choose an address of this machine with --host.",
        ) from error
    with listener:
        from tvm.rpc import base
        from tvm.rpc.tracker import _tracker_server

        on_listening(listener.getsockname()[1])
        _tracker_server(listener, base.random_key("tracker"))
