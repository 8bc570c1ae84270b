"""TVM and its FFI: the live trial decides, the table of pins only words the advice."""

from __future__ import annotations

import pytest

from edgevit.device.doctor import software
from edgevit.device.doctor.command import Result, run


def pretend(monkeypatch, *, tvm="0.27.0.post1", ffi="0.1.14.post1", result=None):
    installed = {"apache-tvm": tvm, "apache-tvm-ffi": ffi}
    monkeypatch.setattr(software, "installed", lambda name: installed.get(name, "1.0"))
    if result is not None:
        monkeypatch.setattr(software, "run", lambda command, timeout: result)


def test_a_crash_is_an_error_with_the_command_that_mends_it(monkeypatch):
    pretend(monkeypatch, ffi="0.1.15", result=Result(-11, trouble="signal 11"))
    (finding,) = software.saves_functions()
    assert finding.status == "error"
    assert "apache-tvm-ffi 0.1.15" in finding.detail
    assert "SIGSEGV" in finding.detail
    assert finding.advice == "pip install apache-tvm-ffi==0.1.14.post1"


def test_a_type_error_of_an_older_ffi(monkeypatch):
    pretend(monkeypatch, ffi="0.1.13", result=Result(1, trouble="exit status 1: TypeError: no"))
    (finding,) = software.saves_functions()
    assert finding.status == "error"
    assert "TypeError" in finding.detail
    assert finding.advice == "pip install apache-tvm-ffi==0.1.14.post1"


def test_a_hang_is_an_error(monkeypatch):
    pretend(monkeypatch, result=Result(None, trouble="it did not end within 120 s"))
    (finding,) = software.saves_functions()
    assert finding.status == "error"
    assert "did not end" in finding.detail
    assert finding.advice is not None
    assert "--force-reinstall" in finding.advice


def test_a_pair_of_versions_nobody_knows_passes_if_it_works(monkeypatch):
    pretend(monkeypatch, tvm="0.28.0", ffi="0.2.0", result=Result(0, "5264"))
    (finding,) = software.saves_functions()
    assert finding.status == "ok"


def test_the_installed_pair_is_tried_for_real():
    (finding,) = software.saves_functions()
    assert finding.status == "ok", finding.detail


def test_a_process_that_crashes_is_seen_as_such():
    import sys

    done = run([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
    assert done.code == -11


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    pretend(monkeypatch, ffi=None)
    findings = {finding.name: finding for finding in software.versions()}
    assert findings["apache-tvm-ffi"].status == "error"
    assert findings["apache-tvm-ffi"].advice == "pip install apache-tvm-ffi==0.1.14.post1"
    assert findings["onnx"].status == "ok"
    assert software.saves_functions() == []


@pytest.mark.parametrize(
    ("code", "trouble"),
    [("import sys; sys.exit('no room')", "exit status 1: no room"), ("import time; time.sleep(60)", "within 0.5 s")],
)
def test_commands_that_fail_say_why(code, trouble):
    import sys

    assert trouble in run([sys.executable, "-c", code], timeout=0.5 if "sleep" in code else 30).trouble


def test_a_command_that_does_not_exist(tmp_path):
    done = run([str(tmp_path / "absent")])
    assert done.code is None
    assert "No such file" in done.trouble
