"""A kernel family that a test lets wait: it says which process compiles which choice, and goes on when it may."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edgevit.compiler.kernels import workload_key
from edgevit.target_schema import Target
from edgevit.tuning.tasks import Task
from tests.tuning import faulty_family as faulty

NAME = "gated"
VERSION = 1

FOLDER = "EDGEVIT_TEST_GATE"
"""Environment variable of the folder where processes and tests meet."""

Workload = faulty.Workload
WAITING = 100
"""Ways from here on wait for the gate."""


def task(target: Target) -> Task:
    """The only task of this family."""
    import sys

    family: Any = sys.modules[__name__]
    like = faulty.task(target)
    return Task(
        workload_key(family, like.workload), family, like.workload, target, like.calls, like.inputs, like.outputs
    )


def compilers(folder: Path, way: int) -> set[int]:
    """Processes that have begun to compile a choice."""
    return {int(path.stem) for path in folder.glob(f"*.{way}")}


def waiting(folder: Path) -> dict[int, int]:
    """A process that has begun to compile it, for each choice that any has."""
    return {int(path.suffix[1:]): int(path.stem) for path in folder.glob("*.*")}


def open_gate(folder: Path) -> None:
    """Let all go on."""
    (folder / "open").touch()


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    return {"way": tuple(range(WAITING, WAITING + 100))}


analytic_default = faulty.analytic_default


def emit(workload: Workload, target: Target, choice: dict[str, int], name: str) -> Any:
    way = choice["way"]
    if way < WAITING:
        return faulty.emit(workload, target, choice, name)
    folder = Path(os.environ[FOLDER])
    (folder / f"{os.getpid()}.{way}").touch()
    while not (folder / "open").exists():
        time.sleep(0.02)
    return faulty.emit(workload, target, {"way": faulty.OTHER_CODE}, name)
