"""What commands print with: tables on stdout, progress and errors on stderr, JSON for scripts."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from edgevit.errors import EdgevitError


_SAY_SECONDS = 60.0


def console() -> Console:
    """Console for results: stdout."""
    from rich.console import Console

    return Console(highlight=False)


def status() -> Console:
    """Console for progress and errors: stderr, so that stdout can be piped."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """JSON on stdout: sorted, indented, one document."""
    text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False)
    # Names of files that are no Unicode hold surrogates, which are escaped as JSON has it.
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"))


def print_error(error: EdgevitError) -> None:
    """What happened, where, what to do next."""
    printer = status()
    where = f"{shown(error.where)}: " if error.where else ""
    printer.print(f"[bold red]error:[/] {where}{shown(error.message)}", soft_wrap=True)
    if error.advice:
        printer.print(f"  [dim]→[/] {shown(error.advice)}", soft_wrap=True)


def shown(text: str) -> str:
    """Text from elsewhere for a console: neither markup nor a terminal's escapes; line ends stay."""
    from rich.markup import escape

    from edgevit.report.text import printable

    return escape("\n".join(printable(line) for line in text.split("\n")))


class Steps:
    """Names of stages as they begin, and one bar at a time for a stage that counts."""

    def __init__(self) -> None:
        from rich.progress import (
            BarColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=status(),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None)
        self._name = ""
        self._counting = False
        self._said = 0.0

    def stage(self, name: str) -> None:
        """A new stage begins; how long it takes is not known."""
        self._name, self._counting = name, False
        self._progress.reset(self._task, description=name, total=None)

    def share(self, done: float) -> None:
        """The finished share of the current stage, 0 to 1."""
        self._progress.update(self._task, total=1.0, completed=done)

    def count(self, done: int, total: int) -> None:
        """So many of the current stage are done.

        What the first call says was done before, and says nothing of the speed. Where nobody watches, a line a minute
        takes the place of the bar.
        """
        text = f"{self._name} {done:,} of {total:,}"
        if self._counting:
            self._progress.update(self._task, description=text, total=total, completed=done)
        else:
            self._counting, self._said = True, time.monotonic()
            self._progress.reset(self._task, description=text, total=total, completed=done)
        if not self._progress.console.is_terminal and time.monotonic() - self._said > _SAY_SECONDS:
            self._said = time.monotonic()
            left = self._progress.tasks[self._task].time_remaining
            rest = "" if left is None else f", {datetime.timedelta(seconds=round(left))} left"
            self._progress.console.print(text + rest, soft_wrap=True)

    def build(self, done: int, total: int) -> None:
        """Files compiled of the device server, which is built once per kind of device."""
        self._progress.update(self._task, description="build the device server (once)", total=total, completed=done)


@contextlib.contextmanager
def steps() -> Iterator[Steps]:
    """Show progress on stderr while the block runs."""
    shown = Steps()
    with shown._progress:
        yield shown
