"""Two processes append to one log while a third replaces it again and again."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from edgevit.tuning.writing import LogWriter
from tests.tuning.making import measured

TRIALS = 200


def write(log: Path, life: int) -> None:
    """Append all records of one writer."""
    with LogWriter(log) as writer:
        for trial in range(TRIALS):
            writer.append(measured({"life": life, "trial": trial}))


def main(log: Path) -> None:
    """Start the writers, and replace the log by itself until both have ended."""
    children = []
    for life in range(2):
        child = os.fork()
        if child == 0:
            write(log, life)
            os._exit(0)
        children.append(child)
    replaced = []
    with LogWriter(log) as pruner:
        while children:
            pruner.replace(lambda lines: [line.raw for line in lines])
            replaced.append([log.stat().st_size])
            time.sleep(0.01)  # let go of the lock for longer than writers wait between attempts
            for child in list(children):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    assert status == 0
                    children.remove(child)
    print(json.dumps({"replaced": replaced}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
