"""Whatever goes wrong with a device is a clear error of the right kind, soon, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.server
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edgevit.artifact import Artifact
from edgevit.device.connect import connect
from edgevit.device.session import LoadedModel
from edgevit.errors import (
    DeviceBusy,
    DeviceError,
    DeviceLost,
    DeviceMismatch,
    DeviceTimeout,
    DeviceUnreachable,
    EdgevitError,
)
from tests.device.conftest import open_session
from tests.device.processes import (
    free_port,
    later,
    listener,
    marked,
    own,
    send,
    stock,
    tracker_knows,
    wait_until,
    worker_of,
)
from tests.device.reference import LONG, assert_same, small_input

SOON = 30.0
"""Seconds: far over every limit set below, far under waiting for good, also on a busy machine."""


@contextlib.contextmanager
def fails(kind: type[EdgevitError], match: str | None = None) -> Iterator[None]:
    begun = time.monotonic()
    with pytest.raises(kind, match=match) as caught:
        yield
    assert type(caught.value) is kind
    assert caught.value.where
    assert time.monotonic() - begun < SOON


@pytest.fixture
def running(mark: str, small_artifact: Artifact) -> Iterator[tuple[LoadedModel, psutil.Process]]:
    """A model in a process of its own, and that process."""
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        yield loaded, worker_of(mark)


def test_nobody_listens() -> None:
    with fails(DeviceUnreachable, "refused"):
        connect(rpc=f"127.0.0.1:{free_port()}", timeout=1)


def test_no_such_host() -> None:
    for host in ("no-such-host.invalid", "x" * 70 + ".example"):
        with fails(DeviceUnreachable):
            connect(rpc=f"{host}:9090", timeout=1)
        with fails(DeviceUnreachable):
            connect(tracker=f"{host}:9190", key="board", timeout=1)


def test_unroutable() -> None:
    # A full backlog drops connection requests, which is what a host that is switched off looks like.
    with socket.socket() as server, contextlib.ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        address = server.getsockname()
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        with fails(DeviceUnreachable, "nobody answered within 1 s"):
            connect(rpc=f"{address[0]}:{address[1]}", timeout=1)


def test_accepts_and_stays_silent() -> None:
    with listener() as port, fails(DeviceBusy, "answered nothing within 1 s"):
        connect(rpc=f"127.0.0.1:{port}", timeout=1)


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.0 400 Bad request\r\n\r\n", b"x"])
def test_something_else_answers(answer: bytes) -> None:
    with listener(answer) as port, fails(DeviceUnreachable, "no TVM RPC server"):
        connect(rpc=f"127.0.0.1:{port}", timeout=1)


def test_http_server() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            # It waits for the end of a line that never comes: silent is all that can be said of it.
            with fails(DeviceBusy, "no TVM server"):
                connect(rpc=f"127.0.0.1:{server.server_port}", timeout=1)
        finally:
            server.shutdown()
            thread.join()


def test_hangs_between_calls(running: tuple[LoadedModel, psutil.Process]) -> None:
    loaded, process = running
    process.suspend()
    with fails(DeviceTimeout, "no answer within 1 s while"):
        loaded.run(small_input(1), timeout=1)
    # Everything after the failure is quick and says that the session is over.
    for use in (lambda: loaded.run(small_input(1)), loaded.usage, lambda: loaded.set_threads(1)):
        with fails(DeviceLost, "the session had ended"):
            use()


def test_hangs_in_the_middle_of_a_call(running: tuple[LoadedModel, psutil.Process]) -> None:
    loaded, process = running
    with later(0.3, process.suspend), fails(DeviceTimeout, "measuring"):
        loaded.time(LONG, timeout=1)


def test_closing_a_hung_session_is_quick(mark: str, small_artifact: Artifact) -> None:
    session = connect()
    session.load(small_artifact)
    worker_of(mark).suspend()
    begun = time.monotonic()
    session.close()
    assert time.monotonic() - begun < SOON
    assert not marked(mark)


def test_killed_in_the_middle_of_a_call(running: tuple[LoadedModel, psutil.Process]) -> None:
    loaded, process = running
    with later(0.5, process.kill), fails(DeviceLost, "while measuring"):
        loaded.time(LONG)


def test_killed_between_calls(running: tuple[LoadedModel, psutil.Process]) -> None:
    loaded, process = running
    process.kill()
    process.wait()
    with fails(DeviceLost):
        loaded.run(small_input(1))


@pytest.mark.parametrize("kind", ["stock", "own"])
def test_server_killed(kind: str, mark: str, small_artifact: Artifact, request: pytest.FixtureRequest) -> None:
    def binary() -> str:
        return str(request.getfixturevalue("server_binary"))

    def kill() -> None:
        for process in marked(mark):
            # Of our server the parent alone: the child that serves the session must notice and clean up.
            of_server = process.ppid() == os.getpid() if kind == "own" else True
            if of_server and "relay.py" not in " ".join(process.cmdline()):
                process.kill()

    with open_session(kind, binary) as session, session.load(small_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        with later(0.5, kill), fails(DeviceLost, "while measuring"):
            loaded.time(LONG)
        for process in marked(mark, containing="relay.py"):
            assert wait_until(lambda process=process: not process.is_running())


def test_our_server_serves_again_after_a_failed_session(small_artifact: Artifact, server_binary: str) -> None:
    # TVM's own server ends itself when a client leaves in the middle of a call.
    with own(server_binary) as (_, port):
        for _ in range(3):
            with connect(rpc=f"127.0.0.1:{port}") as session, session.load(small_artifact) as loaded:
                loaded.set_inputs(small_input(0))
                with fails(DeviceTimeout):
                    loaded.time(LONG, timeout=0.5)
        # It gives a session whose client left a moment to finish its call.
        assert wait_until(lambda: _connects(port))


def _connects(port: int) -> bool:
    try:
        connect(rpc=f"127.0.0.1:{port}").close()
    except DeviceBusy:
        return False
    return True


def test_tracker_absent() -> None:
    with fails(DeviceUnreachable, "refused"):
        connect(tracker=f"127.0.0.1:{free_port()}", key="board", timeout=1)


def test_tracker_silent_or_something_else() -> None:
    with listener() as port, fails(DeviceUnreachable, "does not answer as a tracker"):
        connect(tracker=f"127.0.0.1:{port}", key="board", timeout=1)
    with listener(b"SSH-2.0-OpenSSH_9.6\r\n") as port, fails(DeviceUnreachable, "no TVM tracker"):
        connect(tracker=f"127.0.0.1:{port}", key="board", timeout=1)


@pytest.mark.parametrize(
    "answer", [b"\x02\x00\x00\x00[]", b"\x01\x00\x00\x00{", b"\xff\xff\xff\x7f", b"\x04\x00\x00\x00null"]
)
def test_tracker_talks_nonsense(answer: bytes) -> None:
    with listener(b"\x71\xf2\x02\x00" + answer) as port, pytest.raises(DeviceError):
        connect(tracker=f"127.0.0.1:{port}", key="board", timeout=1)


def test_tracker_knows_no_such_key() -> None:
    with stock("rpc_tracker") as (_, port), fails(DeviceUnreachable, "no device is registered"):
        connect(tracker=f"127.0.0.1:{port}", key="board", timeout=5)


def test_tracker_busy_then_killed(small_artifact: Artifact) -> None:
    with contextlib.ExitStack() as stack:
        tracker, port = stack.enter_context(stock("rpc_tracker"))
        offer = ("--tracker", f"127.0.0.1:{port}", "--key", "board")
        stack.enter_context(stock("rpc_server", *offer))
        assert wait_until(lambda: tracker_knows(port, "board"), 60)
        session = stack.enter_context(connect(tracker=f"127.0.0.1:{port}", key="board"))
        with fails(DeviceBusy, r"all 1 device\(s\) of key 'board' stayed busy for 1 s"):
            connect(tracker=f"127.0.0.1:{port}", key="board", timeout=1)
        loaded = stack.enter_context(session.load(small_artifact))
        first = loaded.run(small_input(0))
        for process in [*psutil.Process(tracker.pid).children(recursive=True), psutil.Process(tracker.pid)]:
            send(process, signal.SIGKILL)
        # A session that runs does not need the tracker.
        assert_same(loaded.run(small_input(0)), first)


def foreign(artifact: Artifact, triple: str) -> Artifact:
    """The same artifact with an ELF header, and a manifest, of another machine."""
    machines = {"aarch64": 183, "armv7a": 40}
    architecture = triple.partition("-")[0]
    target = artifact.manifest.target.model_copy(update={"triple": triple})
    library = bytearray(artifact.library)
    library[18:20] = machines[architecture].to_bytes(2, "little")
    return damaged(artifact, bytes(library), target=target)


def damaged(artifact: Artifact, library: bytes, **manifest: object) -> Artifact:
    """The artifact with another library, its hash put right."""
    from edgevit.artifact import file_info

    name = artifact.manifest.library.file
    update = {"files": {name: file_info(library)}, **manifest}
    return replace(artifact, manifest=artifact.manifest.model_copy(update=update), files={name: library})


@pytest.mark.parametrize("triple", ["aarch64-linux-gnu", "armv7a-linux-gnueabihf"])
@pytest.mark.parametrize("kind", ["in-process", "process", "stock", "own"])
def test_artifact_for_another_processor(
    kind: str, triple: str, small_artifact: Artifact, request: pytest.FixtureRequest
) -> None:
    with open_session(kind, lambda: str(request.getfixturevalue("server_binary"))) as session:
        with pytest.raises(DeviceMismatch):
            session.load(foreign(small_artifact, triple))
        # That was the artifact's fault, not the session's.
        with session.load(small_artifact) as loaded:
            loaded.run(small_input(0))


@pytest.mark.parametrize("harm", ["empty", "text", "cut", "header", "zeroed"])
@pytest.mark.parametrize("kind", ["process", "stock", "own"])
def test_corrupt_library(kind: str, harm: str, small_artifact: Artifact, request: pytest.FixtureRequest) -> None:
    good = small_artifact.library
    library = {
        "empty": b"",
        "text": b"this is no library\n" * 100,
        "cut": good[: len(good) // 2],
        "header": good[:64],
        "zeroed": good[:4096] + bytes(len(good) - 4096),
    }[harm]
    session = open_session(kind, lambda: str(request.getfixturevalue("server_binary")))
    with session as opened, pytest.raises(DeviceError):
        opened.load(damaged(small_artifact, library))


@pytest.mark.parametrize("kind", ["stock", "own"])
def test_disk_full(kind: str, small_artifact: Artifact, request: pytest.FixtureRequest) -> None:
    if kind == "own":
        request.getfixturevalue("server_binary")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    padded = damaged(small_artifact, small_artifact.library + bytes(1 << 20))
    with contextlib.ExitStack() as stack:
        # Children inherit it; this process writes nothing meanwhile.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
        try:
            session = stack.enter_context(open_session(kind, lambda: str(request.getfixturevalue("server_binary"))))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.raises(DeviceError):
            session.load(padded)


def test_second_client_of_a_stock_server(small_artifact: Artifact) -> None:
    with stock("rpc_server") as (_, port), connect(rpc=f"127.0.0.1:{port}") as session:
        with fails(DeviceBusy, "within 1 s"):
            connect(rpc=f"127.0.0.1:{port}", timeout=1)
        with session.load(small_artifact) as loaded:
            loaded.run(small_input(0))


def test_second_client_of_our_server(small_artifact: Artifact, server_binary: str) -> None:
    with own(server_binary) as (_, port), connect(rpc=f"127.0.0.1:{port}") as session:
        with fails(DeviceBusy, "serving somebody else"):
            connect(rpc=f"127.0.0.1:{port}", timeout=300)  # it says so at once
        with session.load(small_artifact) as loaded:
            loaded.run(small_input(0))


def test_wrong_key(small_artifact: Artifact) -> None:
    with contextlib.ExitStack() as stack:
        _, tracker = stack.enter_context(stock("rpc_tracker"))
        server = stock("rpc_server", "--tracker", f"127.0.0.1:{tracker}", "--key", "board")
        _, port = stack.enter_context(server)
        assert wait_until(lambda: tracker_knows(tracker, "board"), 60)
        with fails(DeviceUnreachable, "--tracker and --key"):
            connect(rpc=f"127.0.0.1:{port}")


def test_worker_that_cannot_start(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DeviceError, match="did not start"):
        connect()


def test_modules_in_the_current_folder_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_artifact: Artifact
) -> None:
    for name in ("tvm", "json", "socket", "psutil"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    monkeypatch.chdir(tmp_path)
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.run(small_input(0))


def test_device_with_an_old_c_library() -> None:
    from edgevit.device.vm import load_error

    said = "InternalError: /lib/libm.so.6: version `GLIBC_2.99' not found (required by /tmp/x/model.so)"
    error = load_error(RuntimeError(f"Traceback:\n{said}"), "board:9090")
    assert type(error) is DeviceMismatch
    assert "too old" in error.message
    assert error.where == "board:9090"


def test_threads_take_turns(small_artifact: Artifact) -> None:
    with connect() as session, session.load(small_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        used: list[object] = []
        other = threading.Thread(target=lambda: used.append(session.describe()))
        with later(0.2, other.start):
            assert len(loaded.time(50_000)) == 50_000
        other.join()
        assert len(used) == 1


def test_strangers_do_not_reach_the_device_through_the_relay(mark: str, small_artifact: Artifact) -> None:
    import struct

    from edgevit.device.guard import Guard

    ours, device = socket.socketpair()
    with device:
        guard = Guard(ours, "here")
        try:
            with socket.create_connection(("127.0.0.1", guard.port)) as stranger:
                key = b"client:" + b"0" * len(guard.token)
                stranger.sendall(struct.pack("<ii", 0xFF271, len(key)) + key)
                assert stranger.recv(1) == b""
            device.setblocking(False)
            with pytest.raises(BlockingIOError):
                device.recv(1)
            device.settimeout(10)
            with socket.create_connection(("127.0.0.1", guard.port)) as client:
                key = f"client:{guard.token}mine".encode()
                client.sendall(struct.pack("<ii", 0xFF271, len(key)) + key)
                assert device.recv(100) == struct.pack("<ii", 0xFF271, 11) + b"client:mine"
        finally:
            guard.close()
