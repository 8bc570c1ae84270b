"""What the device server is made of: sources, flags, versions; and zig's names for the devices."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgevit.errors import TargetError, ToolchainError
from edgevit.resources import resource_folder

# What of the two wheels goes in. Left out: everything for GPUs and language models, back traces, the
# structural operations on IR, the client's side of sockets (the server has its own) and dlopen.
_FFI_SOURCES = [
    "backtrace",
    "container",
    "custom_allocator",
    "dtype",
    "error",
    "function",
    "init_once",
    "object",
    "tensor",
    "extra/env_c_api",
    "extra/env_context",
    "extra/json_parser",
    "extra/json_writer",
    "extra/library_module",
    "extra/module",
]
_RUNTIME_SOURCES = [
    "const_loader_module",
    "cpu_device_api",
    "device_api",
    "file_utils",
    "module",
    "tensor",
    "thread_pool",
    "threading_backend",
    "timer",
    "workspace_pool",
    "memory/memory_manager",
    "vm/builtin",
    "vm/bytecode",
    "vm/executable",
    "vm/vm",
    "rpc/rpc_device_api",
    "rpc/rpc_endpoint",
    "rpc/rpc_local_session",
    "rpc/rpc_module",
    "rpc/rpc_session",
]

# The kernels come from the models' libraries; the runtime's own speed hardly matters. Links must say it
# too: zig compiles its libraries anew for each level.
OPTIMIZE = "-Os"

# Architecture as triples spell it, to zig's triple and the processor every such device has.
_ZIG_TARGETS = {
    "x86_64": ("x86_64-linux-musl", "x86_64"),
    "aarch64": ("aarch64-linux-musl", "generic"),
    "armv7": ("arm-linux-musleabihf", "generic+v7a+neon+vfp3"),
    # Android passes floats in integer registers, and so must whoever calls its libraries.
    "armv7-android": ("arm-linux-musleabi", "generic+v7a+neon+vfp3"),
}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "armv7a": "armv7", "armv7l": "armv7", "armv7hf": "armv7"}


@dataclass(frozen=True)
class Platform:
    """Zig's names for the device to compile for."""

    triple: str
    cpu: str

    @property
    def flags(self) -> list[str]:
        """What every command of zig for this device starts with."""
        return ["-target", self.triple, f"-mcpu={self.cpu}"]


@dataclass(frozen=True)
class Unit:
    """Sources compiled as one file: their headers, which cost most of the time, are then read once."""

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    folders: tuple[str, ...]  # of ``runtime``: where its own sources and headers lie
    weight: int  # share of the progress bar, about seconds


def platform_for(target_triple: str, cpu: str | None) -> Platform:
    """Zig's names for a device, from its triple as LLVM or Android spells it.

    Raises:
        TargetError: no server exists for such a device.
    """
    architecture, _, system = target_triple.partition("-")
    architecture = _ALIASES.get(architecture, architecture)
    android = "android" in system
    known_floats = "eabihf" in system or android
    if architecture == "arm" and known_floats:
        architecture = "armv7"
    is_linux = "linux" in system or android
    if architecture not in _ZIG_TARGETS or not is_linux or (architecture == "armv7" and not known_floats):
        raise TargetError(
            "there is no device server for this target.",
            where=target_triple,
            advice="It exists for Linux and Android on x86_64, aarch64 and armv7; on armv7 Linux with hard float.",
        )
    if architecture == "armv7" and android:
        architecture = "armv7-android"
    triple, default_cpu = _ZIG_TARGETS[architecture]
    return Platform(triple, cpu or default_cpu)


def server_version() -> str:
    """Version of the server this installation builds, as a running server reports it.

    It changes with the server's sources and with the versions of TVM and zig, not with the device.
    """
    return f"{(resource_folder('runtime') / 'VERSION').read_text().strip()}+{source_hash()[:12]}"


