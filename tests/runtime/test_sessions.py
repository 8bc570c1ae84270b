"""Sessions over TVM's own client: what works, what ends them, and that nothing stays behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from edgevit.device.server_build import server_version
from tests.runtime.conftest import HOST, Launch
from tests.runtime.server_process import PATIENCE, Server, client_process, wait_until

MAGIC = 0xFF271
BUSY = MAGIC + 1
WRONG_KEY = MAGIC + 2

CALL = """
import sys
from tvm import rpc
session = rpc.connect("127.0.0.1", int(sys.argv[1]))
session.upload(sys.argv[2], "probe.so")
function = session.load_module("probe.so")[sys.argv[3]]
print("ready", flush=True)
function()
"""


def greet(port: int, key: bytes = b"client:") -> int:
    """The code with which the server answers a client's first words."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as peer:
        peer.sendall(struct.pack("<ii", MAGIC, len(key)) + key)
        answer = peer.recv(4, socket.MSG_WAITALL)
    return int(struct.unpack("<i", answer)[0])


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_files_travel_and_are_verified(launch: Launch) -> None:
    session = launch().connect()
    data = bytes(range(256)) * 9000
    session.upload(bytearray(data), "data.bin")
    assert bytes(session.download("data.bin")) == data
    digest = session.get_function("edgevit.server.sha256")
    assert digest("data.bin") == hashlib.sha256(data).hexdigest()
    session.upload(bytearray(), "empty")
    assert digest("empty") == hashlib.sha256(b"").hexdigest()
    session.remove("data.bin")
    with pytest.raises(RuntimeError, match=r"cannot read data\.bin: No such file"):
        session.download("data.bin")


@pytest.mark.parametrize("name", ["../escape", "/tmp/escape", "a/b", "..", ".", ""])
def test_no_path_leads_out_of_the_work_folder(launch: Launch, name: str) -> None:
    session = launch().connect()
    for call in (
        lambda: session.upload(bytearray(b"x"), name),
        lambda: session.get_function("tvm.rpc.server.upload")(name, bytearray(b"x")),
        lambda: session.download(name),
        lambda: session.remove(name),
        lambda: session.load_module(name),
        lambda: session.get_function("edgevit.server.sha256")(name),
    ):
        with pytest.raises((RuntimeError, ValueError)):
            call()


def test_the_device_describes_itself(launch: Launch) -> None:
    server = launch()
    session = server.connect()
    info = json.loads(session.get_function("edgevit.server.info")())
    assert info["version"] == server_version() == server.announcement["version"]
    assert info["arch"] == HOST
    assert info["cores"] == len(psutil.Process().cpu_affinity())
    assert info["memory_bytes"] == pytest.approx(psutil.virtual_memory().total, rel=0.01)
    usage = json.loads(session.get_function("edgevit.server.usage")())
    assert usage["threads"] == 1
    assert 0 < usage["peak_rss_bytes"] < 1 << 30
    assert 0 <= usage["cpu_seconds"] < 60


def test_a_session_leaves_nothing(launch: Launch) -> None:
    server = launch()
    session = server.connect()
    session.upload(bytearray(b"x" * 1000), "file")
    assert len(server.left_behind()) == 1
    del session
    assert server.wait_for("session_end")["reason"] == "closed"
    wait_until(lambda: not server.left_behind(), "the folder to go")
    assert not server.descendants()


def test_sessions_follow_each_other_at_once(launch: Launch) -> None:
    server = launch()
    for number in range(1, 6):
        session = server.connect()
        session.upload(bytearray(b"x"), "file")
        del session
        server.wait_for("session_start", number)
    assert not server.log("busy")


def test_a_second_client_is_refused_while_one_is_served(launch: Launch) -> None:
    server = launch()
    session = server.connect()
    assert greet(server.port) == BUSY
    with pytest.raises(RuntimeError, match="server already have key"):
        server.connect()
    session.upload(bytearray(b"x"), "file")
    del session
    server.wait_for("session_end")
    server.connect().upload(bytearray(b"x"), "file")


