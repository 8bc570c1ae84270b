"""Write records in a child process and kill it, twenty times; print what the children acknowledged."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

from edgevit.tuning.record import TvmRecord
from edgevit.tuning.writing import LogWriter
from tests.tuning.making import common

LIVES = 20
LENGTH = 1 << 19


def live(log: Path, life: int, pipe: int) -> None:
    """Write until killed; each number on the pipe is a record that ``append`` has returned from."""
    # Long lines, so that some kills come in the middle of one.
    module = TvmRecord(**common("tvm/1/00"), hash="0", module="A" * LENGTH, trace=[], failure="unknown")
    with LogWriter(log) as writer:
        for trial in range(1_000_000):
            writer.append(module.model_copy(update={"trace": [life, trial]}))
            os.write(pipe, trial.to_bytes(4, "big"))


def main(log: Path) -> None:
    """Kill each child after a drawn number of acknowledgements."""
    draw = random.Random(0)
    acknowledged: list[tuple[int, int]] = []
    for life in range(LIVES):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            live(log, life, writer)
        os.close(writer)
        wanted = draw.randint(1, 4)
        acknowledged += [(life, int.from_bytes(os.read(reader, 4), "big")) for _ in range(wanted)]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # What was acknowledged before the kill and not yet read counts as well.
        while len(rest := os.read(reader, 4)) == 4:
            acknowledged.append((life, int.from_bytes(rest, "big")))
        os.close(reader)
    print(json.dumps({"acknowledged": acknowledged}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
