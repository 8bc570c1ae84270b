"""Compiling takes the best records by itself, says how many, and does without when told to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from typer.testing import CliRunner, Result

from edgevit.artifact import load_artifact
from edgevit.cli.main import app
from edgevit.compiler.compile import compile_model
from edgevit.compiler.kernels import KernelFamily, claim
from edgevit.compiler.prepare import prepare
from edgevit.device.session import DeviceInfo
from edgevit.model import Model, from_proto
from edgevit.target_schema import Target
from edgevit.targets import get_target, list_targets
from edgevit.tuning.layers import user_log
from edgevit.tuning.origin import Origin
from edgevit.tuning.record import KernelRecord, parse_record
from edgevit.tuning.records import TuningLog
from edgevit.tuning.writing import LogWriter
from tests.models import small_proto

DEVICE = DeviceInfo(kind="process", cpu="CPU", cores=2, system="linux")


@pytest.fixture(scope="module")
def host() -> Target:
    return get_target("host")


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No records but those that a test writes."""
    monkeypatch.setenv("EDGEVIT_TUNING_DIR", str(tmp_path / "own"))
    monkeypatch.setattr("edgevit.tuning.layers.resource_folder", lambda name: tmp_path / "none")
    monkeypatch.setenv("EDGEVIT_CACHE_DIR", str(tmp_path / "cache"))


def workloads(model: Model, target: Target) -> Iterator[tuple[KernelFamily, Any]]:
    return filter(None, map(claim, prepare(model, target).nodes))


def convolution(model: Model, target: Target) -> tuple[KernelFamily, Any, dict[str, int]]:
    """A convolution of the model, and a choice that is not its default."""
    family, workload = next((f, w) for f, w in workloads(model, target) if f.NAME == "conv")
    default, space = family.analytic_default(workload, target), family.space(workload, target)
    rows = next(rows for rows in space["rows"] if rows != default["rows"])
    return family, workload, {name: values[0] for name, values in space.items()} | {"rows": rows}


def record(target: Target, measured_on: Target, **changes: int) -> KernelRecord:
    family, workload, choice = convolution(from_proto(small_proto()), target)
    return Origin(measured_on, DEVICE, 1).measured(family, workload, choice | changes, [1e-6, 2e-6])


def write(found: KernelRecord) -> None:
    with LogWriter(user_log("host")) as writer:
        writer.append(found)


def edgevit_compile(folder: Path, *options: str) -> Result:
    onnx.save(small_proto(), folder / "small.onnx")
    out = str(folder / "small.edgevit")
    return CliRunner().invoke(app, ["compile", str(folder / "small.onnx"), "-t", "host", "-o", out, *options])


def test_a_users_record_is_used_by_itself_and_counted(tmp_path: Path, host: Target) -> None:
    found = record(host, host)
    write(found)
    done = edgevit_compile(tmp_path)
    assert done.exit_code == 0, done.output
    assert "; choices: 1 measured, " in done.stdout
    manifest = load_artifact(tmp_path / "small.edgevit").manifest
    assert (manifest.tuning.measured, manifest.tuning.borrowed, manifest.tuning.estimated) == (1, 0, 0)
    (kernel,) = [kernel for kernel in manifest.resolutions[0].program if kernel.tuned]
    assert (kernel.workload, kernel.evidence) == (found.workload, "measured")
    assert manifest.resolutions[0].check.status == "passed"


def test_the_manifest_depends_on_the_records_that_were_used_only(small_model: Model, host: Target) -> None:
    plain = compile_model(small_model, host, verify=False)
    assert plain.manifest.tuning.records_sha256 is None
    write(record(host, host))
    tuned = compile_model(small_model, host, verify=False)
    assert tuned.library != plain.library
    write(record(host, host).model_copy(update={"workload": "conv/1/00"}))
    assert compile_model(small_model, host, verify=False) == tuned
    assert compile_model(small_model, host, verify=False, tuning_log=TuningLog()) == plain


def test_no_tuning_is_for_comparison(tmp_path: Path, host: Target) -> None:
    write(record(host, host))
    done = edgevit_compile(tmp_path, "--no-tuning", "--no-verify")
    assert "; choices: 5 default\n" in done.stdout
    assert load_artifact(tmp_path / "small.edgevit").manifest.tuning.measured == 0
    both = edgevit_compile(tmp_path, "--no-tuning", "--tuning-log", str(tmp_path))
    assert both.exit_code != 0
    assert "exclude each other" in str(both.exception)


def test_a_relatives_record_is_borrowed(tmp_path: Path, host: Target) -> None:
    write(record(host, host.model_copy(update={"cpu": "another", "name": "another"})))
    done = edgevit_compile(tmp_path)
    assert "; choices: 1 borrowed, " in done.stdout
    assert load_artifact(tmp_path / "small.edgevit").manifest.tuning.borrowed == 1


def test_a_choice_outside_the_familys_space_is_passed_over(small_model: Model, host: Target) -> None:
    """Only choices of the space are valid: anything else might compute nonsense, or never end."""
    write(record(host, host, rows=1_000_000))
    assert compile_model(small_model, host, verify=False).manifest.tuning.measured == 0
    write(record(host, host))
    assert compile_model(small_model, host, verify=False).manifest.tuning.measured == 1


def test_lines_that_are_no_records_are_reported_and_not_fatal(tmp_path: Path, host: Target) -> None:
    write(record(host, host))
    log = user_log("host")
    log.write_bytes(log.read_bytes() + b"<<<<<<< HEAD\n" * 5)
    before = log.read_bytes()
    done = edgevit_compile(tmp_path, "--no-verify")
    assert done.exit_code == 0
    assert "; choices: 1 measured, " in done.stdout
    assert f"ignored {log}:2: not JSON" in " ".join(done.stderr.split())
    assert "ignored 2 more lines" in " ".join(done.stderr.split())
    assert log.read_bytes() == before


@pytest.mark.parametrize("name", ["x86-64-v3", "rpi4"])
def test_every_kernel_of_the_embedded_model_can_be_recorded(name: str) -> None:
    from edgevit.zoo import embedded_model

    target = get_target(name)
    origin, about = Origin(target, None, 1), {}
    for family, workload in workloads(from_proto(embedded_model()), target):
        found = origin.estimated(family, workload, family.analytic_default(workload, target), 1e-6)
        assert parse_record(found.line()) == found
        about[found.workload] = found.about
    assert len(about) > 20
    # The description tells all workloads apart; programs of elementwise kernels are told by their operations only.
    assert len({str(text) for text in about.values()}) >= 0.9 * len(about)


def test_shipped_records_are_records() -> None:
    from edgevit.resources import resource_folder
    from edgevit.tuning.layers import log_files
    from edgevit.tuning.reading import Rejected, read_records

    names = {target.name for target in list_targets()}
    for file in log_files(resource_folder("tuning_logs")):
        assert file.parent.name in names
        for entry in read_records(file):
            assert not isinstance(entry, Rejected), entry
            assert entry.target.name == file.parent.name
            assert entry.target.name != "host"
