"""The functions that compiled code may ask of the program and the system that load it.

``runtime/loader/host_symbols.inc`` lists what edgevit's device server provides. The same list bounds what a linked
library may leave undefined, so that a library which links also loads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from edgevit.resources import resource_folder
from edgevit.target_schema import Target

_LINE = re.compile(r"^(TVM_API|HELPER|LIBC|LIBM)\((\w+)\)$", re.MULTILINE)

# What LLVM or a compiler's start files may call beside the list, by operating system.
_EXTRA_LIBC = {
    "linux": ("__cxa_finalize",),
    "android": ("__cxa_atexit", "__cxa_finalize"),
    "macos": ("__bzero", "bzero", "memset_pattern4", "memset_pattern8", "memset_pattern16"),
    "ios": ("__bzero", "bzero", "memset_pattern4", "memset_pattern8", "memset_pattern16"),
}
_EXTRA_LIBM = {
    "linux": ("exp10", "exp10f", "roundeven", "roundevenf", "sincos", "sincosf"),
    "android": ("sincos", "sincosf"),
    "macos": ("__exp10", "__exp10f", "__sincos_stret", "__sincosf_stret"),
    "ios": ("__exp10", "__exp10f", "__sincos_stret", "__sincosf_stret"),
}


@dataclass(frozen=True)
class HostSymbols:
    """Names of C functions, by the library that provides them.

    Attributes:
        ffi: ``libtvm_ffi``, the C interface of TVM's calling convention.
        runtime: ``libtvm_runtime``, threads and workspaces.
        libc: the C library.
        libm: its mathematics.
        helpers: what compilers call for missing instructions; a linker adds them to the library itself where it can.
    """

    ffi: frozenset[str]
    runtime: frozenset[str]
    libc: frozenset[str]
    libm: frozenset[str]
    helpers: frozenset[str]

    @property
    def system(self) -> frozenset[str]:
        """Those of the C library and its mathematics."""
        return self.libc | self.libm

    @property
    def tvm(self) -> frozenset[str]:
        """Those of TVM's runtime."""
        return self.ffi | self.runtime

    @property
    def all(self) -> frozenset[str]:
        """Every function that may stay undefined in a linked library."""
        return self.tvm | self.system


def host_symbols(target: Target) -> HostSymbols:
    """The functions that code for ``target`` may leave undefined."""
    listed = _listed()
    tvm = listed["TVM_API"]
    backend = frozenset(name for name in tvm if name.startswith("TVMBackend"))
    # Each line of LIBM stands for the double and the float function.
    libm = listed["LIBM"] | {f"{name}f" for name in listed["LIBM"]}
    return HostSymbols(
        ffi=tvm - backend,
        runtime=backend,
        libc=listed["LIBC"] | frozenset(_EXTRA_LIBC[target.system]),
        libm=libm | frozenset(_EXTRA_LIBM[target.system]),
        helpers=listed["HELPER"],
    )


@cache
def _listed() -> dict[str, frozenset[str]]:
    text = (resource_folder("runtime") / "loader" / "host_symbols.inc").read_text(encoding="utf-8")
    found: dict[str, set[str]] = {"TVM_API": set(), "HELPER": set(), "LIBC": set(), "LIBM": set()}
    for kind, name in _LINE.findall(text):
        found[kind].add(name)
    return {kind: frozenset(names) for kind, names in found.items()}
