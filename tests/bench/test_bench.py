"""bench: samples are enough, interleaved, whole and honest about where they come from."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import onnx
import pytest

import edgevit
from edgevit.artifact import Artifact
from edgevit.bench.peers import Peer, start_peer
from edgevit.bench.result import QUICK, BenchResult, Protocol
from edgevit.bench.run import bench
from edgevit.errors import EnvironmentFailure, UserError
from edgevit.targets import get_target
from tests.models import small_proto

SHORT = Protocol(name="quick", warmup_seconds=0.05, min_samples=20, min_seconds=0.1, max_seconds=60)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "small.onnx"
    onnx.save(small_proto(), path)
    return path


@pytest.fixture(scope="module")
def result(onnx_file: Path) -> BenchResult:
    """One run beside ONNX Runtime."""
    model = edgevit.load(onnx_file)
    artifact = edgevit.compile(model, "host", verify=False)
    with edgevit.connect() as session:
        return bench(artifact, session, protocol=SHORT, threads=1, against="onnxruntime", reference=onnx_file)


def test_both_sides_have_as_many_samples_and_seconds_as_the_protocol_asks(result: BenchResult) -> None:
    for runner in result.runners:
        assert len(runner.samples) >= SHORT.min_samples
        assert sum(runner.samples) >= SHORT.min_seconds
        assert runner.complete


def test_the_summary_is_that_of_the_raw_samples(result: BenchResult) -> None:
    import statistics

    for runner in result.runners:
        assert runner.latency is not None
        assert runner.latency.p50 == pytest.approx(statistics.median(runner.samples))
        assert runner.latency.min == min(runner.samples)
        assert runner.latency.mean == pytest.approx(statistics.fmean(runner.samples))
        assert runner.latency.ci95_low is not None
        assert runner.latency.ci95_low <= runner.latency.p50 <= (runner.latency.ci95_high or 0)


def test_every_number_carries_what_it_takes_to_believe_it(result: BenchResult) -> None:
    assert result.device.kind == "process"
    assert result.device.cores
    assert len(result.model_sha256) == len(result.artifact_sha256) == 64
    assert result.target == "host"
    assert {"edgevit", "apache-tvm"} <= set(result.tools)
    for runner in result.runners:
        assert runner.threads_asked == 1
        assert runner.threads_seen == 1
        assert runner.load_before is not None
        assert runner.peak_rss_bytes is not None
        assert runner.peak_rss_bytes > 1 << 20
        assert runner.cpu_seconds_per_call is not None
        assert runner.cpu_seconds_per_call >= 0
    assert result.peer is not None
    assert result.peer.name.startswith("onnxruntime ")
    assert result.ratio is not None
    assert result.ratio.median > 0
    assert "below 1 is faster" in result.notes()[0]


def test_csv_and_json_keep_every_sample(result: BenchResult) -> None:
    rows = list(csv.DictReader(io.StringIO(result.to_csv())))
    for runner in result.runners:
        mine = [float(row["seconds"]) for row in rows if row["runner"] == runner.name]
        assert tuple(mine) == runner.samples
    assert BenchResult.model_validate_json(json.dumps(result.to_json())) == result


def test_threads_asked_for_are_threads_seen(small_artifact: Artifact) -> None:
    import os

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot show two threads")
    with edgevit.connect() as session:
        for count in (2, 1):
            measured = bench(small_artifact, session, protocol=SHORT, threads=count)
            assert measured.edgevit.threads_seen == count


def test_a_run_cut_short_says_so(small_artifact: Artifact) -> None:
    endless = Protocol(name="quick", warmup_seconds=0, min_samples=10**9, min_seconds=10**9, max_seconds=0.3)
    with edgevit.connect() as session:
        measured = bench(small_artifact, session, protocol=endless)
    assert not measured.edgevit.complete
    assert any("cut short" in note for note in measured.notes())


def test_no_threads_is_the_users_mistake(small_artifact: Artifact) -> None:
    with edgevit.connect() as session, pytest.raises(UserError, match="0 threads"):
        bench(small_artifact, session, threads=0)


def test_a_peer_here_is_not_compared_with_a_device_there(small_artifact: Artifact, onnx_file: Path) -> None:
    with edgevit.connect() as session:
        session.kind = "rpc"
        with pytest.raises(UserError, match="not comparable"):
            bench(small_artifact, session, against="onnxruntime", reference=onnx_file)


def test_an_unknown_peer_names_those_there_are(small_artifact: Artifact, onnx_file: Path) -> None:
    with edgevit.connect() as session, pytest.raises(UserError, match="no peer 'tflite'") as caught:
        bench(small_artifact, session, against="tflite", reference=onnx_file)
    assert "onnxruntime" in str(caught.value.advice)


def test_a_peer_that_cannot_load_the_model_says_why(small_artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    inputs = small_artifact.resolution.inputs
    with (
        pytest.raises(EnvironmentFailure, match="peer's process ended"),
        start_peer("onnxruntime", tmp_path / "broken.onnx", inputs, 1),
    ):
        pass


def test_a_peer_that_dies_is_an_error_and_leaves_nothing(small_artifact: Artifact, onnx_file: Path) -> None:
    peer = Peer("edgevit.bench.ort_worker", onnx_file, small_artifact.resolution.inputs, 1)
    peer._channel.process.kill()
    with pytest.raises(EnvironmentFailure, match="peer's process ended"):
        peer.sample(1)
    peer.close()
    assert peer._channel.process.poll() is not None


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("name", ["arm64-linux", "armv7-linux"])
def test_emulation_never_yields_a_latency(small_model: edgevit.Model, name: str) -> None:
    artifact = edgevit.compile(small_model, name, verify=False)
    with edgevit.connect(emulate=get_target(name)) as session:
        measured = bench(artifact, session, protocol=QUICK)
    assert measured.emulated
    assert measured.edgevit.latency is None
    assert measured.edgevit.samples == ()
    assert measured.edgevit.cpu_seconds_per_call is None
    assert measured.notes()[0].startswith("emulated: the path works")
    assert measured.to_csv().splitlines() == ["runner,sample,seconds"]
