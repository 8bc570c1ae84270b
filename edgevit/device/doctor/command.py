"""Run a tool for a probe: with a time limit, and with every way to fail as a plain result."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TIMEOUT = 20.0
"""Seconds for a tool that only has to say its version."""


@dataclass(frozen=True)
class Result:
    """How a command ended.

    Attributes:
        code: its exit status, minus the signal that ended it, or None if it did not start or end in time.
        output: what it printed on stdout, stripped.
        trouble: why it failed, in a few words; empty when it succeeded.
    """

    code: int | None
    output: str = ""
    trouble: str = ""

    @property
    def first_line(self) -> str:
        """First line of what it printed, or nothing."""
        return next(iter(self.output.splitlines()), "")


def run(command: Sequence[str], *, timeout: float = TIMEOUT, folder: Path | None = None) -> Result:
    """Run ``command`` to its end, without input."""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
            cwd=folder,
        )
    except subprocess.TimeoutExpired:
        return Result(None, trouble=f"it did not end within {timeout:g} s")
    except OSError as fault:
        return Result(None, trouble=f"it does not start: {fault.strerror or fault}")
    output = done.stdout.decode(errors="replace").strip()
    if done.returncode == 0:
        return Result(0, output)
    said = done.stderr.decode(errors="replace").strip().splitlines()
    ending = f"signal {-done.returncode}" if done.returncode < 0 else f"exit status {done.returncode}"
    return Result(done.returncode, output, f"{ending}: {said[-1]}" if said else ending)
