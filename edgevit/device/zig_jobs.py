"""Run zig commands on all cores, with progress, and end them all when one fails or the user interrupts."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from edgevit.errors import ToolchainError

T = TypeVar("T")

# No single file takes a tenth of this, even on one slow core.
_COMMAND_SECONDS = 1200.0
_SHOWN_LINES = 15


class ZigJobs:
    """A pool of jobs that run zig; use it as a context manager.

    Args:
        progress: called with (done, total) after each job.
        total: sum of the weights of all jobs, and of whatever the caller does afterwards.
        fallback_cache: where zig keeps its own caches if its default place cannot be written.
    """

    def __init__(self, progress: Callable[[int, int], None], total: int, fallback_cache: Path) -> None:
        self.total = total
        self._progress = progress
        self._done = 0
        self._environment = _environment(fallback_cache)
        self._pool = ThreadPoolExecutor(_cores())
        self._futures: list[Future[object]] = []
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def __enter__(self) -> ZigJobs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, weight: int, job: Callable[[], T]) -> Future[T]:
        """Start a job; its weight is its share of the progress."""

        def run() -> T:
            result = job()
            with self._lock:
                self._done += weight
                self._progress(self._done, self.total)
            return result

        future = self._pool.submit(run)
        self._futures.append(future)  # type: ignore[arg-type]  # a Future is used covariantly here
        return future

    def finish(self) -> None:
        """Wait for all jobs; raise the first error, without waiting for the others."""
        done, _ = wait(self._futures, return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()

    def run(self, arguments: list[str]) -> None:
        """Run one zig command.

        Raises:
            ToolchainError: it failed; the message holds the end of its output.
        """
        command = [sys.executable, "-m", "ziglang", *arguments]
        with self._lock:
            if self._stopped:
                raise ToolchainError("the build was stopped.")
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self._environment,
            )
            self._running.add(process)
        try:
            output, _ = process.communicate(timeout=_COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise ToolchainError(f"zig did not finish within {_COMMAND_SECONDS:.0f} s.") from None
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)
        if process.returncode != 0:
            raise _failure(process.returncode, output)


def _failure(status: int, output: str) -> ToolchainError:
    last = "\n".join(output.strip().splitlines()[-_SHOWN_LINES:])
    advice = None
    if "No module named ziglang" in output:
        advice = "Run: pip install ziglang"
    elif "NoSpaceLeft" in output or "No space left" in output:
        advice = "Free some space on the disk, or set EDGEVIT_CACHE_DIR to a folder on another."
    return ToolchainError(f"zig failed with status {status}:\n{last}", advice=advice)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def _default_zig_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "zig"


def _environment(fallback: Path) -> dict[str, str]:
    """The environment for zig, with caches it can write."""
    environment = dict(os.environ)
    if "ZIG_GLOBAL_CACHE_DIR" in environment:
        return environment
    try:
        folder = _default_zig_cache()
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        writable = False
    if not writable:
        environment["ZIG_GLOBAL_CACHE_DIR"] = str(fallback)
    return environment
