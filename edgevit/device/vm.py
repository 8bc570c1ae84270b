"""What every session does with TVM's virtual machine, wherever it runs."""

from __future__ import annotations

import re
from typing import Any

from edgevit.device.session import last_line
from edgevit.errors import DeviceError, DeviceMismatch


def dismantle(machine: Any) -> None:
    """Free a virtual machine now: it refers to itself, and would wait for the garbage collector."""
    if machine is not None:
        vars(machine).clear()


def as_list(results: Any) -> list[Any]:
    """The outputs of a model that may have one or several."""
    return [results] if hasattr(results, "numpy") else list(results)


def no_gpu(api: str, where: str) -> DeviceMismatch:
    """What it means that a runtime has no device for kernels of a GPU."""
    name = {"opencl": "OpenCL", "metal": "Metal"}[api]
    advice = {
        "opencl": "Serve with a TVM runtime that was built with USE_OPENCL=ON; --emulate executes the kernels here.",
        "metal": "Serve from a Mac with 'edgevit devices serve'; --emulate executes the kernels here.",
    }[api]
    return DeviceMismatch(f"the runtime there has no {name} device.", where=where, advice=advice)


def load_error(error: Exception, address: str) -> DeviceError:
    """What a loader's failure means to the user."""
    text, last = str(error), last_line(error)
    if lacking := re.search(r"created using \{(opencl|metal)\} but a loader of that name is not registered", text):
        return no_gpu(lacking[1], address)
    wrong_machine = (
        "wrong ELF class",
        "Exec format",
        "invalid ELF",
        "cannot open shared object",
        "library is for",
    )
    if any(sign in text for sign in wrong_machine):
        return DeviceMismatch(
            f"the device cannot load the library: {last}",
            where=address,
            advice="Compile for this device's processor and C library: 'edgevit targets' lists what there is.",
        )
    if "GLIBC_" in text:
        return DeviceMismatch(
            f"the device's C library is too old: {last}",
            where=address,
            advice="Lower the version in the target's linking.zig_target, or use edgevit's own server.",
        )
    return DeviceError(f"loading failed: {last}", where=address, advice="Run 'edgevit devices doctor'.")
