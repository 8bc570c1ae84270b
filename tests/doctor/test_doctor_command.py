"""``edgevit devices doctor`` and ``list`` as typed."""

from __future__ import annotations

import json

import pytest
import typer
from doctor_peers import peer, silent, tracker_with
from typer.testing import CliRunner

from edgevit.cli.devices import devices
from edgevit.device import doctor
from edgevit.device.doctor.finding import error, ok, warning
from edgevit.errors import DeviceError, DeviceUnreachable, ToolchainError, UserError

app = typer.Typer()
app.add_typer(devices, name="devices")


def invoke(*arguments: str):
    result = CliRunner().invoke(app, ["devices", *arguments], env={"COLUMNS": "120"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def found(monkeypatch):
    """Replace the probes by given findings."""

    def give(*findings):
        monkeypatch.setattr(doctor, "_probes", lambda *_: [("all", lambda: findings)])
        monkeypatch.setattr(doctor.machine, "load", list)

    return give


def test_json_has_one_shape_whatever_was_found(found):
    found(ok("zig", "links"), warning("CPU load", "busy", "Wait."), error("onnx", "absent", "pip install onnx"))
    result = invoke("doctor", "--json")
    assert result.exit_code == 3
    assert json.loads(result.stdout) == {
        "ok": False,
        "errors": 1,
        "warnings": 1,
        "findings": [
            {"name": "zig", "status": "ok", "detail": "links", "advice": None},
            {"name": "CPU load", "status": "warning", "detail": "busy", "advice": "Wait."},
            {"name": "onnx", "status": "error", "detail": "absent", "advice": "pip install onnx"},
        ],
    }
    assert result.stdout == invoke("doctor", "--json").stdout


def test_warnings_are_not_failures(found):
    found(warning("CPU load", "busy", "Wait."))
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "1 warning" in result.stdout


def test_the_table_shows_what_to_do_and_takes_no_markup_from_outside(found):
    found(error("tracker [bold]x[/]", "no [/red] answer", "Start [one]."))
    result = invoke("doctor")
    assert result.exit_code == 3
    for part in ("tracker [bold]x[/]", "no [/red] answer", "Start [one].", "1 error"):
        assert part in result.stdout


def test_nothing_wrong(found):
    found(ok("zig", "links"))
    assert "nothing is wrong" in invoke("doctor").stdout


@pytest.mark.parametrize("fault", [RuntimeError("boom"), ToolchainError("boom", advice="Mend it.")])
def test_a_probe_that_fails_is_a_finding_and_the_others_go_on(monkeypatch, fault):
    def broken():
        raise fault

    monkeypatch.setattr(doctor, "_probes", lambda *_: [("a", broken), ("b", lambda: [ok("b", "fine")])])
    monkeypatch.setattr(doctor.machine, "load", broken)
    findings = doctor.diagnose()
    assert [finding.status for finding in findings] == ["error", "error", "ok"]
    assert "boom" in findings[1].detail


def test_every_probe_runs_here_and_none_fails_by_itself():
    names = []
    for finding in doctor.diagnose():
        names.append(finding.name)
        assert "the probe itself failed" not in finding.detail
    for name in ("TVM and its FFI", "zig", "qemu-arm", "port 9090", "port 9190", "cache folder", "CPU load"):
        assert name in names


def test_a_key_needs_a_tracker():
    with pytest.raises(UserError, match="tracker"):
        invoke("doctor", "--key", "pi")


SUMMARY = {
    "queue_info": {
        "pi": {"free": 1, "pending": 0},
        "phone": {"free": 0, "pending": 3},
        "old": {"free": 0, "pending": 0},
    },
    "server_info": [
        {"key": "server:pi", "addr": ["192.0.2.8", 9090]},
        {"key": "server:pi", "addr": ["192.0.2.7", 9090]},
        {"key": "server:pi", "addr": ["2001:db8::1", 9090]},
    ],
}


def test_list_by_key():
    with peer(tracker_with(SUMMARY)) as port:
        listed = json.loads(invoke("list", "--tracker", f"127.0.0.1:{port}", "--json").stdout)
        table = invoke("list", "--tracker", f"127.0.0.1:{port}").stdout
    pi = {
        "key": "pi",
        "devices": ["192.0.2.7:9090", "192.0.2.8:9090", "[2001:db8::1]:9090"],
        "free": 1,
        "busy": 2,
        "pending": 0,
    }
    phone = {"key": "phone", "devices": [], "free": 0, "busy": 0, "pending": 3}
    assert listed == {"tracker": f"127.0.0.1:{port}", "keys": [phone, pi]}
    for part in ("pi", "phone", "192.0.2.7:9090", "[2001:db8::1]:9090"):
        assert part in table


def test_list_of_an_empty_tracker_says_how_to_fill_it():
    with peer(tracker_with({"queue_info": {}, "server_info": []})) as port:
        text = invoke("list", "--tracker", f"127.0.0.1:{port}").stdout
    assert f"edgevit devices serve --tracker 127.0.0.1:{port} --key KEY" in text


def test_list_of_what_is_no_tracker():
    with peer(lambda connection: connection.sendall(b"SSH-2.0")) as port, pytest.raises(DeviceUnreachable):
        invoke("list", "--tracker", f"127.0.0.1:{port}")


def test_list_of_a_tracker_that_hangs():
    with peer(silent) as port, pytest.raises(DeviceError):
        invoke("list", "--tracker", f"127.0.0.1:{port}")
