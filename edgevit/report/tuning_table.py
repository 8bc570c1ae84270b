"""A tuning run for a terminal: how far it is, what the models have gained, and the tasks that matter most."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgevit.report.text import printable
from edgevit.report.units import seconds

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from edgevit.tuning.view import ModelView, TaskView, TuningView

SUMMARY_TASKS = 15
"""Tasks that the summary at the end lists."""
_LEAST_ROWS = 3
_LEAST_LAYER = 26
_MOST_LAYER = 60
_GAP = 2

_ENDS = {
    "minutes": "the time is spent",
    "trials": "the trials are spent",
    "settled": "what is left would gain next to nothing",
    "exhausted": "everything was tried",
    "interrupted": "interrupted",
}


@dataclass(frozen=True)
class _Column:
    """A column of figures.

    Attributes:
        head: its name.
        keep: columns of the lowest numbers are left out first where the terminal is narrow.
        cell: of a task.
        live: it tells nothing once the run has ended.
        justify: as rich has it.
    """

    head: str
    keep: int
    cell: Callable[[TaskView], str]
    live: bool = False
    justify: str = "right"


_COLUMNS = (
    _Column("calls", 2, lambda task: str(task.calls)),
    _Column("share", 7, lambda task: f"{task.share:.1%}"),
    _Column("trials", 3, lambda task: f"{task.trials:,}"),
    _Column("failed", 1, lambda task: f"{task.failures:,}"),
    _Column("default", 4, lambda task: seconds(task.default_seconds)),
    _Column("best", 9, lambda task: seconds(task.best_seconds)),
    _Column("gain", 8, lambda task: _ratio(task.ratio)),
    _Column("roofline", 5, lambda task: _percent(task.roofline_share)),
    _Column("state", 6, lambda task: task.state, live=True, justify="left"),
)


def tuning_table(view: TuningView, width: int, height: int) -> Group:
    """The run at this moment, in no more lines than the terminal has.

    Args:
        view: to show.
        width: characters of a line.
        height: lines.
    """
    from rich.console import Group

    head = _lines(_progress(view), width)
    models = _models(view.models, width, max(1, (height - len(head)) // 3))
    # The table's head and its rule, and the line that counts the rest.
    rows = max(_LEAST_ROWS, height - len(head) - len(models) - 3)
    return Group(*head, *models, *_tasks(view.entries, width, rows, live=True))


def tuning_summary(view: TuningView, width: int) -> Group:
    """What the run did, for its end, also when it was interrupted.

    Args:
        view: as it ended; its reason may be any word of :data:`edgevit.tuning.search.Reason`, or ``interrupted``.
        width: characters of a line.
    """
    from rich.console import Group

    models = _models(view.models, width, len(view.models) + 1)
    return Group(*models, *_tasks(view.entries, width, SUMMARY_TASKS, live=False), *_lines(_account(view), width))


def progress_line(view: TuningView) -> str:
    """Head and models in one line, for where nobody watches."""
    return "; ".join([", ".join(_progress(view)), *(_model(model) for model in view.models)])


def best_line(task: TaskView) -> str:
    """A task's new best choice in one line."""
    ratio = "" if task.ratio is None else f" ({_ratio(task.ratio)})"
    return f"{_layer(task)}: {seconds(task.default_seconds)} → {seconds(task.best_seconds)}{ratio}"


def _progress(view: TuningView) -> Iterator[str]:
    """What the first line says, part by part."""
    limit = "" if view.minutes is None else f" of {_clock(60 * view.minutes)}"
    yield f"{_clock(view.elapsed)}{limit}"
    trials = f"{view.trials:,}" if view.trial_limit is None else f"{view.trials:,} of {view.trial_limit:,}"
    yield f"{trials} trials" + ("" if view.rate is None else f" ({view.rate:.1f}/s)")
    if view.building:
        yield _count(view.building, "build waiting", "builds waiting")
    failures = sum(view.failures.values())
    if failures:
        yield _count(failures, "failure", "failures")
    if len(view.devices) > 1:
        yield f"{len(view.devices)} devices"
    elif view.devices:
        yield f"on {printable(view.devices[0])}"
    if view.reason is not None:
        yield f"ended: {_end(view.reason)}"
    elif view.seconds_left is not None:
        yield f"{_clock(view.seconds_left)} left at most"


