"""Results as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.report.units import seconds, size

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.bench.result import BenchResult, Runner


def bench_table(result: BenchResult) -> Table:
    """One column a runner; under emulation no column holds a latency."""
    from rich.table import Table

    phone = result.device.phone
    place = (phone.name if phone else None) or result.device.address or result.device.cpu or "this machine"
    table = Table(title=f"{result.model} for {result.target}, {result.precision}, on {place}")
    table.add_column("")
    for runner in result.runners:
        table.add_column(runner.name, justify="right")
    for label, values in _rows(result.runners):
        table.add_row(label, *values)
    return table


def _rows(runners: tuple[Runner, ...]) -> list[tuple[str, list[str]]]:
    timed = [runner.latency for runner in runners]
    rows: list[tuple[str, list[str]]] = []
    if all(latency is not None for latency in timed):
        for label, field in (
            ("p50", "p50"),
            ("p90", "p90"),
            ("p99", "p99"),
            ("mean", "mean"),
            ("min", "min"),
        ):
            rows.append((label, [seconds(getattr(latency, field)) for latency in timed]))
        rows.append(
            (
                "95 % interval of the median",
                [f"{seconds(t.ci95_low)} … {seconds(t.ci95_high)}" if t else "–" for t in timed],
            )
        )
        rows.append(("samples", [str(len(runner.samples)) for runner in runners]))
        rows.append(("CPU time a call", [seconds(runner.cpu_seconds_per_call) for runner in runners]))
        rows.append(("peak memory", [size(runner.peak_rss_bytes) for runner in runners]))
        rows.append(("load before → after", [_load(runner) for runner in runners]))
    rows.append(("threads asked / seen", [_threads(runner) for runner in runners]))
    return rows


def _load(runner: Runner) -> str:
    if runner.load_before is None or runner.load_after is None:
        return "–"
    return f"{runner.load_before:.2f} → {runner.load_after:.2f}"


def _threads(runner: Runner) -> str:
    asked = "default" if runner.threads_asked is None else str(runner.threads_asked)
    return f"{asked} / {runner.threads_seen if runner.threads_seen is not None else '–'}"
