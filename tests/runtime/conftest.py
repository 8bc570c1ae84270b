"""Fixtures: the server for this machine, a factory of running ones, and libraries to load."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from edgevit.device.server_build import build_server
from tests.conftest import missing
from tests.runtime.server_process import Server

HERE = Path(__file__).parent
HOST = platform.machine()

Launch = Callable[..., Server]
MakeProbe = Callable[..., Path]


@pytest.fixture(scope="session")
def host_server() -> Path:
    """The server built for this machine."""
    if sys.platform != "linux":
        missing("the device server runs on Linux only")
    return build_server(f"{HOST}-linux-gnu")


@pytest.fixture
def launch(host_server: Path, tmp_path: Path) -> Iterator[Launch]:
    """Start servers on free ports; they are stopped after the test."""
    started: list[Server] = []

    def start(*arguments: str, command: Sequence[str] = ()) -> Server:
        folder = tmp_path / f"server{len(started)}"
        started.append(Server(command or [str(host_server)], folder, arguments))
        return started[-1]

    yield start
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def make_probe(tmp_path_factory: pytest.TempPathFactory) -> MakeProbe:
    """Compile ``probe.c`` into a library, with macros and link flags of choice."""
    folder = tmp_path_factory.mktemp("probes")
    made: dict[tuple[object, ...], Path] = {}

    def make(*flags: str, triple: str = f"{HOST}-linux-musl", link: Sequence[str] = ()) -> Path:
        key = (flags, triple, tuple(link))
        if key not in made:
            stem = folder / f"probe{len(made)}"
            zig = [sys.executable, "-m", "ziglang"]
            common = ["-target", triple, "-O1", "-fPIC", "-fno-sanitize=undefined", "-fno-builtin", *flags]
            source, compiled, library = HERE / "probe.c", stem.with_suffix(".o"), stem.with_suffix(".so")
            subprocess.run([*zig, "cc", *common, "-c", source, "-o", compiled], check=True)
            linker = [*zig, "ld.lld", "-shared", "--hash-style=both", "-z", "separate-code", *link]
            subprocess.run([*linker, compiled, "-o", library], check=True)
            made[key] = library
        return made[key]

    return make


@pytest.fixture(scope="session")
def probe(make_probe: MakeProbe) -> Path:
    """The library for this machine, without initialisers: loading it runs no code of its own."""
    return make_probe()


def emulator(name: str) -> list[str]:
    """Command that runs static executables of a foreign machine."""
    for candidate in (f"{name}-static", name):
        if found := shutil.which(candidate):
            return [found]
    missing(f"{name}-static is not installed")
    raise AssertionError
