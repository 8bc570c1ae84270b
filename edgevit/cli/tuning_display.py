"""How a tuning run is shown while it runs: a live table on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from typing_extensions import Self

    from edgevit.tuning.view import TuningView

FRAME_SECONDS = 1.0
"""Between one picture and the next: each takes time from whatever else this machine does, such as measuring."""
FRAME_SHARE = 0.02
"""Of the time, that making views may take."""
SAY_SECONDS = 60.0
"""Between one line and the next where nobody watches."""
HEAVY = 0.02
"""Share of the latency from which a task's new best is worth a line."""
GAIN = 0.01
"""Part by which it must be better than what was said of the task before."""


class TuningDisplay:
    """Shows a run on stderr; a context manager that leaves the terminal as it was, whatever ends the run.

    Where stderr is no terminal it prints a line a minute, and one for each new best choice of a heavy task.

    Args:
        console: of stderr: :func:`edgevit.cli.output.status`.
        clock: seconds since some moment.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._live: Live | None = None
        self._next: float | None = None
        self._said = clock()
        self._best: dict[str, float] = {}
        self._begun = False

    @property
    def due(self) -> bool:
        """Whether enough time has passed since the last view: another one before is not shown."""
        return self._next is None or self._clock() >= self._next

    def show(self, look: Callable[[], TuningView]) -> None:
        """Look at the run and show it, if that is due; the longer a look takes, the rarer it is."""
        if self.due:
            begun = self._clock()
            self.update(look())
            now = self._clock()
            self._next = now + max(FRAME_SECONDS, (now - begun) / FRAME_SHARE)

    def update(self, view: TuningView) -> None:
        """Show the run as it is now; a view that comes before it is due is left out."""
        if not self.due:
            return
        self._next = self._clock() + FRAME_SECONDS
        if self._live is not None:
            from edgevit.report.tuning_table import tuning_table

            width, height = self._console.size
            self._live.update(tuning_table(view, width, height - 1), refresh=True)
        else:
            self._say(view)

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            from rich.live import Live

            # It has no thread of its own, which would take time from what is measured on this machine.
            self._live = Live(console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def _say(self, view: TuningView) -> None:
        from edgevit.report.tuning_table import best_line, progress_line

        for task in view.entries:
            if task.best_seconds is None or task.default_seconds is None:
                continue
            # What earlier runs have gained is no news.
            said = self._best.setdefault(task.key, task.default_seconds if self._begun else task.best_seconds)
            if task.share >= HEAVY and task.best_seconds <= (1 - GAIN) * said:
                self._best[task.key] = task.best_seconds
                self._print(best_line(task))
        self._begun = True
        if self._clock() - self._said >= SAY_SECONDS:
            self._said = self._clock()
            self._print(progress_line(view))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
