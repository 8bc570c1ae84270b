"""Probes of what turns object files into libraries and servers."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from edgevit.device.doctor.command import Result, run
from edgevit.device.doctor.finding import Finding, error, ok, warning

_COMPILERS = ("cc", "gcc", "clang", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
_SERVER_TRIPLES = ("x86_64-linux-gnu", "aarch64-linux-gnu", "armv7a-linux-gnueabihf")
_LINK_TIMEOUT = 180.0  # the first link on a machine builds the C library's stubs
_GLOBAL_CACHE = re.compile(r'global_cache_dir"?\s*[=:]\s*"([^"]+)"')  # ZON in newer versions, JSON in older
_REINSTALL = "pip install --force-reinstall ziglang"


def zig() -> list[Finding]:
    """Whether zig runs, links, and has a cache it can write."""
    command = [sys.executable, "-m", "ziglang"]
    said = run([*command, "version"])
    if said.code != 0:
        return [error("zig", f"does not run: {said.trouble}", _REINSTALL)]
    cache = _GLOBAL_CACHE.search(run([*command, "env"]).output)
    findings = [_links(command, said.output)]
    if cache is not None:
        findings.append(_zig_cache(Path(cache.group(1))))
    return findings


def compilers() -> list[Finding]:
    """Which system compilers ``--linker system`` could use."""
    found = [name for name in _COMPILERS if shutil.which(name)]
    return [ok("system compilers", ", ".join(found) if found else "none on PATH; zig does without")]


def ndk() -> list[Finding]:
    """Whether ``--linker ndk`` has an Android NDK to use."""
    name, root = "Android NDK", os.environ.get("ANDROID_NDK_HOME")
    if not root:
        return [ok(name, "ANDROID_NDK_HOME is not set; only --linker ndk needs it")]
    if not (Path(root) / "toolchains" / "llvm").is_dir():
        return [warning(name, f"ANDROID_NDK_HOME is {root}, which holds no NDK", "Correct the variable, or unset it.")]
    return [ok(name, root)]


def servers() -> list[Finding]:
    """Which device servers are built already; the first use of the others builds them."""
    from edgevit.device.server_build import server_cached

    findings = []
    for triple in _SERVER_TRIPLES:
        path = server_cached(triple)
        detail = f"{path} ({path.stat().st_size / 1e6:.1f} MB)" if path else "not built yet; built on first use"
        findings.append(ok(f"server {triple}", detail))
    return findings


def _links(command: list[str], version: str) -> Finding:
    with tempfile.TemporaryDirectory(prefix="edgevit-doctor-") as name:
        folder = Path(name)
        (folder / "a.c").write_text("int answer(void) { return 42; }\n", encoding="ascii")
        link = [*command, "cc", "-shared", "-fPIC", "-o", "a.so", "a.c"]
        done = run(link, timeout=_LINK_TIMEOUT, folder=folder)
        if done.code == 0 and not (folder / "a.so").is_file():
            done = Result(0, trouble="it wrote no file")
    if done.trouble:
        advice = f"{_REINSTALL}; or compile with --linker system."
        return error("zig", f"{version} cannot link a shared library: {done.trouble}", advice)
    return ok("zig", f"{version} links shared libraries")


def _zig_cache(folder: Path) -> Finding:
    if os.access(folder, os.W_OK) or not folder.exists():
        return ok("zig cache", str(folder))
    advice = f"Make it writable (chown -R $USER {folder}), or set ZIG_GLOBAL_CACHE_DIR to a folder that is."
    return error("zig cache", f"{folder} is not writable", advice)