def _account(view: TuningView) -> Iterator[str]:
    """What the summary's last line says, part by part."""
    if view.reason is not None:
        yield _end(view.reason)
    yield f"{_count(view.trials, 'trial', 'trials')} in {_clock(view.elapsed)}"
    kinds = ", ".join(f"{count:,} {printable(kind)}" for kind, count in sorted(view.failures.items()) if count)
    if kinds:
        yield f"failures: {kinds}"
    yield from (f"on {printable(device)}" for device in view.devices)


def _models(models: Sequence[ModelView], width: int, most: int) -> list[Text]:
    """A line each, and a count of those that ``most`` lines do not hold."""
    fit = models if len(models) <= most else models[: most - 1]
    lines = [line for model in fit for line in _lines([_model(model)], width)]
    rest = len(models) - len(fit)
    return [*lines, *(_lines([f"and {_count(rest, 'more model', 'more models')}"], width) if rest else [])]


def _model(model: ModelView) -> str:
    about = "about " if model.guessed else ""
    text = f"kernels of {printable(model.name)}: {about}{seconds(model.before)} → {seconds(model.after)}"
    if model.after:
        text += f" ({_ratio(model.before / model.after)})"
    if model.guessed:
        return f"{text}; {model.guessed} of {model.kernels} not measured yet, only guessed"
    if model.roofline and model.after:
        text += f", {_percent(model.roofline / model.after)} of the roofline"
    return text


def _tasks(tasks: Sequence[TaskView], width: int, most: int, *, live: bool) -> Iterator[Table | Text]:
    """The table of the heaviest tasks, and a count of the others."""
    from rich.text import Text

    heaviest = sorted(tasks, key=lambda task: (-task.share, task.key))
    fit = heaviest[:most]
    if fit:
        yield _table(fit, width, live=live)
    rest = heaviest[most:]
    if rest:
        share = sum(task.share for task in rest)
        line = f"and {_count(len(rest), 'more task', 'more tasks')}, {share:.1%} of the latency"
        yield Text(line, no_wrap=True, overflow="ellipsis")


def _table(tasks: Sequence[TaskView], width: int, *, live: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    known = any(task.roofline_seconds is not None for task in tasks)
    columns = [column for column in _COLUMNS if (live or not column.live) and (known or column.head != "roofline")]
    layers = [_layer(task) for task in tasks]
    longest = min(_MOST_LAYER, max(map(cell_len, layers)))
    widths = {column.head: max(len(column.head), *(len(column.cell(task)) for task in tasks)) for column in columns}
    if live:
        widths["state"] = len("measuring")  # or the table would jump
    while columns and min(_LEAST_LAYER, longest) + sum(widths[c.head] + _GAP for c in columns) > width:
        columns.remove(min(columns, key=lambda column: column.keep))
    room = width - sum(widths[column.head] + _GAP for column in columns)
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("layer", no_wrap=True, overflow="ellipsis", width=max(5, min(longest, room)))
    for column in columns:
        table.add_column(column.head, no_wrap=True, justify=column.justify, width=widths[column.head])  # type: ignore[arg-type]
    for layer, task in zip(layers, tasks, strict=True):
        table.add_row(Text(layer), *(column.cell(task) for column in columns))
    return table


def _lines(parts: Iterable[str], width: int) -> list[Text]:
    """Parts joined by dots, broken between them where the line is full; a longer part loses its end."""
    from rich.cells import cell_len
    from rich.text import Text

    lines: list[str] = []
    for part in parts:
        joined = f"{lines[-1]} · {part}" if lines else part
        if lines and cell_len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return [Text(line, no_wrap=True, overflow="ellipsis") for line in lines]


def _layer(task: TaskView) -> str:
    return printable(f"{task.name} {task.shape}")


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"×{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _end(reason: str) -> str:
    return _ENDS.get(reason, printable(reason))


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"


def _clock(duration: float) -> str:
    """Seconds as ``h:mm:ss``, or ``m:ss`` below an hour."""
    minutes, second = divmod(max(0, round(duration)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
