"""Probes of the toolchain, the emulators and the machine."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from types import SimpleNamespace

import psutil
import pytest

from edgevit.device import server_build
from edgevit.device.doctor import emulators, machine, tools
from edgevit.device.doctor.command import Result


def test_zig_links_here():
    findings = {finding.name: finding for finding in tools.zig()}
    assert findings["zig"].status == "ok", findings["zig"].detail
    assert findings["zig cache"].status == "ok"


def test_zig_that_does_not_start(monkeypatch):
    monkeypatch.setattr(tools, "run", lambda command, **_: Result(None, trouble="it does not start: no such file"))
    (finding,) = tools.zig()
    assert finding.status == "error"
    assert finding.advice == "pip install --force-reinstall ziglang"


def test_zig_that_cannot_link(monkeypatch):
    def run(command, **_):
        if "cc" in command:
            return Result(1, trouble="exit status 1: unable to create file")
        return Result(0, "0.17.0")

    monkeypatch.setattr(tools, "run", run)
    (finding,) = tools.zig()
    assert finding.status == "error"
    assert "unable to create file" in finding.detail
    assert finding.advice is not None
    assert "--linker system" in finding.advice


@pytest.mark.parametrize("text", ['{"global_cache_dir": "%s"}', '.{ .global_cache_dir = "%s" }'])
def test_zigs_cache_is_found_in_both_of_its_formats(monkeypatch, tmp_path, text):
    outputs = {"version": "0.17.0", "env": text % tmp_path}
    monkeypatch.setattr(tools, "run", lambda command, **_: Result(0, outputs.get(command[-1], "")))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    finding = tools.zig()[-1]
    assert (finding.name, finding.status) == ("zig cache", "error")
    assert str(tmp_path) in finding.detail
    assert finding.advice is not None
    assert "ZIG_GLOBAL_CACHE_DIR" in finding.advice


def test_ndk_unset_wrong_and_right(monkeypatch, tmp_path):
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    assert tools.ndk()[0].status == "ok"
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path))
    assert tools.ndk()[0].status == "warning"
    (tmp_path / "toolchains" / "llvm").mkdir(parents=True)
    assert tools.ndk()[0].status == "ok"


def test_no_compiler_is_no_fault(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tools.compilers()[0].status == "ok"


def test_servers_built_and_not(monkeypatch, tmp_path):
    built = tmp_path / "server"
    built.write_bytes(b"x" * 1_000_000)
    cached = {"aarch64-linux-gnu": built}
    monkeypatch.setattr(server_build, "server_cached", cached.get)
    details = {finding.name: finding.detail for finding in tools.servers()}
    assert len(details) == 3
    assert "1.0 MB" in details["server aarch64-linux-gnu"]
    assert "not built yet" in details["server x86_64-linux-gnu"]


@pytest.mark.usefixtures("qemu")
@pytest.mark.emulated
def test_both_emulators_run_a_program():
    findings = emulators.emulators()
    assert [finding.status for finding in findings] == ["ok", "ok"], findings


def test_no_emulator_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    findings = emulators.emulators()
    assert [finding.status for finding in findings] == ["warning", "warning"]
    assert all("apt-get install qemu-user-static" in (finding.advice or "") for finding in findings)


def test_an_emulator_that_runs_nothing(monkeypatch, tmp_path):
    for name in ("qemu-aarch64-static", "qemu-arm-static"):
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho broken >&2\nexit 1\n", encoding="ascii")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    findings = emulators.emulators()
    assert [finding.status for finding in findings] == ["error", "error"]
    assert "broken" in findings[0].detail


def test_load_is_measured_against_usable_cores(monkeypatch):
    monkeypatch.setattr("edgevit.device.usage.usable_cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.4, 9.0, 9.0))
    assert machine.load()[0].status == "ok"
    monkeypatch.setattr(os, "getloadavg", lambda: (3.0, 0.0, 0.0))
    assert machine.load()[0].status == "warning"


@pytest.mark.parametrize(
    ("governor", "driver", "status"),
    [("powersave", "cpufreq-dt", "warning"), ("powersave", "intel_pstate", "ok"), ("performance", "x", "ok")],
)
def test_governor(monkeypatch, tmp_path, governor, driver, status):
    (tmp_path / "scaling_governor").write_text(f"{governor}\n", encoding="ascii")
    (tmp_path / "scaling_driver").write_text(f"{driver}\n", encoding="ascii")
    monkeypatch.setattr(machine, "_GOVERNOR", tmp_path / "scaling_governor")
    findings = {finding.name: finding for finding in machine.processor()}
    assert findings["CPU governor"].status == status


def test_fewer_usable_cores_than_present(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr("edgevit.device.usage.usable_cores", lambda: 3)
    assert "3 of 64 cores usable" in machine.processor()[0].detail


def test_a_virtual_machine_is_named(monkeypatch, tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags\t\t: fpu hypervisor lm\n", encoding="ascii")
    monkeypatch.setattr(machine, "_CPUINFO", cpuinfo)
    assert "virtual machine" in machine.processor()[0].detail


def test_little_memory(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=200 << 20, total=1 << 30))
    assert machine.memory()[0].status == "warning"


def test_folders_full_and_unwritable(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert [finding.status for finding in machine.folders()] == ["ok", "ok"]
    monkeypatch.setattr(psutil, "disk_usage", lambda path: SimpleNamespace(free=10 << 20))
    assert [finding.status for finding in machine.folders()] == ["warning", "warning"]
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "file" / "cache"))
    cache = machine.folders()[1]
    assert cache.status == "error"
    assert cache.advice is not None
    assert "EDGEVIT_CACHE_DIR" in cache.advice


def test_probes_leave_nothing_in_the_temporary_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tools.zig()
    if shutil.which("qemu-arm-static"):
        emulators.emulators()
    assert list(tmp_path.iterdir()) == []
