"""One contender as a process: ``python serve.py RUNNER.py CONFIG``.

Peers live in environments of their own where edgevit is not installed, so this file and the runners beside it
import nothing of edgevit: only numpy and the peer. A runner file defines ``Runner(config)`` with

- ``version``: of the peer;
- ``set_inputs(arrays)``: hand over inputs, a dictionary in the model's order; not timed;
- ``run()``: one call, which is timed: inputs into the peer, outputs back where the caller can read them;

and, where the peer has a format of its own, ``convert(config) -> path of the converted model``.

Requests are JSON lines on stdin; each gets one JSON line on stdout; the process ends when stdin does.

- ``{"check": {name: input.npy}, "outputs": FOLDER}`` → ``{"outputs": [file.npy, …]}``;
- ``{"time": N}``, after one call that is not counted → ``{"seconds": […], "cpu_seconds": …, "idle_cpu_seconds": …}``;
- ``{"usage": true}`` → ``{"peak_rss_bytes": …, "busy_threads": …}``;
- ``{"convert": true}`` → ``{"model": path}``.
"""

import contextlib
import importlib.util
import json
import os
import re
import resource
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy as np

_BUSY_SHARE = 0.1
"""A thread counts as working if it took this share of the busiest one's CPU time."""


def main() -> None:
    """Load the model, say so, answer until stdin ends."""
    # Peers print what they like on descriptor 1; only answers may go to the real one.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, config = _load(sys.argv[1]), json.loads(sys.argv[2])
    if config.get("convert"):
        _say(answers, {"model": module.convert(config)})
        return
    contender = _Contender(module.Runner(config))
    _say(answers, {"version": contender.runner.version})
    for line in sys.stdin:
        request = json.loads(line)
        if "check" in request:
            reply = contender.check(request["check"], Path(request["outputs"]))
        elif "time" in request:
            reply = contender.time(int(request["time"]))
        else:
            reply = contender.usage()
        _say(answers, reply)


class _Contender:
    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self._cpu_at_rest = time.process_time()
        self._thread_seconds: dict[int, float] = {}

    def check(self, inputs: dict[str, str], folder: Path) -> dict[str, Any]:
        self.runner.set_inputs({name: np.load(file) for name, file in inputs.items()})
        self.runner.run()  # a second call must be as right as the first
        paths = []
        for position, output in enumerate(self.runner.run()):
            paths.append(str(folder / f"output-{position}.npy"))
            np.save(paths[-1], output)
        self._cpu_at_rest = time.process_time()
        return {"outputs": paths}

    def time(self, count: int) -> dict[str, Any]:
        idle = time.process_time() - self._cpu_at_rest
        self.runner.run()  # caches and clocks recover from the others' turns
        threads = _thread_seconds()
        cpu, seconds = time.process_time(), []
        for _ in range(count):
            begun = time.perf_counter()
            self.runner.run()
            seconds.append(time.perf_counter() - begun)
        self._cpu_at_rest = time.process_time()
        for thread, spent in _thread_seconds().items():
            grown = spent - threads.get(thread, 0.0)
            self._thread_seconds[thread] = self._thread_seconds.get(thread, 0.0) + grown
        return {"seconds": seconds, "cpu_seconds": self._cpu_at_rest - cpu, "idle_cpu_seconds": idle}

    def usage(self) -> dict[str, Any]:
        spent = self._thread_seconds.values()
        busiest = max(spent, default=0.0)
        busy = sum(seconds >= _BUSY_SHARE * busiest for seconds in spent) if busiest else None
        return {"peak_rss_bytes": _peak_rss(), "busy_threads": busy}


def _thread_seconds() -> dict[int, float]:
    """CPU seconds of each thread of this process; empty where the system does not tell."""
    seconds = {}
    for task in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended meanwhile
            seconds[int(task.parent.name)] = int(task.read_text(encoding="ascii").split()[0]) * 1e-9
    return seconds


def _peak_rss() -> int:
    # Linux starts a new program's ru_maxrss at the size of the process that started it; VmHWM is its own.
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("contender_runner", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _say(answers: TextIO, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
