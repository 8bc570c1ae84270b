"""An estimate as a table for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.bench.estimate import Estimate, KernelEstimate


def estimate_table(result: Estimate) -> Table:
    """One row a kernel, most cycles first; the title says that it is an estimate."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    title = f"ESTIMATE, not a measurement: {result.model} for {result.target}, {result.cycles / 1e6:.1f} M cycles"
    table = Table(title=title, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("#", "family", "calls", "M cycles", "share", "FLOP/cycle", "FMA share"):
        table.add_column(name, justify="left" if name == "family" else "right", no_wrap=True)
    table.add_column("layers", no_wrap=True, overflow="ellipsis")
    for rank, kernel in enumerate(result.kernels, start=1):
        table.add_row(str(rank), kernel.family, str(kernel.calls), *_figures(kernel, result), escape(_layers(kernel)))
    return table


def _figures(kernel: KernelEstimate, result: Estimate) -> tuple[str, ...]:
    loop_share = f"{kernel.multiply_add_share:.0%}"
    if not kernel.cycles:
        return "–", "–", "–", loop_share
    cycles = kernel.cycles * kernel.calls
    return f"{cycles / 1e6:.3f}", f"{cycles / result.cycles:.1%}", f"{kernel.flops / kernel.cycles:.1f}", loop_share


def _layers(kernel: KernelEstimate) -> str:
    more = f" +{len(kernel.layers) - 1}" if len(kernel.layers) > 1 else ""
    return (kernel.layers[0] if kernel.layers else "–") + more
