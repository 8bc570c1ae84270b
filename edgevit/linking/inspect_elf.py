"""What an ELF library must be for Linux or Android to load it.

Android's rules: https://android.googlesource.com/platform/bionic/+/main/android-changes-for-ndk-developers.md
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgevit.linking.elf import LIBC, LIBM, LIBTVM_FFI, LIBTVM_RUNTIME, page_bytes
from edgevit.linking.reading import named
from edgevit.linking.symbols import host_symbols
from edgevit.target_schema import Target

_MACHINES = {"aarch64": "AARCH64", "arm": "ARM", "x86_64": "X86_64"}
# Bits of e_flags (https://github.com/ARM-software/abi-aa, "ELF for the Arm Architecture"): how floats are passed.
_ARM_SOFT_FLOAT, _ARM_HARD_FLOAT = 0x200, 0x400
_DF_TEXTREL = 0x4

_ANDROID_REQUIRED = frozenset({LIBC, LIBM, LIBTVM_FFI})
_ANDROID_ALLOWED = _ANDROID_REQUIRED | {LIBTVM_RUNTIME, "libdl.so"}
_LINUX_ALLOWED = frozenset({"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1"})


def elf_violations(data: bytes, target: Target, name: str) -> list[str]:
    """What is wrong with an ELF library, each as a clause without a full stop; empty when nothing is."""
    import lief

    binary = lief.ELF.parse(data)
    if binary is None:
        return ["it is not an ELF file"]
    return [
        *_header(binary, target),
        *_segments(binary, target),
        *_dynamic(binary, target, name),
        *_undefined(binary, target),
    ]


def _header(binary: Any, target: Target) -> Iterator[str]:
    header = binary.header
    machine = named(header.machine_type)
    if machine != _MACHINES[target.architecture]:
        yield f"it is for the machine {machine}"
    if named(header.file_type) != "DYN":
        yield "it is no shared library"
    wrong = {"hard": _ARM_SOFT_FLOAT, "soft": _ARM_HARD_FLOAT}.get(target.float_abi or "")
    if wrong and header.processor_flag & wrong:
        yield f"its header says that floats are passed the other way than float_abi = {target.float_abi!r}"


def _segments(binary: Any, target: Target) -> Iterator[str]:
    kinds = {named(segment.type) for segment in binary.segments}
    page = page_bytes(target)
    for segment in binary.segments:
        kind, flags = named(segment.type), int(segment.flags)
        writable, executable = bool(flags & 2), bool(flags & 1)
        if kind == "LOAD" and (segment.alignment < page or (segment.virtual_address - segment.file_offset) % page):
            yield f"a segment is aligned to {segment.alignment} bytes, not to pages of {page}"
        if kind == "LOAD" and writable and executable:
            yield "a segment is writable and executable"
        if kind == "GNU_STACK" and executable:
            yield "it asks for an executable stack"
        if kind == "TLS":
            yield "it has thread-local storage"
    if "GNU_STACK" not in kinds:
        yield "it does not say that its stack is not executable"
    if "GNU_RELRO" not in kinds:
        yield "nothing becomes read-only after relocation (RELRO)"


def _dynamic(binary: Any, target: Target, name: str) -> Iterator[str]:
    entries = {named(entry.tag): entry for entry in binary.dynamic_entries}
    if "TEXTREL" in entries or ("FLAGS" in entries and entries["FLAGS"].value & _DF_TEXTREL):
        yield "it has relocations in its code (text relocations)"
    soname = entries["SONAME"].name if "SONAME" in entries else None
    if soname != name:
        yield f"its name inside (SONAME) is {soname!r}, not {name!r}"
    needed = set(binary.libraries)
    android = target.system == "android"
    if android and (missing := sorted(_ANDROID_REQUIRED - needed)):
        yield f"it does not name what it loads (DT_NEEDED): {', '.join(missing)}"
    allowed = _ANDROID_ALLOWED if android else _LINUX_ALLOWED
    # glibc's loader lends functions of its own, and is named after the architecture.
    if strange := sorted(one for one in needed - allowed if android or not one.startswith("ld-linux")):
        yield f"it would load (DT_NEEDED) {', '.join(strange)}"


def _undefined(binary: Any, target: Target) -> Iterator[str]:
    symbols = host_symbols(target)
    # Shared libraries of GCC hold the helpers on 32-bit ARM Linux; elsewhere a linker copies them.
    allowed = symbols.all | (symbols.helpers if target.system == "linux" else frozenset())
    # Section 0 is that of undefined symbols; the first entry of every table is one without a name.
    names = {s.name for s in binary.dynamic_symbols if s.shndx == 0 and s.name and named(s.binding) != "WEAK"}
    if strange := sorted(names - allowed):
        yield f"nothing provides the functions it calls: {', '.join(strange)}"
