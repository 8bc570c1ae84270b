"""``edgevit devices serve`` and ``tracker``: they say where they listen, and leave nobody behind."""

from __future__ import annotations

import signal
import subprocess
import time

import psutil
import pytest
from doctor_peers import EDGEVIT, PATIENCE, Foreground, closed_port, peer, silent

from edgevit.cli.devices import devices
from edgevit.device.connect import connect
from edgevit.device.doctor.handshake import identify
from edgevit.device.listing import list_devices
from edgevit.device.serve import ServeOptions, choose_server, is_loopback
from edgevit.device.server_build import server_version
from edgevit.errors import ToolchainError, UserError
from edgevit.targets import get_target

ENDINGS = [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -signal.SIGKILL)]


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("number", "code"), ENDINGS)
@pytest.mark.parametrize("stock", [["--stock"], pytest.param([], marks=pytest.mark.slow)])
def test_a_server_ends_with_its_command_and_takes_its_session_along(stock, number, code):
    with Foreground("serve", "--port", "0", *stock) as server:
        assert server.event["host"] == "127.0.0.1"
        with connect(rpc=server.address) as session:
            session.describe()
            assert len(server.family()) >= 3  # the command, the server, the session
            assert server.end(number)[0] == code
        assert identify("127.0.0.1", server.port, expected="rpc").kind == "absent"


@pytest.mark.slow
def test_edgevits_server_says_its_version_and_serves_one_client_after_another():
    with Foreground("serve", "--port", "0") as server:
        for _ in range(2):
            with connect(rpc=server.address) as session:
                assert session.describe().runtime == f"edgevit server {server_version()}"
        server.end(signal.SIGINT)


def test_the_stock_server_outlives_a_session_that_crashes():
    with Foreground("serve", "--port", "0", "--stock") as server:
        with connect(rpc=server.address) as session:
            session.describe()
            command, stock, running = server.family()
            assert command.pid == server.process.pid
            running.kill()
        with connect(rpc=server.address) as session:
            assert session.describe().runtime == "TVM RPC server"
        assert stock.is_running()
        server.end(signal.SIGINT)


@pytest.mark.emulated
@pytest.mark.slow
@pytest.mark.usefixtures("qemu")
def test_a_pretended_device():
    with Foreground("serve", "--port", "0", "--target", "arm") as server:
        with connect(rpc=server.address) as session:
            assert session.describe().architecture == "aarch64"
        server.end(signal.SIGKILL)


@pytest.mark.parametrize("stock", [["--stock"], pytest.param([], marks=pytest.mark.slow)])
def test_tracker_server_and_client(stock):
    with Foreground("tracker", "--port", "0") as tracker:
        options = ["--tracker", tracker.address, "--key", "pi", "--custom-addr", "127.0.0.1"]
        with Foreground("serve", "--port", "0", *options, *stock) as server:
            until(lambda: any(entry.free for entry in list_devices("127.0.0.1", tracker.port)))
            (entry,) = list_devices("127.0.0.1", tracker.port)
            assert (entry.key, entry.devices, entry.busy) == ("pi", (server.address,), 0)
            with connect(tracker=tracker.address, key="pi"):
                (entry,) = list_devices("127.0.0.1", tracker.port)
                assert (entry.free, entry.busy) == (0, 1)
            server.end(signal.SIGTERM)
        until(lambda: list_devices("127.0.0.1", tracker.port) == [])
        tracker.end(signal.SIGTERM)


@pytest.mark.parametrize(("number", "code"), ENDINGS)
def test_a_tracker_is_one_process(number, code):
    with Foreground("tracker", "--port", "0") as tracker:
        assert len(tracker.family()) == 1
        assert tracker.end(number)[0] == code
        # The stock program's next start on the same port would fail here.
    with Foreground("tracker", "--port", str(tracker.port)) as again:
        assert again.port == tracker.port


def test_servers_take_the_next_free_port():
    with peer(silent) as taken, Foreground("serve", "--port", str(taken), "--stock") as server:
        assert taken < server.port < taken + 9


