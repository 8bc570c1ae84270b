"""The command line as it is, with a tuner that tests can wait for: on a machine that is never calm enough otherwise.

Every round counts, readings are short, nothing is settled before all is tried, and a device that went away is not
waited for long. ``python -m tests.tuning.calm_command ARGUMENTS`` is ``edgevit ARGUMENTS``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "tests.tuning.calm_command")

Set = Callable[[Any, str, Any], None]


def calm(replace: Set = setattr) -> None:
    """Change what the command line builds upon; ``replace`` is a monkeypatch's, or for good."""
    from edgevit.tuning import measure, search

    protocol = {"rounds": 3, "most_rounds": 200, "seconds": 1e-5, "slow_share": 1e6, "call_seconds": 10.0}
    replace(measure, "Protocol", partial(measure.Protocol, **protocol))
    replace(search, "Budget", partial(search.Budget, rest=0.0))
    options = {**search.Tuner.__init__.__kwdefaults__, "patience": 2.0}
    replace(search.Tuner.__init__, "__kwdefaults__", options)


def start(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """The command in a process group of its own, with pipes for what it says."""
    return subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        start_new_session=True,
    )


if __name__ == "__main__":
    from edgevit.cli.main import run

    calm()
    run()
