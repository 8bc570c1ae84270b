"""Execute a GPU artifact's kernels, as shipped, on a machine without that GPU, and check what they do to memory."""

from __future__ import annotations

import platform
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgevit.target_schema import Target

_ARCHITECTURES = ("x86_64", "aarch64")


def available(target: Target) -> str | None:
    """Why the kernels of a target cannot be emulated on this machine; None where they can."""
    if target.gpu is None:
        return f"{target.name} has no GPU"
    if not sys.platform.startswith("linux"):
        return "kernels of GPUs are emulated on Linux only"
    if platform.machine() not in _ARCHITECTURES:
        return f"kernels of GPUs cannot be emulated on {platform.machine()}"
    if find_spec("ziglang") is None:
        return "ziglang, whose clang compiles the kernels, is not installed"
    if find_spec("lief") is None:
        return "lief, which reads the library, is not installed"
    return None
