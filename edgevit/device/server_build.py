"""Build the device server: one static executable, compiled by zig from the sources inside TVM's wheels.

The first build for a processor takes about a minute on two cores, most of it for zig's own C and C++
libraries. The result is cached, so later calls return at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import platformdirs

from edgevit.device.zig_jobs import ZigJobs
from edgevit.errors import TargetError, ToolchainError
from edgevit.files import staged_file
from edgevit.resources import resource_folder

Progress = Callable[[int, int], None]

# Seconds zig needs for each of its C and C++ libraries, which it compiles once per target.
_LIBRARY_WEIGHT = 32

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
_OPTIMIZE = "-Os"

# Architecture as triples spell it, to zig's triple and the processor every such device has.
_ZIG_TARGETS = {
    "x86_64": ("x86_64-linux-musl", "x86_64"),
    "aarch64": ("aarch64-linux-musl", "generic"),
    "armv7": ("arm-linux-musleabihf", "generic+v7a+neon+vfp3"),
}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64", "armv7a": "armv7", "armv7l": "armv7", "armv7hf": "armv7"}


@dataclass(frozen=True)
class _Platform:
    """Zig's names for the device to compile for."""

    triple: str
    cpu: str

    @property
    def flags(self) -> list[str]:
        return ["-target", self.triple, f"-mcpu={self.cpu}"]


@dataclass(frozen=True)
class _Unit:
    """Sources compiled as one file: their headers, which cost most of the time, are then read once."""

    name: str
    sources: tuple[Path, ...]
    flags: tuple[str, ...]
    folders: tuple[str, ...]  # of ``runtime``: where its own sources and headers lie
    weight: int  # share of the progress bar, about seconds


def build_server(target_triple: str, *, cpu: str | None = None, progress: Progress | None = None) -> Path:
    """Return the server executable for a device, building it if this version was not built before.

    Args:
        target_triple: the device's triple as LLVM or Android spells it, such as ``aarch64-linux-gnu``.
            The C library in it does not matter: the server brings its own.
        cpu: zig's name of a processor to compile for, instead of the oldest one of the architecture.
        progress: called with (done, total) as the build goes on; the units are about seconds.

    Raises:
        TargetError: no server exists for such a device.
        ToolchainError: zig is missing or failed, or the installed TVM carries no sources.
    """
    platform = _platform(target_triple, cpu)
    path = _server_path(platform)
    if path.exists():
        return path
    with _lock(path.parent / f"{path.name}.lock"):
        if not path.exists():
            _build(platform, path, progress or _ignore)
    return path


def server_cached(target_triple: str, *, cpu: str | None = None) -> Path | None:
    """The path `build_server` would return, if that needs no building."""
    path = _server_path(_platform(target_triple, cpu))
    return path if path.exists() else None


def server_version() -> str:
    """Version of the server this installation builds, as a running server reports it.

    It changes with the server's sources and with the versions of TVM and zig, not with the device.
    """
    return f"{(resource_folder('runtime') / 'VERSION').read_text().strip()}+{_source_hash()[:12]}"


def _ignore(done: int, total: int) -> None:
    """Progress nobody asked for."""


def _platform(target_triple: str, cpu: str | None) -> _Platform:
    architecture, _, system = target_triple.partition("-")
    architecture = _ALIASES.get(architecture, architecture)
    hard_float = "eabihf" in system or "android" in system
    if architecture == "arm" and hard_float:
        architecture = "armv7"
    is_linux = "linux" in system or "android" in system
    if architecture not in _ZIG_TARGETS or not is_linux or (architecture == "armv7" and not hard_float):
        raise TargetError(
            "there is no device server for this target.",
            where=target_triple,
            advice="It exists for Linux and Android on x86_64, aarch64 and armv7 with hard float.",
        )
    triple, default_cpu = _ZIG_TARGETS[architecture]
    return _Platform(triple, cpu or default_cpu)


