"""What the tests of tuning share."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.processes import MARK, marked, wait_until


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Every process that the test causes carries this mark; it fails if one, or a temporary file, remains."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    text = uuid.uuid4().hex
    monkeypatch.setenv(MARK, text)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield text
    wait_until(lambda: not marked(text) and not list(temporary.glob("edgevit*")), 30)
    assert [process.cmdline() for process in marked(text)] == []
    assert [path.name for path in temporary.glob("edgevit*")] == []
