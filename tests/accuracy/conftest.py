"""Fixtures for tests of accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import missing


@pytest.fixture(scope="session")
def flowers() -> Path:
    """Photographs of five flowers: a folder for each, named daisy, dandelion, roses, sunflowers and tulips."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("EDGEVIT_DATA", beside)) / "flowers" / "val"
    if not folder.is_dir():
        missing("the photographs of flowers are not beside this checkout, nor where EDGEVIT_DATA points")
    return folder
