"""A kernel family whose choices fail in every way there is; the kernel doubles its input."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from typing import Any

from edgevit.compiler.graph import Tensor
from edgevit.compiler.kernels import workload_key
from edgevit.compiler.kernels.builder import KernelBuilder
from edgevit.target_schema import Target
from edgevit.tuning.tasks import Task

NAME = "faulty"
VERSION = 1

RIGHT, SAME_CODE, OTHER_CODE = 0, 1, 2
REFUSED, KILLS_COMPILER, COMPILES_FOREVER = 3, 4, 5
WRONG, HALF, CRASHES, RUNS_FOREVER = 6, 7, 8, 9


@dataclass(frozen=True)
class Workload:
    """Elements, and the default's choice."""

    size: int
    default: int = RIGHT
    flops: int = 1000
    bytes: int = 1000


def task(target: Target, default: int = RIGHT) -> Task:
    """The only task of this family."""
    import sys

    workload = Workload(64, default)
    family: Any = sys.modules[__name__]
    x, y = Tensor("x", (4, 16)), Tensor("y", (4, 16))
    return Task(workload_key(family, workload), family, workload, target, {"model": 1}, (x,), (y,))


def space(workload: Workload, target: Target) -> dict[str, tuple[int, ...]]:
    return {"way": tuple(range(10))}


def analytic_default(workload: Workload, target: Target) -> dict[str, int]:
    return {"way": workload.default}


def emit(workload: Workload, target: Target, choice: dict[str, int], name: str) -> Any:
    way = choice["way"]
    if way == REFUSED:
        raise ValueError("this way is refused")
    if way == KILLS_COMPILER:
        os.kill(os.getpid(), signal.SIGSEGV)
    if way == COMPILES_FOREVER:
        time.sleep(1000)
    builder = KernelBuilder(name)
    x, y = builder.argument("x", workload.size), builder.argument("y", workload.size)
    with builder.loop(workload.size // 2 if way == HALF else workload.size) as i:
        value = builder.load(x, i)
        factor = builder.constant(2.001 if way == WRONG else 2.0)
        builder.store(y, i, value + value if way == OTHER_CODE else value * factor)
    if way == CRASHES:
        builder.store(y, 2_000_000_000, builder.constant(0.0))
    if way == RUNS_FOREVER:
        with builder.loop(2_000_000_000) as i, builder.loop(2_000_000_000) as j:
            builder.store(y, 0, builder.load(y, 0) + (i + j).astype("float32"))
    return builder.finish()