def test_a_wrong_key_is_refused(launch: Launch) -> None:
    server = launch("--key", "board")
    assert greet(server.port, b"client:other") == WRONG_KEY
    assert greet(server.port, b"client:board") == MAGIC
    server.wait_for("session_end")
    server.connect("board").upload(bytearray(b"x"), "file")


def test_silent_connections_do_not_block_others(launch: Launch) -> None:
    server = launch("--handshake-timeout", "0.5")
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(struct.pack("<i", MAGIC))
    server.connect().upload(bytearray(b"x"), "file")
    for peer in (*silent, slow):
        peer.settimeout(PATIENCE)
        assert peer.recv(1) == b""
        peer.close()


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.0\r\n\r\n", struct.pack("<ii", MAGIC, -1), struct.pack("<ii", MAGIC, 1 << 30)]
)
def test_foreign_protocols_are_dropped(launch: Launch, words: bytes) -> None:
    server = launch()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as peer:
        peer.sendall(words)
        with contextlib.suppress(ConnectionResetError):
            assert peer.recv(1) == b""
    server.connect().upload(bytearray(b"x"), "file")


def test_a_packet_of_impossible_size_ends_only_its_session(launch: Launch) -> None:
    server = launch()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as peer:
        peer.sendall(struct.pack("<ii", MAGIC, 7) + b"client:")
        peer.recv(8 + 7, socket.MSG_WAITALL)
        peer.sendall(struct.pack("<Q", 1 << 62) + b"\xff" * 100000)
        session = server.wait_for("session_start")
        assert psutil.Process(session["pid"]).memory_info().rss < 1 << 28
    server.wait_for("session_end")
    server.connect().upload(bytearray(b"x"), "file")


@pytest.mark.parametrize("function", ["hang", "idle"])
def test_a_killed_client_ends_its_session(launch: Launch, probe: Path, function: str) -> None:
    server = launch()
    name = {"hang": "hang", "idle": "weak_is_null"}[function]
    code = CALL if function == "hang" else CALL + "\nimport time; time.sleep(1000)"
    with client_process(code, server.port, probe, name) as client:
        pid = server.wait_for("session_start")["pid"]
        client.kill()
        wait_until(lambda: is_gone(pid), "the session to end")
    server.wait_for("session_end")
    wait_until(lambda: not server.left_behind(), "the folder to go")
    server.connect().upload(bytearray(b"x"), "file")


def test_a_client_that_hangs_up_during_a_call_ends_it(launch: Launch, probe: Path) -> None:
    server = launch()
    with client_process(CALL, server.port, probe, "hang") as client:
        client.send_signal(signal.SIGTERM)
        server.wait_for("session_end")
    wait_until(lambda: not server.left_behind(), "the folder to go")


def test_a_crash_is_reported_to_the_client(launch: Launch, probe: Path) -> None:
    server = launch()
    session = server.connect()
    session.upload(bytearray(probe.read_bytes()), "probe.so")
    module = session.load_module("probe.so")
    with pytest.raises(RuntimeError, match=r"crashed: Segmentation fault"):
        module["crash"]()
    assert "crashed" in server.wait_for("session_end")["reason"]
    wait_until(lambda: not server.left_behind(), "the folder to go")
    server.connect().upload(bytearray(b"x"), "file")


def test_a_killed_session_process_leaves_nothing(launch: Launch) -> None:
    server = launch()
    session = server.connect()
    session.upload(bytearray(b"x"), "file")
    psutil.Process(server.wait_for("session_start")["pid"]).kill()
    server.wait_for("session_end")
    wait_until(lambda: not server.left_behind(), "the folder to go")
    with pytest.raises(RuntimeError):
        session.upload(bytearray(b"x"), "file")


def test_the_clients_time_limit_is_kept(launch: Launch, probe: Path) -> None:
    server = launch("--session-timeout", "1000")
    session = server.connect(timeout=2)
    session.upload(bytearray(probe.read_bytes()), "probe.so")
    hang = session.load_module("probe.so")["hang"]
    with pytest.raises(RuntimeError, match="time limit has passed"):
        hang()
    server.wait_for("session_end")


def test_the_servers_time_limit_is_kept(launch: Launch) -> None:
    server = launch("--session-timeout", "0.5")
    session = server.connect()
    assert "time limit" in server.wait_for("session_end")["reason"]
    with pytest.raises(RuntimeError):
        session.upload(bytearray(b"x"), "file")


