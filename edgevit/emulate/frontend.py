"""Would a device's OpenCL compiler take the text? Asked of clang's front end, told the device's version and extensions.

Clang's front end is what most OpenCL drivers are built on. It knows which types and functions belong to which version
and extension, so a text that needs fp16 is refused where the device has none.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from edgevit.emulate.build import native_folder, tool
from edgevit.emulate.library import Kernel, Shipped
from edgevit.errors import CheckFailed, ToolchainError

if TYPE_CHECKING:
    from edgevit.target_schema import Gpu

_SECONDS = 300.0
# What drivers may refuse, or what no driver can give a meaning.
_ERRORS = (
    "array-bounds",
    "division-by-zero",
    "incompatible-pointer-types",
    "int-conversion",
    "return-type",
    "shift-count-overflow",
    "sometimes-uninitialized",
    "uninitialized",
    "vla",
)


def check_front_end(shipped: Shipped, gpu: Gpu) -> str:
    """Have every kernel of an OpenCL artifact read for its device.

    Returns:
        What was asked: tool, version of the language, extensions.

    Raises:
        CheckFailed: the front end refuses a kernel.
        ToolchainError: it could not be run.
    """
    flags = tuple(_flags(gpu))
    kernels = list(shipped.kernels.values())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        refusals = list(pool.map(lambda kernel: _refusal(kernel, flags), kernels))
    for kernel, refusal in zip(kernels, refusals, strict=True):
        if refusal is not None:
            raise CheckFailed(
                f"an OpenCL compiler for {gpu.language} would refuse the text: {refusal}.",
                where=f"kernel {kernel.name}",
                advice="The device cannot build this kernel: compile the model again, or correct the target.",
            )
    extensions = ", ".join(gpu.extensions) or "no extensions"
    return f"front end of {tool()}, {gpu.language}, {extensions}"


@cache
def _refusal(kernel: Kernel, flags: tuple[str, ...]) -> str | None:
    """The first error in a kernel's text; None if there is none."""
    text = f'#line 1 "{kernel.name}"\n{kernel.text}\n'
    command = [sys.executable, "-m", "ziglang", "clang", *flags, "-"]
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ToolchainError(f"clang did not read kernel {kernel.name} within {_SECONDS:.0f} s.") from None
    if not done.returncode:
        return None
    lines = done.stderr.splitlines()
    first = next((line.strip() for line in lines if "error:" in line), None)
    if first is None:
        raise ToolchainError(f"clang's OpenCL front end failed: {lines[-1] if lines else done.returncode}.")
    return first.rstrip(".")


def _flags(gpu: Gpu) -> list[str]:
    enabled = ",".join(["-all", *(f"+{name}" for name in gpu.extensions)])
    return [
        *("-x", "cl", f"-cl-std={gpu.language}", "-target", "spir64", "-cl-no-stdinc", "-fsyntax-only"),
        *("-Xclang", f"-cl-ext={enabled}", "-Xclang", "-fdeclare-opencl-builtins"),
        *("-include", str(native_folder() / "opencl" / "front_end.h")),
        *(f"-Werror={name}" for name in _ERRORS),
    ]
