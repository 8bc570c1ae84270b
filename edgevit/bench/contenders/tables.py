"""A contest as tables, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgevit.bench.contenders.ranking import Ratio
from edgevit.bench.contenders.result import ContenderResult, ContestResult, ModelResult, RunResult

if TYPE_CHECKING:
    from rich.table import Table

_HEADINGS = (
    "contender",
    "ms",
    "÷ ORT",
    "÷ best peer",
    "CPU ms",
    "threads",
    "MiB",
    "of peak",
    "error",
)
_NONE = "–"


def rich_tables(result: ContestResult) -> Iterator[Table | str]:
    """A table for every model and number of threads; a sentence for what failed."""
    from rich.markup import escape
    from rich.table import Table

    for model, run in _runs(result):
        table = Table(title=escape(_title(model, run)), title_justify="left")
        for heading in _HEADINGS:
            table.add_column(heading, justify="left" if heading == "contender" else "right", no_wrap=True)
        for contender in run.contenders:
            if contender.status == "ok":
                table.add_row(*_cells(contender))
        yield table
        yield from _notes(run)
    yield from _failures(result)


def markdown(result: ContestResult) -> str:
    """The same for a page, with what it takes to repeat it."""
    lines = [
        f"{result.date}: {result.machine.get('cpu') or result.machine['arch']}, {result.machine['cores']} cores, "
        f"{result.machine['os']}. At least {result.rounds} interleaved rounds of {result.calls} calls and "
        f"{result.minimum_seconds:g} s of each; intervals are 95 %; {2 * result.checks} inputs checked against "
        f"{result.reference}.",
    ]
    for model, run in _runs(result):
        lines += ["", f"**{_title(model, run)}**", "", f"| {' | '.join(_HEADINGS)} |"]
        lines.append("|---|" + "---:|" * (len(_HEADINGS) - 1))
        lines += [f"| {' | '.join(_cells(contender))} |" for contender in run.contenders if contender.status == "ok"]
        if notes := list(_notes(run)):
            lines += ["", *(f"- {note}" for note in notes)]
    if failures := list(_failures(result)):
        lines += ["", *failures]
    return "\n".join(lines) + "\n"


def _runs(result: ContestResult) -> Iterator[tuple[ModelResult, RunResult]]:
    for model in result.models:
        for run in model.runs:
            yield model, run


def _title(model: ModelResult, run: RunResult) -> str:
    threads = "1 thread" if run.threads == 1 else f"{run.threads} threads"
    peak = f"FMA peak {run.peak.flops_per_second / 1e9:.0f} GFLOP/s" if run.peak else "FMA peak not measured"
    rounds = max((len(contender.rounds) for contender in run.contenders), default=0)
    load = f"load {run.load_before:.2f} → {run.load_after:.2f}"
    return f"{model.name}, {(model.macs or 0) / 1e9:.2f} GMAC, {threads}: {peak}, {load}, {rounds} rounds"


def _cells(contender: ContenderResult) -> list[str]:
    memory = contender.peak_rss_bytes
    return [
        f"{contender.title} {contender.version}",
        _number(contender.median_seconds, 1e3, ".2f"),
        _ratio(contender.to_baseline),
        _ratio(contender.to_best_peer),
        _number(contender.cpu_seconds_per_call, 1e3, ".2f"),
        _NONE if contender.busy_threads is None else str(contender.busy_threads),
        _number(memory, 1 / (1 << 20), ".0f"),
        _number(contender.roofline, 100, ".0f", " %"),
        _number(contender.max_error, 1, ".0e"),
    ]


def _number(value: float | None, scale: float, form: str, unit: str = "") -> str:
    return _NONE if value is None else format(value * scale, form) + unit


def _ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return _NONE
    if ratio.ci95_low is None or ratio.ci95_high is None:
        return f"{ratio.median:.3f}"
    if ratio.ci95_low == ratio.ci95_high == 1:
        return "1"  # itself
    return f"{ratio.median:.3f} ({ratio.ci95_low:.3f}–{ratio.ci95_high:.3f})"


def _notes(run: RunResult) -> Iterator[str]:
    for contender in run.contenders:
        if contender.status != "ok":
            version = f" {contender.version}" if contender.version else ""
            yield f"{contender.title}{version}: {contender.reason}"
        elif contender.busy_threads not in (None, run.threads):
            yield f"{contender.title}: {contender.busy_threads} threads did the work, {run.threads} asked."
    if run.peak_failure:
        yield f"FMA peak: {run.peak_failure}"


def _failures(result: ContestResult) -> Iterator[str]:
    for model in result.models:
        if model.failure:
            yield f"{model.name}: {model.failure}"
