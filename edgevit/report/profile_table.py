"""A profile as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.bench.profile import ProfileResult

_LAYER_WIDTH = 36


def profile_table(result: ProfileResult) -> Table:
    """One row a kernel, slowest first; a column without figures is left out."""
    from rich.markup import escape
    from rich.table import Table

    place = result.device.address or result.device.cpu or "this machine"
    table = Table(title=f"{result.model} for {result.target}, {result.precision}, on {place}")
    peak = result.peak_flops_per_second is not None
    table.add_column("#", justify="right")
    table.add_column("kernel", no_wrap=True)
    for name in ("calls", "ms", "share", "GFLOP/s", "GB/s", *(["peak"] if peak else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("layers")
    for rank, kernel in enumerate(result.kernels, start=1):
        rate = "–" if kernel.gflops_per_second is None else f"{kernel.gflops_per_second:.1f}"
        table.add_row(
            str(rank),
            kernel.kernel,
            str(kernel.calls),
            f"{kernel.seconds * 1e3:.3f}",
            f"{kernel.share:.1%}",
            rate,
            f"{kernel.gbytes_per_second:.1f}",
            *(["–" if kernel.peak_share is None else f"{kernel.peak_share:.0%}"] if peak else []),
            escape(_layers(kernel.layers)),
        )
    return table


def _layers(names: tuple[str, ...]) -> str:
    """The first layer and how many more: names are long, and differ at their ends."""
    if not names:
        return "–"
    first = names[0] if len(names[0]) <= _LAYER_WIDTH else f"…{names[0][1 - _LAYER_WIDTH :]}"
    return first if len(names) == 1 else f"{first} +{len(names) - 1}"
