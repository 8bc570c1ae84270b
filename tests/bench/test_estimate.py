"""Static estimates: labelled as such, and in proportion to the work."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import edgevit
from edgevit.bench import mca
from edgevit.bench.estimate import estimate_kernel
from edgevit.compiler.kernels import conv
from edgevit.errors import EnvironmentFailure
from edgevit.targets import get_target
from tests.conftest import missing
from tests.models import small_proto


def needs_mca() -> None:
    try:
        mca.find_mca()
    except EnvironmentFailure as absent:
        missing(absent.message)


def product(rows: int, depth: int, columns: int) -> conv.Workload:
    return conv.Workload(1, 1, rows, (depth,), columns, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, None)


@pytest.mark.parametrize("target", ["host", "rpi3", "rpi5", "apple-silicon"])
def test_a_kernel_of_twice_the_work_takes_twice_the_cycles(target):
    needs_mca()
    small, _ = estimate_kernel(conv, product(512, 96, 96), get_target(target))
    large, _ = estimate_kernel(conv, product(1024, 96, 96), get_target(target))
    assert large.cycles == pytest.approx(2 * small.cycles, rel=0.2)


def test_host_convolution_is_near_two_multiply_adds_per_cycle():
    needs_mca()
    host = get_target("host")
    case = product(1024, 96, 192)
    found, _ = estimate_kernel(conv, case, host)
    ideal = case.flops / (2 * host.vector.lanes(32) * 2)
    assert ideal / 2 <= found.cycles <= 2 * ideal


def test_missing_simulator_is_said_with_advice(monkeypatch):
    mca.find_mca.cache_clear()
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(EnvironmentFailure) as caught:
        mca.find_mca()
    assert "llvm" in (caught.value.advice or "")
    mca.find_mca.cache_clear()


def command(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "bench", "small.edgevit", "--estimate"]
    return subprocess.run([*start, *options], cwd=folder, capture_output=True, text=True, timeout=300)


def test_an_estimate_refuses_what_measures(tmp_path: Path) -> None:
    refused = command(tmp_path, "--profile")
    assert refused.returncode == 2
    assert "--profile cannot be combined with --estimate" in " ".join(refused.stderr.split())


def test_the_command_labels_its_result_an_estimate(tmp_path: Path) -> None:
    needs_mca()
    onnx.save(small_proto(), tmp_path / "small.onnx")
    edgevit.compile(edgevit.load(tmp_path / "small.onnx"), "rpi5", verify=False).save(tmp_path / "small.edgevit")
    shown = command(tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "ESTIMATE" in shown.stdout
    assert "latency" not in shown.stdout
    result = json.loads(command(tmp_path, "--json").stdout)
    assert result["estimate"] is True
    assert result["cycles"] > 0
    assert {"conv"} <= {kernel["family"] for kernel in result["kernels"]}
    assert any("cache" in item for item in result["ignored"])