@cache
def source_hash(*folders: str) -> str:
    """Hash of the packages' versions and of our sources: all, or those in some folders of ``runtime``."""
    runtime = resource_folder("runtime")
    roots = [runtime / folder for folder in folders] or [runtime]
    own = sorted(path for root in roots for path in root.rglob("*") if _is_source(path))
    versions = [f"{name} {_version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "ziglang")]
    recipe = [*_FFI_SOURCES, *_RUNTIME_SOURCES, OPTIMIZE]
    contents = (path.read_bytes().decode("utf-8", "surrogateescape") for path in own)
    return digest([*versions, *recipe, *(path.relative_to(runtime).as_posix() for path in own), *contents])


def _is_source(path: Path) -> bool:
    # Hidden files belong to editors and formatters.
    return path.is_file() and not path.name.startswith(".")


def digest(parts: Iterable[str]) -> str:
    """Hash of a sequence of strings, in hexadecimal."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise ToolchainError(
            f"the package {distribution} is not installed.", advice=f"Run: pip install {distribution}"
        ) from None


def _package_folder(name: str) -> Path:
    # Not imported: TVM takes a second to load, and only its files are wanted.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or not (Path(spec.origin).parent / "src").is_dir():
        raise ToolchainError(
            f"the installed {name} does not carry the C++ sources of its runtime.",
            advice="Install apache-tvm and apache-tvm-ffi as wheels from PyPI.",
        )
    return Path(spec.origin).parent


def compile_flags() -> list[str]:
    """Flags of every compilation that do not depend on where things are installed."""
    return [
        OPTIMIZE,
        "-g0",
        "-w",
        "-ffunction-sections",
        "-fdata-sections",
        "-fvisibility=hidden",
        "-fno-sanitize=undefined",
        "-DTVM_FFI_USE_LIBBACKTRACE=0",
        "-DTVM_FFI_BACKTRACE_ON_SEGFAULT=0",
        # The header that guesses it knows only glibc.
        "-DTVM_FFI_CMAKE_LITTLE_ENDIAN=1",
        "-DTVM_FFI_EXPORTS",
        "-DTVM_RUNTIME_EXPORTS",
        "-DTVM_LOG_CUSTOMIZE=1",
    ]


def link_flags() -> list[str]:
    """Flags of the link."""
    # Threads of musl get 128 KiB of stack unless the executable asks for more; kernels need it.
    return ["-static", "-s", OPTIMIZE, "-Wl,--gc-sections", "-Wl,-z,stack-size=8388608"]


def path_flags(build_folder: Path) -> list[str]:
    """Include paths, and what keeps them out of the executable so that it is the same everywhere."""
    tvm, ffi, runtime = _package_folder("tvm"), _package_folder("tvm_ffi"), resource_folder("runtime")
    includes = [
        tvm / "include",
        ffi / "include",
        ffi / "3rdparty" / "dlpack" / "include",
        tvm / "src" / "runtime",
        ffi / "src" / "ffi",
        runtime / "shim",
        # TVM's sources include "../support/x.h" and "../../support/x.h" beside them, where the wheel has
        # nothing. From these two folders both lead to shim/support.
        runtime / "shim" / "support",
        runtime / "shim" / "tvm" / "support",
    ]
    prefixes = {tvm: "tvm", ffi: "tvm_ffi", runtime: "runtime", build_folder: "build"}
    return [
        *(f"-I{path}" for path in includes),
        *(f"-ffile-prefix-map={path}={name}" for path, name in prefixes.items()),
    ]


def units() -> list[Unit]:
    """All there is to compile, what takes longest first."""
    tvm, ffi, runtime = _package_folder("tvm"), _package_folder("tvm_ffi"), resource_folder("runtime")
    versions = {
        "EDGEVIT_VERSION": server_version(),
        "EDGEVIT_TVM_VERSION": _version("apache-tvm"),
        "EDGEVIT_TVM_FFI_VERSION": _version("apache-tvm-ffi"),
    }
    own = (*sorted((runtime / "server").glob("*.cc")), *sorted((runtime / "loader").glob("*.cc")))
    macros = tuple(f'-D{name}="{value}"' for name, value in versions.items())
    runtime_sources = tuple(tvm / "src" / "runtime" / f"{name}.cc" for name in _RUNTIME_SOURCES)
    ffi_sources = tuple(ffi / "src" / "ffi" / f"{name}.cc" for name in _FFI_SOURCES)
    symbols = (runtime / "loader" / "host_symbols.c",)
    cxx, shim = ("-std=c++20",), ("shim",)
    return [
        Unit("runtime", runtime_sources, cxx, shim, 22),
        Unit("ffi", ffi_sources, cxx, shim, 14),
        Unit("server", own, (*cxx, *macros), ("shim", "server", "loader"), 6),
        Unit("symbols", symbols, (), ("loader",), 1),
    ]
