"""Device servers and clients as tests use them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 60.0
"""Seconds a test waits for what should happen at once: machines under load are slow."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Fail unless ``condition()`` becomes true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.02)


class Server:
    """A running server, its log and its work folder."""

    def __init__(self, command: Sequence[str], folder: Path, arguments: Sequence[str]) -> None:
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--work-dir", str(self.work), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self.process.stdout is not None
        self.announcement = json.loads(self.process.stdout.readline())
        self.port = int(self.announcement["port"])

    def log(self, event: str) -> list[dict[str, Any]]:
        """All log lines of one kind so far."""
        lines = (json.loads(line) for line in self._log.read_text().splitlines())
        return [line for line in lines if line["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """The ``count``-th log line of a kind, once it is there."""
        wait_until(lambda: len(self.log(event)) >= count, f"{count} x {event}")
        return self.log(event)[count - 1]

    def connect(self, key: str = "", timeout: float = 0) -> Any:
        """A session of TVM's own client."""
        from tvm import rpc

        return rpc.connect("127.0.0.1", self.port, key, session_timeout=timeout)

    def left_behind(self) -> list[Path]:
        """What the sessions left in the work folder."""
        return list(self.work.iterdir())

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def close(self) -> None:
        """Stop the server and everything it started."""
        descendants: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            descendants = self.descendants()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextlib.contextmanager
def client_process(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python program with TVM, killed at the end; it has printed one line when this yields."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
