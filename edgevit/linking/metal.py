"""Metal kernels compiled ahead of time, where Xcode is installed.

An artifact holds its kernels as text, which Metal compiles when a model is loaded. A ``.metallib`` of the same
kernels saves that time. Only Apple's compiler makes one
(https://developer.apple.com/documentation/metal/building-a-shader-library-by-precompiling-source-files).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from edgevit.linking.tools import run
from edgevit.target_schema import Target

_SDKS = {"macos": "macosx", "ios": "iphoneos"}
_MINIMUM = {"macos": "-mmacosx-version-min", "ios": "-mios-version-min"}


METALLIB = "model.metallib"
"""Name of the compiled kernels in an artifact."""


def precompiled(library: bytes, target: Target) -> dict[str, bytes]:
    """The kernels of a linked library as a further file of the artifact; nothing without Xcode, or off Metal.

    Raises:
        ToolchainError: Apple's compiler refused a kernel.
    """
    from edgevit.emulate.library import library_blob, parse_blob

    if target.gpu is None or target.gpu.api != "metal" or shutil.which("xcrun") is None:
        return {}
    kernels = parse_blob(library_blob(library)).kernels
    compiled = build_metallib({name: kernel.text for name, kernel in kernels.items()}, target)
    return {METALLIB: compiled} if compiled else {}


def build_metallib(sources: Mapping[str, str], target: Target) -> bytes | None:
    """One library of kernels, or None where ``xcrun`` is not installed.

    Args:
        sources: text in Metal's shading language, by the name of its kernel.
        target: a Metal target; its language version and oldest system hold for the library.

    Raises:
        ToolchainError: Apple's compiler refused a kernel.
    """
    xcrun = shutil.which("xcrun")
    if xcrun is None or target.gpu is None or target.gpu.api != "metal" or not sources:
        return None
    program = [xcrun, "-sdk", _SDKS[target.system]]
    flags = [f"-std={_standard(target)}"]
    if target.linking.minimum_os:
        flags.append(f"{_MINIMUM[target.system]}={target.linking.minimum_os}")
    with tempfile.TemporaryDirectory(prefix="edgevit-metal-") as name:
        folder = Path(name)
        compiled = []
        # Numbers, because two names of kernels may differ by what file systems do not tell apart.
        for index, kernel in enumerate(sorted(sources)):
            source, output = folder / f"{index}.metal", folder / f"{index}.air"
            source.write_text(sources[kernel], encoding="utf-8")
            command = [*program, "metal", *flags, "-c", str(source), "-o", str(output)]
            run(command, f"Apple's compiler, kernel {kernel}", "compiling")
            compiled.append(str(output))
        library = folder / "kernels.metallib"
        run([*program, "metallib", *compiled, "-o", str(library)], "Apple's metallib")
        return library.read_bytes()


def _standard(target: Target) -> str:
    """The language version as Apple's compiler spells it, which before Metal 3 names the system too."""
    assert target.gpu is not None
    number = target.gpu.language.removeprefix("metal")
    if int(number.partition(".")[0]) >= 3:
        return f"metal{number}"
    return f"{'ios' if target.system == 'ios' else 'macos'}-metal{number}"
