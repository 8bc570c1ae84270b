"""Registration with TVM's tracker, also when the tracker goes away and comes back."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.runtime.conftest import Launch
from tests.runtime.server_process import PATIENCE, wait_until

TRACKER = """
import sys
from tvm.rpc.tracker import Tracker
port = int(sys.argv[1])
tracker = Tracker("127.0.0.1", port, port + 1, silent=True)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def tracker(port: int) -> Iterator[None]:
    """TVM's tracker; at the end it and its worker are killed, as by a power cut."""
    process = subprocess.Popen(
        [sys.executable, "-c", TRACKER, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield
    finally:
        children = psutil.Process(process.pid).children(recursive=True)
        for one in (*children, psutil.Process(process.pid)):
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()
        psutil.wait_procs(children, PATIENCE)
        process.stdin.close()
        process.stdout.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def request(port: int, key: str) -> Any:
    from tvm import rpc

    return rpc.connect_tracker("127.0.0.1", port).request(key, session_timeout=100)


def offers(port: int, key: str) -> int:
    """How many devices the tracker can hand out now."""
    from tvm import rpc

    queues = rpc.connect_tracker("127.0.0.1", port).summary()["queue_info"]
    return int(queues.get(key, {}).get("free", 0))


def test_clients_find_the_device_through_the_tracker(launch: Launch) -> None:
    port = free_port()
    with tracker(port):
        server = launch("--tracker", f"127.0.0.1:{port}", "--key", "board")
        server.wait_for("tracker_connected")
        for _ in range(3):
            session = request(port, "board")
            session.upload(bytearray(b"x"), "file")
            assert offers(port, "board") == 0
            del session
            wait_until(lambda: offers(port, "board") == 1, "the device to be offered again")
        # Without the tracker's match key nobody gets in.
        with pytest.raises(RuntimeError, match="cannot find server that matches key"):
            server.connect("board")


def test_an_unused_key_is_offered_again(launch: Launch) -> None:
    from tvm.rpc import base

    port = free_port()
    with tracker(port):
        launch("--tracker", f"127.0.0.1:{port}", "--key", "board").wait_for("tracker_connected")
        wait_until(lambda: offers(port, "board") == 1, "the offer")
        # A client that takes the device and dies before it connects.
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(base.RPC_TRACKER_MAGIC.to_bytes(4, "little"))
            base.recvall(client, 4)
            base.sendjson(client, [base.TrackerCode.REQUEST, "board", "", 1])
            assert base.recvjson(client)[0] == base.TrackerCode.SUCCESS
        wait_until(lambda: offers(port, "board") == 1, "a new offer")
        request(port, "board").upload(bytearray(b"x"), "file")


def test_the_server_comes_back_to_a_restarted_tracker(launch: Launch) -> None:
    port = free_port()
    server = launch("--tracker", f"127.0.0.1:{port}", "--key", "board")
    server.wait_for("tracker_lost")
    for number in (1, 2):
        with tracker(port):
            server.wait_for("tracker_connected", number)
            session = request(port, "board")
            session.upload(bytearray(b"x"), "file")
            del session
            wait_until(lambda: offers(port, "board") == 1, "the next offer")
        server.wait_for("tracker_lost", number + 1)


def test_a_session_outlives_its_tracker(launch: Launch) -> None:
    port = free_port()
    server = launch("--tracker", f"127.0.0.1:{port}", "--key", "board")
    with tracker(port):
        server.wait_for("tracker_connected")
        session = request(port, "board")
        session.upload(bytearray(b"x"), "file")
    server.wait_for("tracker_lost", 2)
    assert bytes(session.download("file")) == b"x"
    with tracker(port):
        server.wait_for("tracker_connected", 2)
        # It is taken, and says so by offering nothing.
        assert offers(port, "board") == 0
        del session
        wait_until(lambda: offers(port, "board") == 1, "the offer")


def test_waiting_for_a_tracker_costs_nothing(launch: Launch) -> None:
    server = launch("--tracker", f"127.0.0.1:{free_port()}", "--key", "board")
    server.wait_for("tracker_lost")
    process = psutil.Process(server.process.pid)
    before = process.cpu_times()
    with pytest.raises(subprocess.TimeoutExpired):
        server.process.wait(3)
    after = process.cpu_times()
    assert (after.user + after.system) - (before.user + before.system) < 0.5
    assert len(server.log("tracker_lost")) == 1
