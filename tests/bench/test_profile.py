"""profile: every kernel call is timed, named and set against the device's peak."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

import edgevit
from edgevit.artifact import Artifact
from edgevit.bench.profile import ProfileResult, profile
from edgevit.errors import UserError
from edgevit.model import from_proto
from edgevit.report.profile_table import profile_table
from edgevit.targets import get_target

LAYERS = {"conv", "sigmoid", "silu", "pool", "classifier"}


@pytest.fixture(scope="module", params=["process", "in-process"])
def result(request: pytest.FixtureRequest, small_artifact: Artifact) -> ProfileResult:
    with edgevit.connect(in_process=request.param == "in-process") as session:
        found = profile(small_artifact, session, samples=7, threads=1)
    assert found.device.kind == request.param
    return found


def test_every_call_is_there_in_the_programs_order(result: ProfileResult, small_artifact: Artifact) -> None:
    program = small_artifact.resolution.program
    assert [(call.kernel, call.layers, call.flops) for call in result.calls] == [
        (info.kernel, info.layers, info.flops) for info in program
    ]
    assert {layer for call in result.calls for layer in call.layers} == LAYERS
    assert all(call.seconds >= 0 for call in result.calls)


def test_kernels_are_their_calls_slowest_first(result: ProfileResult) -> None:
    assert [kernel.seconds for kernel in result.kernels] == sorted((k.seconds for k in result.kernels), reverse=True)
    assert sum(kernel.calls for kernel in result.kernels) == len(result.calls)
    for kernel in result.kernels:
        calls = [call for call in result.calls if call.kernel == kernel.kernel]
        assert kernel.seconds == pytest.approx(sum(call.seconds for call in calls))
        assert set(kernel.layers) == {layer for call in calls for layer in call.layers}
        assert kernel.workload
    assert result.kernel_seconds == pytest.approx(sum(call.seconds for call in result.calls))
    assert sum(kernel.share for kernel in result.kernels) == pytest.approx(1, abs=0.01)


def test_rates_are_work_over_time(result: ProfileResult) -> None:
    convolution = next(kernel for kernel in result.kernels if "conv" in kernel.layers)
    assert convolution.flops == 2 * 16 * 16 * 8 * 3 * 3 * 3
    assert convolution.gflops_per_second == pytest.approx(convolution.flops / convolution.seconds / 1e9)
    assert convolution.gbytes_per_second == pytest.approx(convolution.bytes / convolution.seconds / 1e9)
    assert result.peak_flops_per_second is not None
    assert result.peak_flops_per_second > 1e8
    assert convolution.peak_share == pytest.approx(
        convolution.flops / convolution.seconds / result.peak_flops_per_second
    )


def test_the_latency_is_that_of_runs_without_readings(result: ProfileResult) -> None:
    assert result.samples == result.latency.count == 7
    assert result.outside_seconds == pytest.approx(result.latency.p50 - result.kernel_seconds - result.tvm_seconds)
    assert result.threads_asked == result.threads_seen == 1


def test_json_holds_everything(result: ProfileResult) -> None:
    assert ProfileResult.model_validate_json(json.dumps(result.to_json())) == result


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_and_names_kernels_and_layers(result: ProfileResult, width: int) -> None:
    screen = Console(file=io.StringIO(), width=width)
    screen.print(profile_table(result, width))
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert all(kernel.kernel in text for kernel in result.kernels)
    assert "GFLOP/s" in text
    assert "classifier" in text
    assert max(map(len, text.splitlines())) <= width


def test_what_tvm_computes_between_kernels_is_told_apart() -> None:
    draw = np.random.default_rng(0)
    weights = {"first": draw.standard_normal((8, 4, 3, 3)), "second": draw.standard_normal((4, 8, 1, 1))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "first"], ["a"], name="before"),
            helper.make_node("CumSum", ["a", "axis"], ["b"], name="sum"),
            helper.make_node("Conv", ["b", "second"], ["y"], name="after"),
        ],
        "interrupted",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 18, 18])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 16, 16])],
        [
            *(numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()),
            numpy_helper.from_array(np.array(3), "axis"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    artifact = edgevit.compile(from_proto(proto), "host", verify=False)
    with edgevit.connect() as session:
        with session.load(artifact) as loaded:
            image = draw.standard_normal((1, 4, 18, 18)).astype(np.float32)
            expected = loaded.run({"x": image})["y"]
            readings = loaded.profile(3)
        found = profile(artifact, session, samples=3, threads=1)
    assert len(readings.segments) == 2
    assert readings.kernels.shape == (3, len(artifact.resolution.program))
    assert (readings.between > 0).all()
    np.testing.assert_array_equal(readings.outputs["y"], expected)
    assert found.rest == {"CumSum": 1}
    assert found.tvm_seconds > 0
    assert "left to TVM (1 CumSum)" in found.notes()[0]


def test_the_peak_does_not_end_a_profile(small_artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target whose linker is not installed here, such as the NDK."""
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    target = small_artifact.manifest.target
    linking = target.linking.model_copy(update={"linker": "ndk"})
    manifest = small_artifact.manifest.model_copy(update={"target": target.model_copy(update={"linking": linking})})
    with edgevit.connect() as session:
        found = profile(Artifact(manifest, small_artifact.files), session, samples=2)
    assert found.peak_flops_per_second is None
    assert all(kernel.peak_share is None for kernel in found.kernels)
    assert "ANDROID_NDK_HOME" in found.notes()[1]


@pytest.mark.parametrize("lacking", [{"program": ()}, {"profile": None}])
def test_artifacts_of_an_earlier_version_are_refused(small_artifact: Artifact, lacking: dict[str, object]) -> None:
    resolution = small_artifact.resolution.model_copy(update=lacking)
    old = Artifact(small_artifact.manifest.model_copy(update={"resolutions": (resolution,)}), small_artifact.files)
    with edgevit.connect() as session, pytest.raises(UserError, match="cannot time its kernels") as caught:
        profile(old, session)
    assert "Compile the model again" in str(caught.value.advice)


@pytest.mark.parametrize("counts", [{"samples": 0}, {"threads": 0}])
def test_nothing_to_run_is_the_users_mistake(small_artifact: Artifact, counts: dict[str, int]) -> None:
    with edgevit.connect() as session, pytest.raises(UserError, match="0 "):
        profile(small_artifact, session, **counts)


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_emulation_has_no_times_to_show(small_model: edgevit.Model) -> None:
    artifact = edgevit.compile(small_model, "arm64-linux", verify=False)
    with (
        edgevit.connect(emulate=get_target("arm64-linux")) as session,
        pytest.raises(UserError, match="under emulation"),
    ):
        profile(artifact, session)


def test_the_command(small_model: edgevit.Model, small_artifact: Artifact, tmp_path: Path) -> None:
    small_artifact.save(tmp_path / "small.edgevit")
    command = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "bench", "small.edgevit", "--profile"]

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=300)

    said = run("--samples", "3", "--threads", "1", "--json", "--output", "profile.json")
    assert said.returncode == 0, said.stderr
    found = ProfileResult.model_validate_json(said.stdout)
    assert found == ProfileResult.model_validate_json((tmp_path / "profile.json").read_text(encoding="utf-8"))
    assert found.samples == 3
    refused = run("--csv", "--against", "onnxruntime")
    assert refused.returncode == 2
    assert "--against and --csv cannot be combined with --profile" in " ".join(refused.stderr.split())
