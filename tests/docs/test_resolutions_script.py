"""The script that measures several resolutions in one artifact beside one artifact for each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_prints_times_and_bytes() -> None:
    options = ["--sizes", "64,96", "--threads", "1", "--rounds", "1", "--calls", "1", "--minimum-seconds", "0"]
    command = [sys.executable, str(ROOT / "docs" / "resolutions.py"), "mobilevit-xxs", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    header, _, small, large, _, bytes_line = done.stdout.splitlines()
    assert header.count("|") == small.count("|") == large.count("|") == 9
    assert "1x3x64x64" in small
    assert "1x3x96x96" in large
    one, two = (int(word.replace(",", "")) for word in bytes_line.split() if "," in word and word[0].isdigit())
    assert one < two
