"""Fixtures of the tests of emulation."""

from __future__ import annotations

import pytest

from tests.conftest import missing


@pytest.fixture(scope="session")
def pocl() -> None:
    """PoCL through pyopencl."""
    from edgevit.emulate.pocl import pocl_missing

    if reason := pocl_missing():
        missing(reason)
