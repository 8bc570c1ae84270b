"""An estimate as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.bench.estimate import Estimate, KernelEstimate


_COLUMNS = ("#", "family", "calls", "M cycles", "share", "FLOP/cycle", "FMA share")
_LEAST_LAYER = 12


def estimate_table(result: Estimate, width: int) -> Table:
    """One row a kernel, most cycles first; the title says that it is an estimate.

    Args:
        result: to show.
        width: characters of the terminal; names of layers take what the figures leave.
    """
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    title = f"ESTIMATE, not a measurement: {result.model} for {result.target}, {result.cycles / 1e6:.1f} M cycles"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name == "family" else "right", no_wrap=True)
    table.add_column("layers", no_wrap=True)
    kernels = list(enumerate(result.kernels, start=1))
    rows = [(str(rank), k.family, str(k.calls), *_figures(k, result)) for rank, k in kernels]
    figures = sum(max(map(len, column)) + 2 for column in zip(_COLUMNS, *rows, strict=True))
    room = max(_LEAST_LAYER, width - figures - 2)
    for row, kernel in zip(rows, result.kernels, strict=True):
        table.add_row(*row, escape(_layers(kernel, room)))
    return table


def _figures(kernel: KernelEstimate, result: Estimate) -> tuple[str, ...]:
    loop_share = f"{kernel.multiply_add_share:.0%}"
    if not kernel.cycles:
        return "–", "–", "–", loop_share
    cycles = kernel.cycles * kernel.calls
    return f"{cycles / 1e6:.3f}", f"{cycles / result.cycles:.1%}", f"{kernel.flops / kernel.cycles:.1f}", loop_share


def _layers(kernel: KernelEstimate, room: int) -> str:
    """The first layer, and how many more; of a long name its end, in which layers differ."""
    if not kernel.layers:
        return "–"
    more = f" +{len(kernel.layers) - 1}" if len(kernel.layers) > 1 else ""
    room -= len(more)
    first = kernel.layers[0]
    return (first if len(first) <= room else f"…{first[1 - room :]}") + more
