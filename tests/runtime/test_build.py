"""Building the server: names, caching, concurrency, errors, reproducibility."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from edgevit.device import server_build
from edgevit.device.server_build import build_server, server_cached, server_version
from edgevit.device.server_recipe import platform_for
from edgevit.errors import TargetError, ToolchainError
from edgevit.resources import resource_folder
from tests.runtime.conftest import HOST

MAX_BYTES = 5 << 20


def test_the_server_is_small_static_and_cached(host_server: Path) -> None:
    assert host_server.stat().st_size < MAX_BYTES
    assert host_server.stat().st_mode & stat.S_IXUSR
    assert server_cached(f"{HOST}-linux-gnu") == host_server
    assert build_server(f"{HOST}-linux-gnu") == host_server
    # No interpreter and no library is named in it.
    assert b"/lib/ld-" not in host_server.read_bytes()


def test_nothing_of_this_machine_is_in_it(host_server: Path) -> None:
    data = host_server.read_bytes()
    for name in (str(Path.home()), str(Path(server_build.__file__).parents[2]), "site-packages"):
        assert name == "/" or name.encode() not in data


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("aarch64-linux-gnu", "aarch64-linux-musl"),
        ("aarch64-linux-gnu", "arm64-linux-gnu"),
        ("aarch64-linux-gnu", "aarch64-linux-android26"),
        ("armv7a-linux-gnueabihf", "arm-linux-musleabihf"),
        ("armv7a-linux-androideabi", "arm-linux-androideabi"),
        ("x86_64-linux-gnu", "x86_64-unknown-linux-musl"),
    ],
)
def test_spellings_of_a_triple_share_a_server(first: str, second: str) -> None:
    assert server_build._server_path(platform_for(first, None)) == server_build._server_path(platform_for(second, None))


@pytest.mark.parametrize(
    "triple", ["riscv64-linux-gnu", "aarch64-apple-macos", "x86_64-windows-gnu", "arm-linux-gnueabi", "", "x"]
)
def test_other_devices_have_no_server(triple: str) -> None:
    with pytest.raises(TargetError, match="no device server"):
        build_server(triple)


def test_the_cache_is_keyed_by_processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path))
    paths = {
        server_build._server_path(platform_for("aarch64-linux-gnu", cpu)) for cpu in (None, "cortex_a53", "cortex_a76")
    }
    assert len(paths) == 3
    assert all(path.is_relative_to(tmp_path) for path in paths)
    assert server_cached("aarch64-linux-gnu") is None


def test_the_version_is_stable() -> None:
    assert server_version() == server_version()
    number, _, source = server_version().partition("+")
    assert number == (resource_folder("runtime") / "VERSION").read_text().strip()
    assert len(source) == 12


def _fake_zig(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let a shell script stand for ``python -m ziglang``."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(program))


# The output file is the last argument of every command.
COUNTING = 'echo x >> "$LOG"; for last; do :; done; echo "$@" > "$last"'


def test_a_compiler_error_is_shown_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    _fake_zig(tmp_path, monkeypatch, "echo 'runtime.cc:1: error: no such thing'; exit 1")
    with pytest.raises(ToolchainError, match="error: no such thing"):
        build_server("aarch64-linux-gnu")
    assert server_cached("aarch64-linux-gnu") is None
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in left if path.suffix == ".o" or path.name.startswith(".")]


def test_progress_reaches_its_total(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    _fake_zig(tmp_path, monkeypatch, COUNTING)
    seen: list[tuple[int, int]] = []
    build_server("aarch64-linux-gnu", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_an_interrupted_build_keeps_its_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    # Everything works but the last link.
    _fake_zig(tmp_path, monkeypatch, f'case "$*" in *stack-size*) exit 1;; esac; {COUNTING}')
    with pytest.raises(ToolchainError):
        build_server("aarch64-linux-gnu")
    compiled = {path.name for path in (tmp_path / "cache").rglob("*.o")}
    assert len(compiled) == 4
    (tmp_path / "log").unlink()
    _fake_zig(tmp_path, monkeypatch, COUNTING)
    build_server("aarch64-linux-gnu")
    # Zig's two libraries and the link, and nothing was compiled again.
    assert len((tmp_path / "log").read_text().splitlines()) == 3


def test_two_builders_do_the_work_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nsleep 0.3\n{COUNTING}\n")
    program.chmod(0o755)
    code = (
        "import sys; sys.executable = sys.argv[1]\n"
        "from edgevit.device.server_build import build_server\n"
        "print(build_server('aarch64-linux-gnu'))"
    )
    builders = [
        subprocess.Popen([sys.executable, "-c", code, str(program)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = [builder.communicate()[0] for builder in builders]
    assert answers[0] == answers[1] != ""
    # Four units, zig's two libraries, one link.
    assert len((tmp_path / "log").read_text().splitlines()) == 7


def test_an_unwritable_cache_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(blocked))
    with pytest.raises(ToolchainError, match="cache folder cannot be written"):
        build_server("aarch64-linux-gnu")


@pytest.mark.slow
def test_two_builds_in_different_folders_are_identical(
    host_server: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / os.urandom(4).hex()))
    again = build_server(f"{HOST}-linux-gnu")
    assert again != host_server
    assert again.read_bytes() == host_server.read_bytes()