def _cache_folder() -> Path:
    chosen = os.environ.get("EDGEVIT_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("edgevit")


def _server_path(platform: _Platform) -> Path:
    key = _digest([_source_hash(), *platform.flags, *_compile_flags(), *_link_flags()])
    return _cache_folder() / "server" / f"edgevit-server-{platform.triple}-{key[:20]}"


@cache
def _source_hash(*folders: str) -> str:
    """Hash of the packages' versions and of our sources: all, or those in some folders of ``runtime``."""
    runtime = resource_folder("runtime")
    roots = [runtime / folder for folder in folders] or [runtime]
    own = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
    versions = [f"{name} {_version(name)}" for name in ("apache-tvm", "apache-tvm-ffi", "ziglang")]
    contents = (path.read_bytes().decode("utf-8", "surrogateescape") for path in own)
    return _digest([*versions, *(path.relative_to(runtime).as_posix() for path in own), *contents])


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


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


def _compile_flags() -> list[str]:
    """Flags of every compilation that do not depend on where things are installed."""
    return [
        _OPTIMIZE,
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


def _link_flags() -> list[str]:
    # Threads of musl get 128 KiB of stack unless the executable asks for more; kernels need it.
    return ["-static", "-s", _OPTIMIZE, "-Wl,--gc-sections", "-Wl,-z,stack-size=8388608"]


def _path_flags() -> list[str]:
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
    prefixes = {tvm: "tvm", ffi: "tvm_ffi", runtime: "runtime", _cache_folder(): "build"}
    return [
        *(f"-I{path}" for path in includes),
        *(f"-ffile-prefix-map={path}={name}" for path, name in prefixes.items()),
    ]


def _units() -> list[_Unit]:
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
        _Unit("runtime", runtime_sources, cxx, shim, 22),
        _Unit("ffi", ffi_sources, cxx, shim, 14),
        _Unit("server", own, (*cxx, *macros), ("shim", "server", "loader"), 6),
        _Unit("symbols", symbols, (), ("loader",), 1),
    ]


def _build(platform: _Platform, path: Path, progress: Progress) -> None:
    units = _units()
    objects = path.parent / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    total = 2 * _LIBRARY_WEIGHT + sum(unit.weight for unit in units) + 1
    with ZigJobs(progress, total, _cache_folder() / "zig") as jobs:
        # Zig compiles its C library and its C++ library on first use, each one file at a time. Two links
        # that need one of them each, beside the compilers, keep all cores busy from the start.
        jobs.add(_LIBRARY_WEIGHT, lambda: _link_empty(jobs, platform, objects, "c++", "-shared"))
        jobs.add(_LIBRARY_WEIGHT, lambda: _link_empty(jobs, platform, objects, "cc", "-static"))
        compiled = [jobs.add(unit.weight, _compiler(jobs, platform, objects, unit)) for unit in units]
        jobs.finish()
        with staged_file(path) as aside:
            inputs = [str(one.result()) for one in compiled]
            jobs.run(["c++", *platform.flags, *_link_flags(), *inputs, "-o", str(aside)])
            aside.chmod(0o755)
        path.chmod(0o755)
        progress(jobs.total, jobs.total)


def _compiler(jobs: ZigJobs, platform: _Platform, objects: Path, unit: _Unit) -> Callable[[], Path]:
    """The job that compiles a unit; an object left by an interrupted build is used again."""
    flags = [*platform.flags, *_compile_flags(), *unit.flags]
    path = objects / f"{unit.name}-{_digest([_source_hash(*unit.folders), *flags])[:20]}.o"

    def compile_unit() -> Path:
        if path.exists():
            return path
        language = "c++" if unit.sources[0].suffix == ".cc" else "cc"
        source = path.with_suffix(unit.sources[0].suffix)
        with staged_file(source) as aside:
            aside.write_text("".join(f'#include "{one}"\n' for one in unit.sources), encoding="utf-8")
        with staged_file(path) as aside:
            jobs.run([language, *flags, *_path_flags(), "-c", str(source), "-o", str(aside)])
        return path

    return compile_unit


def _link_empty(jobs: ZigJobs, platform: _Platform, objects: Path, language: str, kind: str) -> Path:
    source = objects / ("empty.cc" if language == "c++" else "empty.c")
    with staged_file(source) as aside:
        aside.write_text("int main(void) { return 0; }\n" if language == "cc" else "", encoding="utf-8")
    with staged_file(objects / f"empty-{platform.triple}-{language}") as output:
        jobs.run([language, *platform.flags, kind, "-s", _OPTIMIZE, str(source), "-o", str(output)])
    return source


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a file's lock: a second builder waits here for the first."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("w")
    except OSError as error:
        raise ToolchainError(
            f"the cache folder cannot be written: {error.strerror}.",
            where=str(path.parent),
            advice="Set EDGEVIT_CACHE_DIR to a folder that can.",
        ) from error
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
