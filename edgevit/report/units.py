"""Numbers with units, for people."""

from __future__ import annotations


def seconds(value: float | None) -> str:
    """A duration: three digits and a unit."""
    if value is None:
        return "–"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value / 1e-9:.3g} ns"


def size(value: int | None) -> str:
    """A byte count."""
    if value is None:
        return "–"
    if value >= 1 << 20:
        return f"{value / (1 << 20):.1f} MiB"
    return f"{value / 1024:.1f} KiB" if value >= 1024 else f"{value} B"
