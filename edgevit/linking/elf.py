"""Flags and inputs of ELF libraries, for Linux and Android."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from edgevit.linking.symbols import host_symbols
from edgevit.linking.tools import Tool
from edgevit.target_schema import Target

LIBC, LIBM, LIBTVM_FFI, LIBTVM_RUNTIME = "libc.so", "libm.so", "libtvm_ffi.so", "libtvm_runtime.so"
"""What Android's libraries call what they load: its own, and the two that TVM's build makes."""


def page_bytes(target: Target) -> int:
    """Alignment of segments: the largest page of the kernels that may load the library.

    64-bit ARM Linux comes with pages of 4, 16 and 64 KiB. Android has 4 or 16
    (https://developer.android.com/guide/practices/page-sizes).
    """
    if target.system == "android":
        return 16384
    return 65536 if target.architecture == "aarch64" else 4096


def elf_flags(target: Target, name: str) -> list[str]:
    """Flags that make a library called ``name``."""
    flags = ["-shared", "-fPIC", "-s", "-g0", f"-Wl,-soname,{name}", "-Wl,--build-id=none"]
    flags += ["-Wl,-z,relro", "-Wl,-z,now", "-Wl,-z,noexecstack"]
    if page_bytes(target) > 4096:
        flags.append(f"-Wl,-z,max-page-size={page_bytes(target)}")
    return flags


def android_inputs(folder: Path, tool: Tool, target: Target) -> list[str]:
    """Arguments that name the libraries an Android library loads.

    A name in ``DT_NEEDED`` needs a file when linking, not its code. Neither TVM's runtime for Android nor, beside
    zig, Android's own libraries are there; libraries of empty functions with the same names stand in for them.

    Args:
        folder: where the stand-ins are made.
        tool: what makes them.
        target: what they are for.
    """
    symbols = host_symbols(target)
    stubs = {LIBTVM_FFI: symbols.ffi, LIBTVM_RUNTIME: symbols.runtime}
    if tool.kind == "zig":
        stubs |= {LIBM: symbols.libm, LIBC: symbols.libc}
    for name, functions in stubs.items():
        (folder / name).write_bytes(_stub(tool, name, functions))
    needed = [] if tool.kind == "zig" else ["-lm"]
    flags = ["-Wl,--no-undefined", f"-L{folder}", "-Wl,--no-as-needed", f"-l:{LIBTVM_FFI}"]
    # Few models use threads of the runtime's pool or its workspaces.
    flags += ["-Wl,--as-needed", f"-l:{LIBTVM_RUNTIME}", "-Wl,--no-as-needed", *needed]
    if tool.kind == "zig":
        # -nostdlib drops zig's helpers of compiled code as well; -rtlib brings them back.
        flags += [f"-l:{LIBM}", f"-l:{LIBC}", "-nostdlib", "-rtlib=compiler-rt"]
        if target.architecture == "arm":
            flags.append(_unwinder(folder))
    return flags


def _unwinder(folder: Path) -> str:
    """C file with the function that LLVM's unwinding tables name, and that nothing here calls.

    zig's helpers have it too, in one piece with functions of libm, which would then be used instead of Android's:
    those of zig do without the processor's floating point.
    """
    source = folder / "unwinder.c"
    source.write_text('__attribute__((visibility("hidden"))) void __aeabi_unwind_cpp_pr0(void) {}\n', encoding="utf-8")
    return str(source)


@cache
def _stub(tool: Tool, name: str, functions: frozenset[str]) -> bytes:
    lines = "".join(f".globl {one}\\n.type {one},%function\\n{one}:\\n" for one in sorted(functions))
    with tempfile.TemporaryDirectory(prefix="edgevit-stub-") as folder:
        source, library = Path(folder) / "stub.c", Path(folder) / name
        source.write_text(f'__asm__(".text\\n{lines}");\n', encoding="utf-8")
        tool.run(["-shared", "-nostdlib", "-s", "-g0", f"-Wl,-soname,{name}", str(source), "-o", str(library)])
        return library.read_bytes()
