"""Small libraries to link, right and wrong ones, and a reader of Mach-O that edgevit does not use."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

from edgevit.link import Linker
from edgevit.targets import get_target

SOURCE = """
int TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *message);
float expf(float);
int used_later = 3;
int *pointer = &used_later;
float __tvm_ffi_run(float x, int n) {
  if (n < *pointer) TVMFFIErrorSetRaisedFromCStr("ValueError", "too few");
  return expf(x);
}
"""


def zig(*arguments: str | Path) -> None:
    """Run a command of zig."""
    subprocess.run([sys.executable, "-m", "ziglang", *map(str, arguments)], check=True, capture_output=True)


def source(folder: Path, text: str = SOURCE, name: str = "code.c") -> Path:
    """The text as a file."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def linked(folder: Path, target: str, text: str = SOURCE, kind: str | None = None) -> Path:
    """``text`` as a library that edgevit's linker made for a target."""
    linker = Linker(get_target(target), kind)
    path = folder / linker.library
    linker(str(path), [str(compiled(folder, get_target(target).linking.zig_target, text))])
    return path


def compiled(folder: Path, zig_target: str = "aarch64-linux-android", text: str = SOURCE, *flags: str) -> Path:
    """``text`` as an object file; position-independent unless flags say otherwise."""
    path = folder / "code.o"
    plain = ["-O1", "-g0", "-fno-sanitize=undefined", *(flags or ("-fPIC",))]
    zig("cc", "-target", zig_target, *plain, "-c", source(folder, text), "-o", path)
    return path


def stub(folder: Path, name: str, *functions: str) -> Path:
    """A library of that name for 64-bit Android, with empty functions."""
    path = folder / name
    code = source(folder, "".join(f"void {one}(void) {{}}\n" for one in functions), "stub.c")
    target = ["-target", "aarch64-linux-android", "-fno-builtin", "-nostdlib"]
    zig("cc", *target, "-shared", f"-Wl,-soname,{name}", code, "-o", path)
    return path


def load_commands(data: bytes) -> dict[int, list[bytes]]:
    """Load commands of a 64-bit little-endian Mach-O file by number, from ``<mach-o/loader.h>``."""
    magic, cpu, _, _, count, _, _, _ = struct.unpack_from("<8I", data)
    assert (magic, cpu) == (0xFEEDFACF, 0x0100000C)  # 64-bit, ARM64
    found: dict[int, list[bytes]] = {}
    place = 32
    for _ in range(count):
        kind, size = struct.unpack_from("<2I", data, place)
        found.setdefault(kind & 0x7FFFFFFF, []).append(data[place : place + size])
        place += size
    return found


def name_in(command: bytes) -> str:
    """The name in a command of a dynamic library."""
    return command[struct.unpack_from("<I", command, 8)[0] :].split(b"\0")[0].decode()