def test_a_silent_session_ends(launch: Launch) -> None:
    server = launch("--idle-timeout", "0.5")
    session = server.connect()
    session.upload(bytearray(b"x"), "file")
    assert server.wait_for("session_end")["reason"].endswith("silent for 0.5 s")
    with pytest.raises(RuntimeError, match="silent for"):
        session.upload(bytearray(b"x"), "file")
    wait_until(lambda: not server.left_behind(), "the folder to go")


def test_a_long_call_is_not_silence(launch: Launch, probe: Path) -> None:
    server = launch("--idle-timeout", "0.5")
    session = server.connect(timeout=3)
    session.upload(bytearray(probe.read_bytes()), "probe.so")
    hang = session.load_module("probe.so")["hang"]
    with pytest.raises(RuntimeError, match="time limit has passed"):
        hang()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_server_and_session(launch: Launch, probe: Path, number: int) -> None:
    server = launch()
    with client_process(CALL, server.port, probe, "hang"):
        pid = server.wait_for("session_start")["pid"]
        server.process.send_signal(number)
        assert server.process.wait(PATIENCE) == 0
        assert is_gone(pid)
    assert not server.left_behind()


def test_a_killed_server_takes_its_session_along(launch: Launch, probe: Path) -> None:
    server = launch()
    with client_process(CALL, server.port, probe, "hang"):
        pid = server.wait_for("session_start")["pid"]
        server.process.kill()
        wait_until(lambda: is_gone(pid), "the session to end")
    assert not server.left_behind()


def test_the_end_of_stdin_ends_server_and_session(launch: Launch, probe: Path) -> None:
    server = launch("--exit-with-stdin")
    with client_process(CALL, server.port, probe, "hang"):
        pid = server.wait_for("session_start")["pid"]
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(PATIENCE) == 0
        assert is_gone(pid)
    assert not server.left_behind()


def test_once_serves_one_session(launch: Launch) -> None:
    server = launch("--once")
    session = server.connect()
    session.upload(bytearray(b"x"), "file")
    del session
    assert server.process.wait(PATIENCE) == 0
    assert not server.left_behind()


def test_ports_in_use_are_passed_over(launch: Launch) -> None:
    first = launch()
    second = launch("--port", str(first.port), "--port-end", str(min(first.port + 50, 65536)))
    assert second.port > first.port


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--frob"], "unknown option"),
        (["--port", "http"], "not a port number"),
        (["--idle-timeout", "-1"], "not a number of seconds"),
        (["--tracker", "somewhere"], "not HOST:PORT"),
        (["--tracker", "somewhere:9190"], "needs a --key"),
        (["--port", "9000", "--port-end", "9000"], "larger than --port"),
    ],
)
def test_wrong_options_are_explained(host_server: Path, arguments: list[str], complaint: str) -> None:
    done = subprocess.run([host_server, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_missing_work_folder_is_explained(host_server: Path, tmp_path: Path) -> None:
    command = [host_server, "--work-dir", str(tmp_path / "absent")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot write to the work folder" in done.stderr


def test_version_is_one_line_of_json(host_server: Path) -> None:
    done = subprocess.run([host_server, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.count("\n") == 1
    assert json.loads(done.stdout)["version"] == server_version()


def test_python_is_not_needed_by_the_server(launch: Launch) -> None:
    server = launch()
    assert sys.executable not in psutil.Process(server.process.pid).cmdline()
    mapped = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert ".so" not in mapped


def test_stale_folders_of_killed_servers_are_swept(launch: Launch, host_server: Path, tmp_path: Path) -> None:
    work = tmp_path / "shared"
    stale, foreign, fresh = (work / name for name in ("edgevit-server-session-a", "other", "edgevit-server-session-b"))
    for folder in (stale, foreign, fresh):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text("x")
    for folder in (stale, foreign):
        os.utime(folder, (0, 0))
    server: Server = launch("--work-dir", str(work))
    assert server.process.poll() is None
    assert sorted(path.name for path in work.iterdir()) == [fresh.name, foreign.name]
