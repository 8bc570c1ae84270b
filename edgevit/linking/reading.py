"""LIEF, which reads ELF and Mach-O, without its noise."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reading() -> Iterator[None]:
    """LIEF prints and warns of what it does not know; the inspections say what matters of it."""
    import lief

    lief.logging.disable()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".* is not a valid", category=RuntimeWarning)
        yield


def named(value: object) -> str:
    """Name of one of LIEF's constants; LIEF has plain numbers where it knows no name."""
    return str(getattr(value, "__name__", value))
