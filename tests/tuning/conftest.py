"""What the tests of tuning share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.processes import nothing_left


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every process that the test causes carries this mark; it fails if one, or a temporary file, remains."""
    with nothing_left(tmp_path, monkeypatch) as text:
        yield text
