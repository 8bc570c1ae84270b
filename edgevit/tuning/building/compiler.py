"""A compiler in a process of its own: it may crash or hang, and whoever asked it goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError

from edgevit.device.spawn import START_TIMEOUT, Keeper, python_program
from edgevit.errors import ToolchainError
from edgevit.tuning.building.build_process import Answer, receive, send
from edgevit.tuning.building.candidates import Compiled
from edgevit.tuning.record import Failure

Asked = Compiled | tuple[Failure, str]
"""What became of an order: a library, or how it failed and what was said."""
COMPILER_ENDED = "the compiler ended"
"""How what was said begins where a process went away, for whatever reason."""


class Compiler:
    """Compiles orders in a child process, which starts with the first one and serves until one ends it or hangs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # for the process to end, and not another one
        self._process: _Process | None = None
        self._interrupted = False

    def ask(self, order: bytes, limit: float) -> Asked:
        """What becomes of a pickled order within ``limit`` seconds.

        Raises:
            ToolchainError: the process does not start.
            CancelledError: it was interrupted.
        """
        try:
            return self._ask(order, limit)
        except BaseException as error:
            self.close()  # in the middle of an exchange
            if self._interrupted:
                raise CancelledError from error
            raise

    def interrupt(self) -> None:
        """End the order that another thread waits for, and serve no more."""
        with self._lock:
            self._interrupted = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """End the process; safe to call twice. The next order starts another."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.close()

    def _ask(self, order: bytes, limit: float) -> Asked:
        process = self._started()
        try:
            answer = process.ask(order, limit)
        except TimeoutError:
            self.close()
            return "timeout", f"not built within {limit:.0f} s"
        except (OSError, EOFError):
            if self._interrupted:
                raise
            words = process.last_words()
            self.close()
            return "build", f"{COMPILER_ENDED}: {words}"
        return answer if isinstance(answer, Compiled) else ("build", answer)

    def _started(self) -> _Process:
        with self._lock:
            if self._interrupted:
                raise CancelledError
            if self._process is None:
                self._process = _Process()
            process = self._process
        process.wait()
        return process


class _Process:
    """The child, and the socket it listens at."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._ready = False
        with theirs:

            def command(folder: str) -> list[str]:
                serving = python_program("edgevit.tuning.building.build_process")
                program = f"import os; os.environ['TMPDIR'] = {folder!r}; {serving}"
                return [sys.executable, "-c", program, str(theirs.fileno())]

            try:
                self._keeper = Keeper(command, where="the compiler's process", fds=(theirs.fileno(),))
            except BaseException:
                self._channel.close()
                raise
        self._release = weakref.finalize(self, _release, self._channel, self._keeper)

    def wait(self) -> None:
        """Wait until it is ready for orders.

        Raises:
            ToolchainError: it did not start.
        """
        if self._ready:
            return
        try:
            self._channel.settimeout(START_TIMEOUT)
            receive(self._channel)
        except (OSError, EOFError) as error:
            words = "it said nothing" if isinstance(error, TimeoutError) else self.last_words()
            raise ToolchainError(
                f"the compiler's process did not start: {words}", advice="Run 'edgevit devices doctor'."
            ) from error
        self._ready = True

    def ask(self, order: bytes, limit: float) -> Answer:
        """What it makes of an order.

        Raises:
            TimeoutError: it did not answer within ``limit`` seconds.
            OSError, EOFError: it has ended.
        """
        deadline = time.monotonic() + limit
        self._channel.settimeout(limit)
        send(self._channel, (order, limit))
        self._channel.settimeout(max(0.01, deadline - time.monotonic()))
        answer = receive(self._channel)
        assert isinstance(answer, Compiled | str)
        return answer

    def last_words(self) -> str:
        """What it said when it ended."""
        return self._keeper.server.last_words()

    def kill(self) -> None:
        """End it, also while another thread waits for its answer: that one closes it."""
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        _kill(self._keeper)

    def close(self) -> None:
        self._release()


def _release(channel: socket.socket, keeper: Keeper) -> None:
    with contextlib.suppress(OSError):
        channel.close()
    _kill(keeper)
    keeper.stop()


def _kill(keeper: Keeper) -> None:
    """It has nothing to save, and a linker of its own may be at work."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper.server.pid, signal.SIGKILL)
