"""The scripts that measure what trained models recognise, and a long check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _run(script: str, *options: str) -> list[str]:
    command = [sys.executable, str(ROOT / "docs" / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_recognition_before_and_after_compiling_and_a_fault() -> None:
    lines = _run("recognition.py", "--images", "48", "--board-images", "0", "--bits", "2")
    header, _, *rows = lines[: lines.index("")]
    assert len(rows) == 4
    assert all(row.count("|") == header.count("|") for row in rows)
    assert [row.split(" | ")[4] for row in rows] == ["top-1", "mAP", "mAP@50", "mIoU"]
    assert "0 images" in rows[0]
    right, broken = lines[-2:]
    assert "| 100.0% | passed | 0, 0 | 1 |" in right
    assert "failed" in broken


@pytest.mark.slow
def test_a_long_run_and_its_resumption() -> None:
    header, _, part, whole, _, said = _run("long_run.py", "--images", "40", "--size", "64")
    assert header.count("|") == part.count("|") == whole.count("|") == 10
    assert (part.split("|")[1].strip(), whole.split("|")[1].strip()) == ("4", "40")
    assert "of 40 images were done before; scores are the same" in said