@pytest.mark.parametrize("command", [("serve", "--stock"), ("tracker",)])
def test_a_port_that_is_taken(command):
    with peer(silent) as port:
        end = ["--port-end", str(port + 1)] if command[0] == "serve" else []
        done = subprocess.run(
            [*EDGEVIT, *command, "--port", str(port), *end], capture_output=True, text=True, timeout=PATIENCE
        )
    assert done.returncode == 3
    assert done.stdout == ""
    assert "in use" in done.stderr
    assert "doctor" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_network_address_brings_a_warning():
    with Foreground("tracker", "--host", "0.0.0.0", "--port", "0") as tracker:
        _, errors = tracker.end(signal.SIGINT)
    assert "controls this machine" in errors
    with Foreground("tracker", "--port", "0") as tracker:
        _, errors = tracker.end(signal.SIGINT)
    assert "controls this machine" not in errors


def test_people_get_a_sentence():
    command = [*EDGEVIT, "serve", "--stock", "--port", str(closed_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    assert line.startswith("listening on 127.0.0.1:")
    assert "TVM's Python server" in line
    assert psutil.wait_procs(family, timeout=PATIENCE)[1] == []


def test_a_server_that_dies_is_reported():
    with Foreground("serve", "--port", "0", "--stock") as server:
        _, stock = server.family()
        stock.kill()
        _, errors = server.process.communicate(timeout=PATIENCE)
    assert server.process.returncode == 3
    assert "ended by itself: signal 9" in errors.decode()


@pytest.mark.parametrize(
    "options",
    [
        ServeOptions(tracker="127.0.0.1:9190"),
        ServeOptions(key="pi"),
        ServeOptions(custom_addr="192.0.2.1"),
        ServeOptions(port=9090, port_end=9090),
    ],
)
def test_options_that_contradict_each_other(options):
    with pytest.raises(UserError) as caught:
        options.arguments()
    assert caught.value.advice


def test_options_reach_the_server():
    options = ServeOptions("0.0.0.0", 9100, None, "192.0.2.1:9190", "pi", "192.0.2.2")
    arguments = " ".join(options.arguments())
    assert arguments == (
        "--host 0.0.0.0 --port 9100 --port-end 9109 --tracker 192.0.2.1:9190 --key pi --custom-addr 192.0.2.2 "
        "--exit-with-stdin"
    )
    assert "--port-end" not in ServeOptions(port=0).arguments()


def test_targets_that_cannot_be_pretended(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="apple-silicon"):
        choose_server(get_target("apple-silicon"))
    with pytest.raises(UserError, match="Python server"):
        choose_server(get_target("rpi4"), stock=True)
    monkeypatch.setattr("edgevit.device.emulate.find_emulator", lambda target: None)
    monkeypatch.setattr("edgevit.device.server_build.build_server", lambda triple, **_: tmp_path / "server")
    monkeypatch.setattr("edgevit.host.detect_host", lambda exact: get_target("x86-64-v3"))
    with pytest.raises(ToolchainError) as caught:
        choose_server(get_target("rpi4"))
    assert "qemu-user-static" in (caught.value.advice or "")


def test_the_server_is_chosen_for_the_machine(monkeypatch, tmp_path):
    asked = []

    def build(triple, **_):
        asked.append(triple)
        return tmp_path / "server"

    monkeypatch.setattr("edgevit.device.server_build.build_server", build)
    monkeypatch.setattr("edgevit.device.emulate.find_emulator", lambda target: f"/bin/{target.emulator}")
    monkeypatch.setattr("edgevit.host.detect_host", lambda exact: get_target("x86-64-v3"))
    assert choose_server().command == (str(tmp_path / "server"),)
    pretended = choose_server(get_target("armhf"))
    assert (pretended.command, pretended.emulated) == (("/bin/qemu-arm-static", str(tmp_path / "server")), True)
    monkeypatch.setattr("edgevit.host.detect_host", lambda exact: get_target("rpi4"))
    assert not choose_server(get_target("rpi5")).emulated
    assert asked == ["x86_64-linux-gnu", "armv7a-linux-gnueabihf", "aarch64-linux-gnu"]
    monkeypatch.setattr("edgevit.host.detect_host", lambda exact: get_target("apple-silicon"))
    assert choose_server().command[1:] == ("-m", "edgevit.device.stock_server")


@pytest.mark.parametrize(
    ("host", "inside"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("192.0.2.1", False), ("pi", False)],
)
def test_which_addresses_stay_inside(host, inside):
    assert is_loopback(host) is inside


def test_commands_are_registered():
    names = {command.name or command.callback.__name__ for command in devices.registered_commands}
    assert names == {"doctor", "list", "serve", "tracker"}
