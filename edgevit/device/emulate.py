"""Run another architecture's code on this machine: edgevit's static server under QEMU user mode.

It proves that the artifact loads, runs and computes the right thing. Its times mean nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from edgevit.device.rpc import RpcSession
from edgevit.device.server_build import build_server
from edgevit.device.spawn import connect_spawned
from edgevit.errors import ToolchainError
from edgevit.target_schema import Target


def find_emulator(target: Target) -> str | None:
    """Path of the QEMU program that runs ``target``'s code, or None when it is not installed."""
    if target.emulator is None:
        return None
    # Debian's qemu-user-static and qemu-user differ by a suffix only.
    return shutil.which(target.emulator) or shutil.which(target.emulator.removesuffix("-static"))


def connect_emulated(target: Target, *, progress: Callable[[int, int], None] | None = None) -> RpcSession:
    """A session with edgevit's server for ``target`` under QEMU.

    Args:
        target: what to emulate.
        progress: told how many of how many source files are compiled while the server is built.

    Raises:
        ToolchainError: there is no emulator for the target, or it is not installed.
    """
    if target.emulator is None:
        raise ToolchainError(
            f"there is no emulator for {target.name}.",
            advice="Emulation covers arm64 and armv7 Linux targets; use a device for others.",
        )
    emulator = find_emulator(target)
    if emulator is None:
        raise ToolchainError(
            f"{target.emulator} is not installed.",
            advice="On Debian and Ubuntu: apt-get install qemu-user-static.",
        )
    server = build_server(target.triple, progress=progress)
    return connect_spawned(
        lambda folder: [
            *(emulator, str(server), "--port", "0", "--once", "--exit-with-stdin"),
            *("--work-dir", folder, "--idle-timeout", "0"),
        ],
        kind="emulated",
        address=f"{target.emulator} on this machine",
        emulated=True,
    )
