"""Build the device server: one static executable, compiled by zig from the sources inside TVM's wheels.

The first build for a processor takes about a minute on two cores, most of it for zig's own C and C++
libraries. The result is cached, so later calls return at once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from edgevit.device.server_recipe import (
    OPTIMIZE,
    Platform,
    Unit,
    compile_flags,
    digest,
    link_flags,
    path_flags,
    platform_for,
    server_version,
    source_hash,
    units,
)
from edgevit.device.zig_jobs import ZigJobs
from edgevit.errors import ToolchainError
from edgevit.files import staged_file

__all__ = ["build_server", "server_cached", "server_version"]

Progress = Callable[[int, int], None]

# Seconds zig needs for each of its C and C++ libraries, which it compiles once per target.
_LIBRARY_WEIGHT = 32


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
    platform = platform_for(target_triple, cpu)
    path = _server_path(platform)
    if path.exists():
        return path
    with _lock(path.parent / f"{path.name}.lock"):
        if not path.exists():
            _build(platform, path, progress or _ignore)
    return path


def server_cached(target_triple: str, *, cpu: str | None = None) -> Path | None:
    """The path `build_server` would return, if that needs no building."""
    path = _server_path(platform_for(target_triple, cpu))
    return path if path.exists() else None


def _ignore(done: int, total: int) -> None:
    """Progress nobody asked for."""


def cache_folder() -> Path:
    """Where edgevit keeps what it builds: ``EDGEVIT_CACHE_DIR``, else the user's cache."""
    chosen = os.environ.get("EDGEVIT_CACHE_DIR")
    return Path(chosen) if chosen else platformdirs.user_cache_path("edgevit")


def _server_path(platform: Platform) -> Path:
    key = digest([source_hash(), *platform.flags, *compile_flags(), *link_flags()])
    return cache_folder() / "server" / f"edgevit-server-{platform.triple}-{key[:20]}"


def _build(platform: Platform, path: Path, progress: Progress) -> None:
    parts = units()
    objects = path.parent / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    total = 2 * _LIBRARY_WEIGHT + sum(unit.weight for unit in parts) + 1
    with ZigJobs(progress, total, cache_folder() / "zig") as jobs:
        # Zig compiles its C library and its C++ library on first use, each one file at a time. Two links
        # that need one of them each, beside the compilers, keep all cores busy from the start.
        jobs.add(_LIBRARY_WEIGHT, lambda: _link_empty(jobs, platform, objects, "c++", "-shared"))
        jobs.add(_LIBRARY_WEIGHT, lambda: _link_empty(jobs, platform, objects, "cc", "-static"))
        compiled = [jobs.add(unit.weight, _compiler(jobs, platform, objects, unit)) for unit in parts]
        jobs.finish()
        inputs = [str(one.result()) for one in compiled]
        # It must be executable from the moment it has its name: others look for it without the lock.
        aside = path.with_name(f"{path.name}.part")
        try:
            jobs.run(["c++", *platform.flags, *link_flags(), *inputs, "-o", str(aside)])
            aside.chmod(0o755)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        progress(jobs.total, jobs.total)


def _compiler(jobs: ZigJobs, platform: Platform, objects: Path, unit: Unit) -> Callable[[], Path]:
    """The job that compiles a unit; an object left by an interrupted build is used again."""
    flags = [*platform.flags, *compile_flags(), *unit.flags]
    path = objects / f"{unit.name}-{digest([source_hash(*unit.folders), *flags])[:20]}.o"

    def compile_unit() -> Path:
        if path.exists():
            return path
        language = "c++" if unit.sources[0].suffix == ".cc" else "cc"
        source = path.with_suffix(unit.sources[0].suffix)
        with staged_file(source) as aside:
            aside.write_text("".join(f'#include "{one}"\n' for one in unit.sources), encoding="utf-8")
        with staged_file(path) as aside:
            jobs.run([language, *flags, *path_flags(cache_folder()), "-c", str(source), "-o", str(aside)])
        return path

    return compile_unit


def _link_empty(jobs: ZigJobs, platform: Platform, objects: Path, language: str, kind: str) -> Path:
    source = objects / ("empty.cc" if language == "c++" else "empty.c")
    with staged_file(source) as aside:
        aside.write_text("int main(void) { return 0; }\n" if language == "cc" else "", encoding="utf-8")
    with staged_file(objects / f"empty-{platform.triple}-{language}") as output:
        jobs.run([language, *platform.flags, kind, "-s", OPTIMIZE, str(source), "-o", str(output)])
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
