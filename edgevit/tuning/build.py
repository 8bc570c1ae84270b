"""Build candidates in a process of its own; what does not build is found, and the rest survives."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from edgevit.device.spawn import START_TIMEOUT, Keeper, python_program
from edgevit.errors import ToolchainError
from edgevit.tuning.build_process import Answer, receive, send
from edgevit.tuning.candidates import Compiled, Form, Order
from edgevit.tuning.record import Failure
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from typing_extensions import Self

LIBRARY_SECONDS = 60.0
"""Time for what every library costs: linking, which takes long the first time for a target."""
KERNEL_SECONDS = 15.0
"""Time for each kernel of a library; what takes longer is no candidate."""


@dataclass(frozen=True)
class Library:
    """Candidates that are ready to run.

    Attributes:
        data: shared library for the task's target.
        reference: function of the task's default.
        functions: of each choice, in order; choices that give the same code have the same.
        forms: elements and dtypes of every function's arguments.
    """

    data: bytes
    reference: str
    functions: tuple[tuple[Choice, str], ...]
    forms: dict[str, Form]


@dataclass(frozen=True)
class BuildFailure:
    """A choice that did not become code.

    Attributes:
        failure: ``build`` or ``timeout``.
        detail: what was said.
    """

    choice: Choice
    failure: Failure
    detail: str


class Builder:
    """Compiles candidates in a child process, which starts with the first order; a context manager that ends it.

    Args:
        library_seconds: time limit of a library, besides that of its kernels.
        kernel_seconds: time limit of each kernel.
    """

    def __init__(self, *, library_seconds: float = LIBRARY_SECONDS, kernel_seconds: float = KERNEL_SECONDS) -> None:
        self._library_seconds = library_seconds
        self._kernel_seconds = kernel_seconds
        self._process: _Process | None = None
        self._sound: set[str] = set()

    def build(self, task: Task, choices: Sequence[Choice]) -> tuple[list[Library], list[BuildFailure]]:
        """Libraries that hold all choices but those that failed: one, unless some did.

        A batch that fails as a whole is halved until those that are to blame are alone.

        Raises:
            ToolchainError: not even the task's default builds.
        """
        if not choices:
            return [], []
        answer = self._ask(task, choices)
        if isinstance(answer, Compiled):
            return _sorted(choices, answer)
        failure, detail = answer
        if len(choices) == 1:
            self._check_default(task)
            return [], [BuildFailure(choices[0], failure, detail)]
        libraries: list[Library] = []
        failures: list[BuildFailure] = []
        for half in (choices[: len(choices) // 2], choices[len(choices) // 2 :]):
            built, failed = self.build(task, half)
            libraries += built
            failures += failed
        return libraries, failures

    def close(self) -> None:
        """End the process; safe to call twice."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_default(self, task: Task) -> None:
        """Blame no choice for what the toolchain lacks."""
        if task.key in self._sound:
            return
        answer = self._ask(task, [])
        if not isinstance(answer, Compiled):
            raise ToolchainError(
                f"the default kernel does not build: {answer[1]}",
                where=task.key,
                advice="Run 'edgevit devices doctor'; if nothing is wrong there, report this.",
            )
        self._sound.add(task.key)

    def _ask(self, task: Task, choices: Sequence[Choice]) -> Compiled | tuple[Failure, str]:
        order = Order(task.module, task.workload, task.target, (task.default, *choices))
        limit = self._library_seconds + self._kernel_seconds * len(order.choices)
        if self._process is None:
            self._process = _Process()
        try:
            answer = self._process.ask(order, limit)
        except TimeoutError:
            self.close()
            return "timeout", f"not built within {limit:.0f} s"
        except (OSError, EOFError):
            words = self._process.last_words()
            self.close()
            return "build", f"the compiler ended: {words}"
        except BaseException:
            self.close()  # in the middle of an exchange
            raise
        return answer if isinstance(answer, Compiled) else ("build", answer)


def _sorted(choices: Sequence[Choice], found: Compiled) -> tuple[list[Library], list[BuildFailure]]:
    named = list(zip(choices, found.functions[1:], strict=True))
    failures = [
        BuildFailure(choice, "build", found.refusals[place])
        for place, (choice, name) in enumerate(named, start=1)
        if name is None
    ]
    functions = tuple((choice, name) for choice, name in named if name is not None)
    reference = found.functions[0]
    assert reference is not None
    library = Library(found.library, reference, functions, dict(found.forms))
    return ([library] if functions else []), failures


class _Process:
    """The child, and the socket it listens at."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._where = "the compiler's process"
        with theirs:

            def command(folder: str) -> list[str]:
                program = (
                    f"import os; os.environ['TMPDIR'] = {folder!r}; {python_program('edgevit.tuning.build_process')}"
                )
                return [sys.executable, "-c", program, str(theirs.fileno())]

            try:
                self._keeper = Keeper(command, where=self._where, fds=(theirs.fileno(),))
            except BaseException:
                self._channel.close()
                raise
        self._release = weakref.finalize(self, _release, self._channel, self._keeper)
        try:
            self._channel.settimeout(START_TIMEOUT)
            receive(self._channel)
        except (OSError, EOFError) as error:
            words = "it said nothing" if isinstance(error, TimeoutError) else self.last_words()
            self.close()
            raise ToolchainError(
                f"the compiler's process did not start: {words}", advice="Run 'edgevit devices doctor'."
            ) from error
        except BaseException:
            self.close()
            raise

    def ask(self, order: Order, limit: float) -> Answer:
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

    def close(self) -> None:
        self._release()


def _release(channel: socket.socket, keeper: Keeper) -> None:
    with contextlib.suppress(OSError):
        channel.close()
    # It has nothing to save, and a linker of its own may be at work.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(keeper.server.pid, signal.SIGKILL)
    keeper.stop()
