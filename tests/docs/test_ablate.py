"""The script that measures the compiler's ideas: its patches, what they compile to, its table."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgevit.bench.contenders.result import ContenderResult, RunResult
from edgevit.errors import EnvironmentFailure
from edgevit.model import Model

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "ablate.py"


@pytest.fixture(scope="module")
def ablate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ablate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)  # as when it is run
        patch.setitem(sys.modules, "ablate", module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


def test_list_prints_every_idea(ablate: ModuleType) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--list"], capture_output=True, text=True, check=True, timeout=60
    )
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(ablate.IDEAS)


def test_every_patch_replaces_something_and_puts_it_back(ablate: ModuleType) -> None:
    for idea in ablate.IDEAS.values():
        places = [(owner, name) for owner, name, _ in idea.patches()]
        before = [inspect.getattr_static(*place) for place in places]
        with ablate.without(idea):
            during = [inspect.getattr_static(*place) for place in places]
        assert places
        assert all(new is not old for new, old in zip(during, before, strict=True)), idea.name
        assert [inspect.getattr_static(*place) for place in places] == before, idea.name


def test_an_error_puts_the_compiler_back_together(ablate: ModuleType) -> None:
    from edgevit.compiler import rewrite

    before = rewrite.REWRITES
    with pytest.raises(ZeroDivisionError), ablate.without(ablate.IDEAS["sink"]):
        raise ZeroDivisionError
    assert rewrite.REWRITES is before


@pytest.mark.parametrize("name", ["fusion", "exp"])
def test_a_variant_computes_the_same(ablate: ModuleType, small_model: Model, name: str) -> None:
    from edgevit.compiler.compile import compile_model

    full = compile_model(small_model, "host", verify=False)
    with ablate.without(ablate.IDEAS[name]):
        variant = compile_model(small_model, "host")  # raises if ONNX Runtime's outputs are others
    assert variant.resolution.check.status == "passed"
    assert variant.sha256 != full.sha256


def test_table_orders_by_worth_and_says_what_has_no_time(ablate: ModuleType) -> None:
    failed = ablate.Variant("bias", failure="no such register")
    same = ablate.Variant("exp", "full", 3, 10)
    names = ("full", "concat", "epilogues", "tile-1x1", "sink")
    variants = [*(ablate.Variant(name, name, 3, 2_000_000) for name in names), same, failed]
    runs = {
        "concat": _run(_contender("concat", 0.003)),
        "epilogues": _run(_contender("epilogues", 0.004)),
        "tile-1x1": _run(_contender("tile-1x1", 0.0022)),
        "sink": _run(_contender("sink", 0.0, "wrong")),
    }
    result = {
        "model": {"name": "m.onnx", "macs": 10**9},
        "threads": 1,
        "plan": {"rounds": 6, "calls": 3},
        "variants": ablate._rows(variants, runs),
    }
    title, rows, notes = ablate.table(result)
    assert title == "m.onnx, 1.00 GMAC, 1 thread: 6 rounds or more of 3 calls, load 0.25 – 0.50"
    assert [(cells[0], *cells[2:5]) for cells in rows] == [
        ("epilogues", "4.00", "2.00", "2.000 (2.000–2.000)"),
        ("concat", "3.00", "2.00", "1.500 (1.500–1.500)"),
        ("tile-1x1", "2.20", "2.00", "1.100 (1.100–1.100)"),
    ]
    assert notes == [
        "The whole compiler: 3 kernel calls, 2.00 MB workspace.",
        "Without sink: because",
        "Without bias: no such register",
        "The code is the same, byte for byte, without: exp.",
    ]


def test_nothing_is_compared_with_a_compiler_that_fails(ablate: ModuleType) -> None:
    run = _run(_contender("concat", 0.003), _contender("full", 0.0, "wrong"))
    variants = [ablate.Variant("full", "full"), ablate.Variant("concat", "concat")]
    with pytest.raises(EnvironmentFailure, match="whole compiler"):
        ablate._rows(variants, {"concat": run})


def _contender(name: str, seconds: float, status: Any = "ok") -> ContenderResult:
    rounds = tuple((seconds, seconds, seconds) for _ in range(6)) if status == "ok" else ()
    median = seconds if status == "ok" else None
    return ContenderResult(
        name=name, title=name, version="1", status=status, rounds=rounds, median_seconds=median, reason="because"
    )


def _run(variant: ContenderResult, full: ContenderResult | None = None) -> RunResult:
    full = full or _contender("full", 0.002)
    return RunResult(
        threads=1,
        load_before=0.25,
        load_after=0.5,
        peak=None,
        peak_failure=None,
        best_peer=None,
        contenders=(full, variant),
    )
