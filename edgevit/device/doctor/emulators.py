"""Probes of QEMU's user-mode emulators."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path

from edgevit.device.doctor.command import run
from edgevit.device.doctor.finding import Finding, error, ok, warning

_ANSWER = 42
_INSTALL = "On Debian and Ubuntu: apt-get install qemu-user-static."


def emulators() -> list[Finding]:
    """Whether QEMU is there for arm64 and armv7, and runs a program."""
    return [
        _emulator("qemu-aarch64", "64-bit ARM", _aarch64_program()),
        _emulator("qemu-arm", "32-bit ARM", _arm_program()),
    ]


def _emulator(program: str, architecture: str, image: bytes) -> Finding:
    path = shutil.which(f"{program}-static") or shutil.which(program)
    if path is None:
        return warning(program, f"not installed: --emulate cannot run {architecture} code", _INSTALL)
    said = run([path, "--version"])
    with tempfile.TemporaryDirectory(prefix="edgevit-doctor-") as folder:
        binary = Path(folder) / "answer"
        binary.write_bytes(image)
        binary.chmod(0o700)
        done = run([path, str(binary)])
    if done.code != _ANSWER:
        trouble = done.trouble or "the program's exit status is wrong"
        return error(program, f"{path} does not run a {architecture} program: {trouble}", _INSTALL)
    return ok(program, f"{said.first_line or path} runs {architecture} programs")


# Programs of three instructions, written out so that this probe depends on no compiler: exit(42).


def _aarch64_program() -> bytes:
    code = struct.pack("<III", 0xD2800000 | _ANSWER << 5, 0xD2800BA8, 0xD4000001)  # mov x0; mov x8, 93; svc
    base, headers = 0x400000, 64 + 56
    size, machine = headers + len(code), 183
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, machine, 1, base + headers, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    return header + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000) + code


def _arm_program() -> bytes:
    code = struct.pack("<III", 0xE3A00000 | _ANSWER, 0xE3A07001, 0xEF000000)  # mov r0; mov r7, 1; svc
    base, headers = 0x400000, 52 + 32
    size, machine, eabi5 = headers + len(code), 40, 0x05000000
    header = struct.pack(
        "<16sHHIIIIIHHHHHH",
        b"\x7fELF\x01\x01\x01", 2, machine, 1, base + headers, 52, 0, eabi5, 52, 32, 1, 0, 0, 0,
    )  # fmt: skip
    return header + struct.pack("<IIIIIIII", 1, 0, base, base, size, size, 5, 0x1000) + code
