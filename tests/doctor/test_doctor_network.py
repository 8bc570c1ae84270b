"""Ports, servers, trackers and ssh: each way to be wrong has its own diagnosis."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from doctor_peers import (
    PATIENCE,
    RPC_MAGIC,
    closed_port,
    hang_up,
    peer,
    rpc_answers,
    silent,
    ssh_server,
    tracker_with,
    web_server,
)

from edgevit.device.doctor import network
from edgevit.device.doctor.listener import Listener, find_listener


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    whole = network.identify
    monkeypatch.setattr(network, "identify", lambda *args, **kwargs: whole(*args, **kwargs, timeout=2))


def port_finding(monkeypatch, port, protocol="rpc"):
    monkeypatch.setattr(network, "DEFAULT_PORT" if protocol == "rpc" else "TRACKER_PORT", port)
    return network.default_ports()[0 if protocol == "rpc" else 1]


def test_free_default_ports(monkeypatch):
    assert "free" in port_finding(monkeypatch, closed_port()).detail
    assert "free" in port_finding(monkeypatch, closed_port(), "tracker").detail


def test_default_ports_in_good_hands(monkeypatch):
    with peer(rpc_answers(RPC_MAGIC + 2)) as port:
        finding = port_finding(monkeypatch, port)
    assert (finding.status, "an RPC server is running" in finding.detail) == ("ok", True)
    with peer(rpc_answers(RPC_MAGIC + 1)) as port:
        assert "serving somebody" in port_finding(monkeypatch, port).detail
    with peer(tracker_with({})) as port:
        finding = port_finding(monkeypatch, port, "tracker")
    assert (finding.status, "a tracker is running" in finding.detail) == ("ok", True)


def test_a_default_port_in_other_hands_names_the_process(monkeypatch):
    with peer(web_server) as port:
        finding = port_finding(monkeypatch, port)
        assert finding.status == "warning"
        assert "another program" in finding.detail
        assert f"process {os.getpid()}" in finding.detail
        assert "--port" in (finding.advice or "")
        with_tracker_in_mind = port_finding(monkeypatch, port, "tracker")
    assert "devices tracker --port" in (with_tracker_in_mind.advice or "")


def test_a_port_that_accepts_and_never_answers(monkeypatch):
    with peer(silent) as port:
        finding = port_finding(monkeypatch, port, "tracker")
    assert finding.status == "warning"
    assert "a killed one left behind" in finding.detail
    assert f"sport = :{port}" in (finding.advice or "") or "lsof" in (finding.advice or "")


def test_the_orphan_of_a_killed_tracker_is_named(monkeypatch):
    # The stock program: its worker outlives it, keeps the port and even goes on answering.
    port = closed_port()
    command = ["-m", "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    tracker = subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + PATIENCE
        while network.identify("127.0.0.1", port, expected="tracker").kind != "tracker":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        workers = psutil.Process(tracker.pid).children(recursive=True)
        alive = find_listener(port)
        if alive is None:
            pytest.skip("this system does not tell which process listens on a port")
        assert not alive.orphan
        assert port_finding(monkeypatch, port, "tracker").status == "ok"
        tracker.send_signal(signal.SIGKILL)
        tracker.wait(PATIENCE)
        finding = port_finding(monkeypatch, port, "tracker")
        assert finding.status == "warning"
        assert finding.advice is not None
        assert finding.advice.startswith(f"kill {workers[0].pid},")
        named = network.tracker(f"127.0.0.1:{port}", None)
        assert [found.status for found in named] == ["ok", "warning"]
    finally:
        for process in [*workers, psutil.Process(tracker.pid)] if tracker.poll() is None else workers:
            process.kill()
        tracker.wait(PATIENCE)
        psutil.wait_procs(workers, timeout=PATIENCE)


def test_no_listener():
    assert find_listener(closed_port()) is None


def test_a_listener_that_the_system_hides(monkeypatch):
    def refuse(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    assert find_listener(1) is None


@pytest.mark.parametrize(
    ("behave", "word"),
    [(silent, "says nothing"), (ssh_server, "not an RPC server"), (hang_up, "not an RPC server")],
)
def test_an_rpc_server_that_is_none(behave, word):
    with peer(behave) as port:
        (finding,) = network.rpc_server(f"127.0.0.1:{port}")
    assert finding.status == "error"
    assert word in finding.detail
    assert finding.advice


def test_an_rpc_server_that_is_busy():
    with peer(rpc_answers(RPC_MAGIC + 1)) as port:
        (finding,) = network.rpc_server(f"127.0.0.1:{port}")
    assert finding.status == "warning"
    assert "serving somebody else" in finding.detail


def test_an_rpc_server_that_wants_another_key():
    with peer(rpc_answers(RPC_MAGIC + 2)) as port:
        (finding,) = network.rpc_server(f"127.0.0.1:{port}")
    assert finding.status == "error"
    assert "key" in finding.detail
    assert "--tracker" in (finding.advice or "")


def test_an_rpc_server_that_is_absent():
    port = closed_port()
    (finding,) = network.rpc_server(f"127.0.0.1:{port}")
    assert finding.status == "error"
    assert f"edgevit devices serve --host 127.0.0.1 --port {port}" in (finding.advice or "")


def test_a_host_that_does_not_exist():
    (finding,) = network.rpc_server("device.invalid:9090")
    assert "cannot be reached" in finding.detail
    assert "firewall" in (finding.advice or "")


@pytest.mark.parametrize("probe", [network.rpc_server, lambda address: network.tracker(address, None)])
def test_what_is_no_address(probe):
    (finding,) = probe("host:port:what")
    assert finding.status == "error"
    assert "not an address" in finding.detail


def test_tracker_and_server_confused():
    with peer(tracker_with({})) as port:
        assert "--tracker" in (network.rpc_server(f"127.0.0.1:{port}")[0].advice or "")
    with peer(rpc_answers(RPC_MAGIC + 2)) as port:
        assert "--rpc" in (network.tracker(f"127.0.0.1:{port}", None)[0].advice or "")


def test_a_tracker_that_says_nothing():
    with peer(silent) as port:
        (finding,) = network.tracker(f"127.0.0.1:{port}", None)
    assert finding.status == "error"
    assert "left behind" in finding.detail


def knows(*devices: tuple[str, str, int]) -> dict[str, object]:
    return {
        "queue_info": {key: {"free": 1, "pending": 2} for key, _, _ in devices},
        "server_info": [{"key": f"server:{key}", "addr": [host, port]} for key, host, port in devices],
    }


def test_a_tracker_whose_device_cannot_be_reached():
    gone = closed_port()
    with (
        peer(rpc_answers(RPC_MAGIC + 2)) as here,
        peer(tracker_with(knows(("pi", "127.0.0.1", here), ("phone", "127.0.0.1", gone)))) as port,
    ):
        summary, phone, pi = network.tracker(f"127.0.0.1:{port}", None)
    assert "pi: 1 known, 1 free, 2 waiting" in summary.detail
    assert (pi.status, phone.status) == ("ok", "warning")
    assert "--custom-addr" in (phone.advice or "")


def test_a_key_the_tracker_does_not_know():
    with peer(tracker_with(knows(("pi", "127.0.0.1", closed_port())))) as port:
        summary, key = network.tracker(f"127.0.0.1:{port}", "phone")
    assert (summary.status, key.status) == ("ok", "error")
    assert "there are: pi" in key.detail
    assert "--key phone" in (key.advice or "")


def test_loopback_that_is_forbidden(monkeypatch):
    assert network.loopback()[0].status == "ok"

    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert network.loopback()[0].status == "error"


def test_ssh_that_refuses_and_ssh_that_logs_in(monkeypatch, tmp_path):
    script = tmp_path / "ssh"
    monkeypatch.setenv("EDGEVIT_SSH", str(script))
    script.write_text("#!/bin/sh\necho 'Permission denied (publickey).' >&2\nexit 255\n", encoding="ascii")
    script.chmod(0o700)
    (finding,) = network.ssh_host("device")
    assert finding.status == "error"
    assert "Permission denied" in finding.detail
    assert "BatchMode" in (finding.advice or "")
    script.write_text("#!/bin/sh\necho Welcome\necho Linux aarch64\n", encoding="ascii")
    (finding,) = network.ssh_host("device")
    assert finding.status == "ok"
    assert "logs in; Linux on aarch64" in finding.detail
    script.write_text("#!/bin/sh\necho Plan9 mips\n", encoding="ascii")
    (finding,) = network.ssh_host("device")
    assert finding.status == "error"
    assert "Plan9 on mips" in finding.detail


def test_an_option_is_not_a_host():
    (finding,) = network.ssh_host("-oProxyCommand=true")
    assert finding.status == "error"


def test_only_workers_without_an_owner_are_orphans():
    assert find_listener(0) is None
    assert not Listener(1, "python", orphan=False).orphan
