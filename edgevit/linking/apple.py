"""Libraries for macOS, and archives and libraries for iOS."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from edgevit.errors import ToolchainError
from edgevit.linking.symbols import host_symbols
from edgevit.linking.tools import Tool, run, zig_program
from edgevit.target_schema import Target

LIBSYSTEM = "/usr/lib/libSystem.B.dylib"
"""Apple's C library; its loader refuses a library that does not name it."""


def install_name(name: str) -> str:
    """Name under which programs that link a library look for it."""
    return f"@rpath/{name}"


def macos_flags(target: Target, tool: Tool, name: str) -> list[str]:
    """Flags that make a library called ``name``."""
    # The runtime that loads the library provides its undefined symbols.
    flags = ["-shared", "-fPIC", "-s", "-g0", "-Wl,-undefined,dynamic_lookup"]
    if tool.kind == "system" and target.linking.minimum_os:
        flags.append(f"-mmacosx-version-min={target.linking.minimum_os}")
    return [*flags, f"-Wl,-install_name,{install_name(name)}"]


def make_archive(output: Path, objects: Sequence[str], description: str) -> None:
    """Static library of object files, without the time and the owner of any.

    Raises:
        ToolchainError: zig is missing or failed.
    """
    program, _ = zig_program()
    output.unlink(missing_ok=True)  # else members are added to it
    run([*program, "ar", "--format=darwin", "rcsD", str(output), *objects], description)


def find_ld64() -> str | None:
    """Path of LLVM's linker for Apple's systems, of any version; None where there is none."""
    if path := shutil.which("ld64.lld"):
        return path
    for version in range(40, 13, -1):
        if path := shutil.which(f"ld64.lld-{version}"):
            return path
    return None


def link_ios_library(output: Path, objects: Sequence[str], target: Target, linker: str) -> None:
    """Dynamic library for iOS, signed ad hoc: Xcode signs it again when an app is built.

    Args:
        output: where to write it.
        objects: object files.
        target: an iOS target with a minimum version.
        linker: path of ``ld64.lld``.

    Raises:
        ToolchainError: the linker failed.
    """
    stub = output.with_name("libSystem.tbd")
    stub.write_text(_text_stub(target), encoding="utf-8")
    minimum = _minimum(target)
    command = [linker, "-arch", "arm64", "-platform_version", "ios", minimum, minimum, "-dylib"]
    command += ["-undefined", "dynamic_lookup", "-install_name", install_name(output.name)]
    command += ["-adhoc_codesign", "-S", "-x"]
    run([*command, *objects, str(stub), "-o", str(output)], Path(linker).name)


def _minimum(target: Target) -> str:
    if target.linking.minimum_os is None:
        raise ToolchainError(
            "the target names no oldest version of the system.",
            where=f"{target.name}: linking.zig_target",
            advice="End it with a version, such as aarch64-ios.15.0.",
        )
    return target.linking.minimum_os


def _text_stub(target: Target) -> str:
    """What a linker must know of Apple's C library, in the text form that SDKs have it."""
    names = ", ".join(f"_{name}" for name in sorted(host_symbols(target).system))
    return f"""\
--- !tapi-tbd
tbd-version: 4
targets: [ arm64-ios ]
install-name: '{LIBSYSTEM}'
exports:
  - targets: [ arm64-ios ]
    symbols: [ {re.sub(r"(.{90,}?, )", lambda found: found.group(1) + chr(10) + "               ", names)} ]
...
"""
