"""Build candidates in a process of its own; what does not build is found, and the rest survives."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from edgevit.errors import ToolchainError
from edgevit.tuning.building.candidates import Compiled, Form, Order
from edgevit.tuning.building.compiler import COMPILER_ENDED, Asked, Compiler
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


Built = tuple[list[Library], list[BuildFailure]]
"""Libraries that hold all choices of a batch but those that failed."""

Ask = Callable[[bytes, float], Asked]
"""From a pickled :class:`Order` and a time limit in seconds to what became of it."""


@dataclass(frozen=True)
class Limits:
    """How long building may take.

    Attributes:
        library_seconds: time limit of a library, besides that of its kernels.
        kernel_seconds: time limit of each kernel.
    """

    library_seconds: float = LIBRARY_SECONDS
    kernel_seconds: float = KERNEL_SECONDS


class BatchBuilder:
    """Builds batches by asking a compiler, wherever that one is.

    Args:
        ask: the compiler.
        limits: of the time that it gets.
        sound: keys of the tasks whose default is known to build; builders of the same task may share it.
    """

    def __init__(self, ask: Ask, limits: Limits, sound: set[str]) -> None:
        self._ask = ask
        self._limits = limits
        self._sound = sound

    def build(self, task: Task, choices: Sequence[Choice]) -> Built:
        """Libraries that hold all choices but those that failed: one, unless some did.

        A batch that fails as a whole is halved until those that are to blame are alone.

        Raises:
            ToolchainError: not even the task's default builds.
            CancelledError: it was interrupted.
        """
        if not choices:
            return [], []
        answer = self._order(task, choices)
        if len(choices) == 1 and not isinstance(answer, Compiled) and answer[1].startswith(COMPILER_ENDED):
            answer = self._order(task, choices)  # somebody may have killed the compiler
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

    def _check_default(self, task: Task) -> None:
        """Blame no choice for what the toolchain lacks."""
        if task.key in self._sound:
            return
        answer = self._order(task, [])
        if not isinstance(answer, Compiled):
            raise ToolchainError(
                f"the default kernel does not build: {answer[1]}",
                where=task.key,
                advice="Run 'edgevit devices doctor'; if nothing is wrong there, report this.",
            )
        self._sound.add(task.key)

    def _order(self, task: Task, choices: Sequence[Choice]) -> Asked:
        order = Order(task.module, task.workload, task.target, (task.default, *choices))
        limit = self._limits.library_seconds + self._limits.kernel_seconds * len(order.choices)
        return self._ask(pickle.dumps(order), limit)


class Builder(BatchBuilder):
    """Compiles candidates in a child process, which starts with the first order; a context manager that ends it.

    Args:
        library_seconds: time limit of a library, besides that of its kernels.
        kernel_seconds: time limit of each kernel.
        sound: as for :class:`BatchBuilder`.
    """

    def __init__(
        self,
        *,
        library_seconds: float = LIBRARY_SECONDS,
        kernel_seconds: float = KERNEL_SECONDS,
        sound: set[str] | None = None,
    ) -> None:
        self._compiler = Compiler()
        super().__init__(self._compiler.ask, Limits(library_seconds, kernel_seconds), set() if sound is None else sound)

    def interrupt(self) -> None:
        """End what another thread builds: that build and all later ones raise CancelledError."""
        self._compiler.interrupt()

    def close(self) -> None:
        """End the process; safe to call twice."""
        self._compiler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _sorted(choices: Sequence[Choice], found: Compiled) -> Built:
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
