"""Run code for other machines on this one: edgevit's static server under QEMU user mode, or a GPU's kernels.

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
from edgevit.targets import executes_here


def find_emulator(target: Target) -> str | None:
    """Path of the QEMU program that runs ``target``'s code, or None when it is not installed."""
    if target.emulator is None:
        return None
    # Debian's qemu-user-static and qemu-user differ by a suffix only.
    return shutil.which(target.emulator) or shutil.which(target.emulator.removesuffix("-static"))


def connect_emulated(
    target: Target, *, checked: bool = True, progress: Callable[[int, int], None] | None = None
) -> RpcSession:
    """A session that executes what was compiled for ``target``.

    Of a target with a GPU, this machine executes the text of the kernels. Of others, edgevit's server for the target
    loads the library, under QEMU unless this machine's CPU runs the code.

    Args:
        target: what to emulate.
        checked: whether a GPU's accesses to memory are checked.
        progress: told how many of how many files are compiled while the server, or a GPU's kernels, are built.

    Raises:
        ToolchainError: there is no emulator for the target, or it is not installed.
    """
    if target.gpu is not None:
        from edgevit.emulate.session import connect_gpu

        return connect_gpu(target, checked=checked, progress=progress)
    # This machine's CPU may run Android's code, although nothing here but edgevit's server loads its libraries.
    native = target.system == "android" and executes_here(target)
    if target.emulator is None:
        raise ToolchainError(
            f"there is no emulator for {target.name}.",
            advice="Emulation covers Linux and Android targets; use a device for others.",
        )
    emulator = None if native else find_emulator(target)
    if emulator is None and not native:
        raise ToolchainError(
            f"{target.emulator} is not installed.",
            advice="On Debian and Ubuntu: apt-get install qemu-user-static.",
        )
    server = build_server(target.triple, progress=progress)
    return connect_spawned(
        lambda folder: [
            *([emulator] if emulator else []),
            *(str(server), "--port", "0", "--once", "--exit-with-stdin"),
            *("--work-dir", folder, "--idle-timeout", "0"),
        ],
        kind="emulated",
        address=f"{target.emulator if emulator else 'a server'} on this machine",
        # Where the CPU runs the code itself, its times are still not those of an Android device.
        emulated=True,
    )
