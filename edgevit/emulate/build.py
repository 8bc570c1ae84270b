"""Compile the text of shipped kernels for this processor: one shared library, cached.

The compiler is the clang inside zig, for both languages: its OpenCL front end for OpenCL C, C++ with edgevit's own
``metal_stdlib`` for Metal. With checks, every access to memory is preceded by a call into ``native/runtime.cc``:
clang's kernel address sanitizer, told to call out of line, serves for that.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from edgevit.device.server_build import cache_folder
from edgevit.device.server_recipe import digest
from edgevit.device.zig_jobs import ZigJobs
from edgevit.emulate.library import Api, Kernel, Shipped
from edgevit.emulate.texts import entry_text, program_text
from edgevit.errors import ToolchainError
from edgevit.files import make_folder, staged_file

Progress = Callable[[int, int], None]

_NATIVE = Path(__file__).parent / "native"
_COMMON = ("-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-c")
# Registers and variables that nobody has set hold a NaN, too.
_KERNEL = (
    *(*_COMMON, "-nostdinc", "-ftrivial-auto-var-init=pattern", "-w"),
    *("-ferror-limit=1", "-fno-caret-diagnostics", "-fshow-overloads=best"),
)
_CHECKS = (
    "-fsanitize=kernel-address,array-bounds,alignment,integer-divide-by-zero",
    "-fsanitize-recover=all",
    # Calls instead of look-ups in a shadow memory; all sizes; no red zones.
    *("-mllvm", "-asan-instrumentation-with-call-threshold=0"),
    *("-mllvm", "-asan-kernel-mem-intrinsic-prefix=1"),
    *("-mllvm", "-asan-stack=0"),
    *("-mllvm", "-asan-globals=0"),
)
_LANGUAGE: dict[Api, tuple[str, ...]] = {
    "opencl": ("-x", "cl", "-cl-std=CL2.0", "-cl-no-stdinc", "-Xclang", "-cl-ext=+cl_khr_fp16"),
    "metal": ("-x", "c++", "-std=c++20", "-fno-exceptions", "-fno-rtti"),
}


def native_folder() -> Path:
    """Where the C++ part of this package lies."""
    return _NATIVE


def tool() -> str:
    """The compiler and its version."""
    return f"clang of ziglang {version('ziglang')}"


def build(shipped: Shipped, *, checked: bool = True, progress: Progress | None = None) -> Path:
    """A shared library with the runtime and all kernels of an artifact.

    Args:
        shipped: what the artifact holds.
        checked: whether every access is to be checked; it takes about ten times as long.
        progress: told files done and files in all.

    Raises:
        ToolchainError: a kernel's text does not compile, or uses what emulation does not know.
    """
    folder = cache_folder() / "emulate"
    make_folder(folder)
    kernels = [shipped.kernels[name] for name in sorted(shipped.kernels)]
    sources = [program_text(shipped.api, kernel) for kernel in kernels]
    total = len(kernels) + 3
    with ZigJobs(progress or (lambda _done, _total: None), total, cache_folder() / "zig") as jobs:
        objects = [jobs.add(1, _runtime(jobs, folder))]
        for kernel, text in zip(kernels, sources, strict=True):
            objects.append(jobs.add(1, _kernel(jobs, folder, shipped.api, kernel, text, checked)))
        if shipped.api == "opencl":
            entries = "".join(entry_text(kernel) for kernel in kernels)
            objects.append(jobs.add(1, _compile(jobs, folder, "entries", entries, ".cc", ("c++", *_COMMON))))
        jobs.finish()
        paths = [job.result() for job in objects]
        return _link(jobs, folder, paths)


def _runtime(jobs: ZigJobs, folder: Path) -> Callable[[], Path]:
    text = f'#include "{_NATIVE / "runtime.cc"}"\n'
    return _compile(jobs, folder, "runtime", text, ".cc", ("c++", *_COMMON, "-std=c++17", "-fno-sanitize=all"))


def _kernel(jobs: ZigJobs, folder: Path, api: Api, kernel: Kernel, text: str, checked: bool) -> Callable[[], Path]:
    if api == "opencl":
        text = f'#include "{_NATIVE / "opencl" / "prelude.h"}"\n{text}'
    flags = ("clang", *_LANGUAGE[api], *_machine(), *_KERNEL, *(_CHECKS if checked else ()))
    includes = ("-isystem", str(_zig_headers()), "-I", str(_NATIVE / "metal"))
    compile_text = _compile(jobs, folder, kernel.name, text, ".cl" if api == "opencl" else ".metal", flags, includes)

    def compile_kernel() -> Path:
        try:
            return compile_text()
        except ToolchainError as error:
            raise ToolchainError(
                f"the text of kernel {kernel.name} does not compile for emulation: {_first_error(error.message)}",
                advice=error.advice,
            ) from error

    return compile_kernel


def _compile(
    jobs: ZigJobs, folder: Path, name: str, text: str, suffix: str, flags: Sequence[str], more: Sequence[str] = ()
) -> Callable[[], Path]:
    """A job that compiles a text, unless this very text was compiled before."""
    path = folder / f"{name[:40]}-{digest([_native_digest(), tool(), *flags, text])[:24]}.o"

    def run() -> Path:
        if not path.exists():
            source = path.with_suffix(suffix)
            with staged_file(source) as aside:
                aside.write_text(text, encoding="utf-8")
            with staged_file(path) as aside:
                jobs.run([*flags, *more, str(source), "-o", str(aside)])
        return path

    return run


def _link(jobs: ZigJobs, folder: Path, objects: Sequence[Path]) -> Path:
    path = folder / f"kernels-{digest([path.name for path in objects])[:24]}.so"
    if not path.exists():
        with staged_file(path) as aside:
            jobs.run(["cc", "-shared", "-O2", *map(str, objects), "-lm", "-o", str(aside)])
    return path


def _machine() -> tuple[str, ...]:
    """Flags for this processor; with conversion of halves in hardware where it has that."""
    architecture = platform.machine()
    if architecture not in ("x86_64", "aarch64"):
        raise ToolchainError(
            f"kernels cannot be emulated on {architecture}.", advice="Use a machine with an x86-64 or arm64 processor."
        )
    halves = ("-mf16c",) if architecture == "x86_64" and "f16c" in _cpu_flags() else ()
    return ("-target", f"{architecture}-linux-gnu", *halves)


@cache
def _cpu_flags() -> frozenset[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line for line in lines if line.startswith("flags")), "").split())


@cache
def _native_digest() -> str:
    files = sorted(path for path in _NATIVE.rglob("*") if path.is_file())
    return digest([part for path in files for part in (path.name, path.read_text(encoding="utf-8"))])


def _zig_headers() -> Path:
    """Headers that belong to the compiler itself, such as stdint.h."""
    found = find_spec("ziglang")
    if found is None or found.origin is None:
        raise ToolchainError("the package ziglang is not installed.", advice="Run: pip install ziglang")
    return Path(found.origin).parent / "lib" / "include"


def _first_error(output: str) -> str:
    lines = output.splitlines()
    return next((line.strip() for line in lines if "error:" in line), lines[-1].strip() if lines else "no reason given")
