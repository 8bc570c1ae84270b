"""A profile as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.bench.profile import KernelTime, ProfileResult

_COLUMNS = ("#", "kernel", "calls", "ms", "share", "GFLOP/s", "GB/s", "peak")
_GAP = 2
"""Characters between columns: padding and the box's separator."""
_LEAST_LAYER = 12


def profile_table(result: ProfileResult, width: int) -> Table:
    """One row a kernel, slowest first.

    Args:
        result: to show.
        width: characters of the terminal; names of layers take what the figures leave.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    phone = result.device.phone
    place = (phone.name if phone else None) or result.device.address or result.device.cpu or "this machine"
    title = f"{result.model} for {result.target}, {result.precision}, on {place}"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "kernel" else "right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    rows = [_figures(rank, kernel) for rank, kernel in enumerate(result.kernels, start=1)]
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    room = max(_LEAST_LAYER, width - sum(widths) - _GAP * (len(widths) + 1))
    for row, kernel in zip(rows, result.kernels, strict=True):
        table.add_row(*row, escape(_layers(kernel.layers, room)))
    return table


def _figures(rank: int, kernel: KernelTime) -> tuple[str, ...]:
    return (
        str(rank),
        kernel.kernel,
        str(kernel.calls),
        f"{kernel.seconds * 1e3:.4f}",
        f"{kernel.share:.1%}",
        "–" if kernel.gflops_per_second is None else f"{kernel.gflops_per_second:.1f}",
        f"{kernel.gbytes_per_second:.1f}",
        "–" if kernel.peak_share is None else f"{kernel.peak_share:.0%}",
    )


def _layers(names: tuple[str, ...], room: int) -> str:
    """The first layer, and how many more; of a long name its end, in which layers differ."""
    if not names:
        return "–"
    more = f" +{len(names) - 1}" if len(names) > 1 else ""
    room -= len(more)
    first = names[0] if len(names[0]) <= room else f"…{names[0][1 - room :]}"
    return first + more
