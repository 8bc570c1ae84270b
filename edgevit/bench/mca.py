"""Cycles of straight-line code by llvm-mca, LLVM's simulator of a processor's pipeline."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from edgevit.errors import EnvironmentFailure
from edgevit.target_schema import Target

_ITERATIONS = 100
_TIMEOUT_SECONDS = 60.0
_NEWEST, _OLDEST = 24, 11
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)", re.MULTILINE)
# What an older llvm-mca may know in place of a newer processor, most similar first.
_SIMILAR = {
    "x86_64": ("znver4", "icelake-server", "skylake-avx512", "znver3", "haswell"),
    "aarch64": ("neoverse-v1", "neoverse-n1", "cortex-a76", "cortex-a57", "generic"),
    "arm": ("cortex-a57", "cortex-a9", "generic"),
}


@dataclass(frozen=True)
class Cycles:
    """What llvm-mca says of a loop.

    Attributes:
        each: cycles of one iteration when many follow each other.
        cpu: processor whose pipeline was simulated; not the target's where llvm-mca does not know that one.
    """

    each: float
    cpu: str


@cache
def find_mca() -> str:
    """Path of ``llvm-mca``, or of the newest ``llvm-mca-NN``.

    Raises:
        EnvironmentFailure: neither is installed.
    """
    names = ("llvm-mca", *(f"llvm-mca-{number}" for number in range(_NEWEST, _OLDEST - 1, -1)))
    for name in names:
        path = shutil.which(name)
        if path:
            return path
    raise EnvironmentFailure(
        "llvm-mca, which estimates cycles, is not installed.",
        where="PATH",
        advice="Install LLVM's tools (Debian and Ubuntu: the package 'llvm').",
    )


def loop_cycles(assembly: str, target: Target) -> Cycles | None:
    """Cycles of one iteration of a loop whose instructions are ``assembly``; None if llvm-mca cannot read them.

    Raises:
        EnvironmentFailure: llvm-mca is not installed, or does not answer.
    """
    for cpu in dict.fromkeys((target.cpu, *_SIMILAR[target.architecture])):
        cycles = _run(assembly, target, cpu)
        if cycles is not None:
            return Cycles(cycles, cpu)
    return None


def _run(assembly: str, target: Target, cpu: str) -> float | None:
    command = [find_mca(), f"-mtriple={target.triple}", f"-mcpu={cpu}", f"-iterations={_ITERATIONS}"]
    command += ["-instruction-info=false", "-resource-pressure=false"]
    if target.architecture != "x86_64" and target.features:
        command.append(f"-mattr={','.join(target.features)}")
    try:
        done = subprocess.run(
            [*command, "-"], input=assembly, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailure(
            f"llvm-mca failed: {error}.", where=command[0], advice="Try it by hand; another version may work."
        ) from error
    # Of a processor it does not know, llvm-mca warns and simulates another, or none.
    known = "not a recognized processor" not in done.stderr
    found = _CYCLES.search(done.stdout)
    return int(found.group(1)) / _ITERATIONS if done.returncode == 0 and known and found else None
