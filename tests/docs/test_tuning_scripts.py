"""The scripts that measure what tuning is worth and how fast it is."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import onnx
import pytest

from edgevit.errors import UserError
from edgevit.targets import get_target
from edgevit.tuning.writing import LogWriter
from tests.models import small_proto
from tests.tuning.making import KEY, measured

DOCS = Path(__file__).resolve().parents[2] / "docs"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def _log(folder: Path) -> Path:
    with LogWriter(folder / "rpi4" / "records.jsonl") as log:
        for minute, rows in ((0, 1), (4, 2), (14, 3)):
            log.append(measured({"rows": rows}, 1.0 / rows, date=f"2025-01-31T12:{minute:02}:00.500Z"))
    return folder


def test_variants_hold_the_records_of_the_first_minutes(tmp_path: Path) -> None:
    gain, target = _load("tuning_gain"), get_target("rpi4")
    logs = gain.logs(_log(tmp_path), target, [5.0, 15.0])
    assert list(logs) == ["untuned", "same code", "5 min", "15 min", "tuned"]
    best = {name: log.best(KEY) for name, log in logs.items()}
    assert best == {
        "untuned": None,
        "same code": None,
        "5 min": {"rows": 2},
        "15 min": {"rows": 3},
        "tuned": {"rows": 3},
    }
    with pytest.raises(UserError, match="no records"):
        gain.logs(tmp_path / "rpi5", target, [])


@pytest.mark.slow
def test_untuned_and_tuned_take_turns(tmp_path: Path) -> None:
    onnx.save(small_proto(), tmp_path / "small.onnx")
    command = [sys.executable, str(DOCS / "tuning_gain.py"), str(tmp_path / "small.onnx")]
    command += ["--tuning-log", str(_log(tmp_path)), "--threads", "1", "--peers", ""]
    command += ["--rounds", "2", "--calls", "2", "--minimum-seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    title, _, head, _, row = done.stdout.splitlines()
    assert "target host; 2 rounds or more of 2 calls" in title
    assert head.count("|") == row.count("|") == 9
    assert row.startswith("| small | 1 |")


def test_speed_is_measured_for_one_builder_and_more() -> None:
    speed = _load("tuning_speed")
    settings = speed.settings(2)
    assert [(entry.where, entry.workers, entry.batch) for entry in settings] == [
        ("local", 1, 1),
        ("local", 1, 16),
        ("local", 2, 16),
        ("rpc", 1, 16),
        ("rpc", 2, 16),
        ("dask", 2, 16),
    ]
    found = {"elapsed_seconds": 20.0, "trials": 50, "measured": 48}
    lines = speed.markdown([(settings[0], found)], "model", 50).splitlines()
    assert lines[-1] == "| local | 1 | 1 | 2.50 | 20 | 48 |"
    assert lines[-1].count("|") == lines[-3].count("|")
