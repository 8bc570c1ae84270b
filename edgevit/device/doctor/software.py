"""Probes of Python packages: what is installed, and whether TVM and its FFI get along."""

from __future__ import annotations

import platform
import signal
import sys
from importlib.metadata import PackageNotFoundError, version

from edgevit.device.doctor.command import run
from edgevit.device.doctor.finding import Finding, error, ok

_PACKAGES = (
    "edgevit",
    "apache-tvm",
    "apache-tvm-ffi",
    "onnx",
    "onnxsim",
    "onnxruntime",
    "numpy",
    "ziglang",
)

# The FFI version each TVM release is known to work with. Only advice: whether they get along is tried out.
_FFI_FOR_TVM = {"0.27.0.post1": "0.1.14.post1"}

_SAVE_A_FUNCTION = """
import tvm
from tvm import te
a = te.placeholder((4,), name="a")
b = te.compute((4,), lambda i: a[i] + 1.0, name="b")
text = tvm.ir.save_json(te.create_prim_func([a, b]))
tvm.ir.load_json(text)
print(len(text))
"""
_SAVE_TIMEOUT = 120.0


def versions() -> list[Finding]:
    """Versions of Python and of the packages that decide what works."""
    findings = [ok("Python", f"{platform.python_version()} ({sys.executable})")]
    for package in _PACKAGES:
        found = installed(package)
        if found is None:
            findings.append(error(package, "not installed", f"pip install {_pinned(package)}"))
        else:
            findings.append(ok(package, found))
    return findings


def saves_functions() -> list[Finding]:
    """Whether TVM survives saving a function as JSON, which the wrong FFI version makes crash.

    Tried in a process of its own, so the answer holds for any pair of versions, known or not.
    """
    name = "TVM and its FFI"
    tvm, ffi = installed("apache-tvm"), installed("apache-tvm-ffi")
    if tvm is None or ffi is None:
        return []  # said by versions()
    done = run([sys.executable, "-c", _SAVE_A_FUNCTION], timeout=_SAVE_TIMEOUT)
    pair = f"apache-tvm {tvm} with apache-tvm-ffi {ffi}"
    if done.code == 0:
        return [ok(name, f"{pair} saves functions")]
    if done.code is not None and done.code < 0:
        trouble = f"the process died of {_signal_name(-done.code)}"
    else:
        trouble = done.trouble
    known = _FFI_FOR_TVM.get(tvm)
    if known is not None and known != ffi:
        advice = f"pip install apache-tvm-ffi=={known}"
    else:
        advice = f"pip install --force-reinstall {_pinned('apache-tvm')} {_pinned('apache-tvm-ffi')}"
    return [error(name, f"{pair} cannot save a function: {trouble}", advice)]


def installed(package: str) -> str | None:
    """Version of an installed distribution."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pinned(package: str) -> str:
    tvm, ffi = next(iter(_FFI_FOR_TVM.items()))
    return {"apache-tvm": f"apache-tvm=={tvm}", "apache-tvm-ffi": f"apache-tvm-ffi=={ffi}"}.get(package, package)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
