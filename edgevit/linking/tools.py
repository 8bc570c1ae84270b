"""The programs that link: zig, a system compiler, an Android NDK."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgevit.errors import ToolchainError, UserError
from edgevit.target_schema import Target

LINKERS = ("zig", "system", "ndk")
_TIMEOUT_SECONDS = 600.0  # zig builds a C library's stubs the first time it links for a target
_ADVICE = "Try another linker with --linker, or run 'edgevit devices doctor'."


@dataclass(frozen=True)
class Tool:
    """A compiler driver that links.

    Attributes:
        kind: one of ``LINKERS``.
        command: program and the arguments that choose the target.
        description: name and version, for the manifest.
    """

    kind: str
    command: tuple[str, ...]
    description: str

    def run(self, arguments: Sequence[str]) -> None:
        """Run it.

        Raises:
            ToolchainError: it failed; the message has its last lines.
        """
        run([*self.command, *arguments], self.description)


def run(command: Sequence[str], description: str, doing: str = "linking") -> None:
    """Run a program that writes files.

    Args:
        command: program and arguments.
        description: the program, for errors.
        doing: what it does, for errors.

    Raises:
        ToolchainError: it failed or took too long.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"{doing} took more than {_TIMEOUT_SECONDS:.0f} s.", where=description) from error
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise ToolchainError(f"{doing} failed:\n{last}", where=description, advice=_ADVICE)


def find_tool(target: Target, kind: str | None) -> Tool:
    """The program that links for a target.

    Args:
        target: what to link for.
        kind: one of ``LINKERS``; None takes the target's own choice.

    Raises:
        UserError: an unknown kind, or one that cannot link for this target.
        ToolchainError: the tool is not installed.
    """
    kind = kind or target.linking.linker
    if kind not in LINKERS:
        raise UserError(f"there is no linker {kind!r}.", advice=f"Choose one of {', '.join(LINKERS)}.")
    return {"zig": _zig, "system": _system, "ndk": _ndk}[kind](target)


def zig_program() -> tuple[tuple[str, ...], str]:
    """zig's command and its label.

    Raises:
        ToolchainError: it is not installed.
    """
    try:
        from importlib.metadata import version

        label = f"zig {version('ziglang')}"
    except ImportError as error:
        raise ToolchainError(
            "zig is not installed.",
            advice="Install it with 'pip install ziglang', or choose --linker system.",
        ) from error
    return (sys.executable, "-m", "ziglang"), label


def _zig(target: Target) -> Tool:
    program, label = zig_program()
    triple = target.linking.zig_target
    if target.system == "android":
        # With an API level, zig insists on a C library of Android's, which it does not have.
        triple = re.sub(r"\.[0-9.]+$", "", triple)
    return Tool("zig", (*program, "cc", "-target", triple), label)


def _system(target: Target) -> Tool:
    candidates = [f"{target.triple}-gcc", f"{target.triple}-clang"]
    if target.triple.endswith("gnueabihf"):
        candidates.append("arm-linux-gnueabihf-gcc")
    if _is_host(target):
        candidates += ["cc", "gcc", "clang"]
    for name in candidates:
        if path := shutil.which(name):
            return Tool("system", (path,), f"{name} {_first_line([path, '--version'])}")
    raise ToolchainError(
        f"no system compiler for {target.triple} is on PATH (tried {', '.join(candidates)}).",
        advice="Install one, or leave --linker out to use zig.",
    )


def _ndk(target: Target) -> Tool:
    root = os.environ.get("ANDROID_NDK_HOME")
    if not root:
        raise ToolchainError(
            "ANDROID_NDK_HOME is not set.",
            advice="Point it at an installed Android NDK, or leave --linker out to use zig.",
        )
    if target.system != "android":
        raise UserError(f"the Android NDK cannot link for {target.triple}.", advice="Leave --linker out to use zig.")
    wanted = int(target.linking.minimum_os or 0)
    found = {
        int(match.group(1)): path
        for path in Path(root).glob(f"toolchains/llvm/prebuilt/*/bin/{target.triple}*-clang")
        if (match := re.fullmatch(re.escape(target.triple) + r"(\d+)-clang", path.name))
    }
    suitable = [level for level in found if level >= wanted]
    if not suitable:
        raise ToolchainError(f"this NDK has no clang for {target.triple} at API level {wanted} or above.", where=root)
    clang = found[min(suitable)]  # the lowest runs on the most phones
    return Tool("ndk", (str(clang),), f"NDK {clang.name}")


def _is_host(target: Target) -> bool:
    machine = {"arm64": "aarch64", "amd64": "x86_64", "armv7l": "arm"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return machine == target.architecture and system == target.system


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()[0] if done.stdout else ""
