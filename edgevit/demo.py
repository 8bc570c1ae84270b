"""The tour: the embedded model, compiled, served over RPC by another process, checked, judged and measured.

Where QEMU is installed, the same for a 64-bit ARM board: its artifact runs on edgevit's own static server under
emulation, again over RPC.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.files import write_atomic

if TYPE_CHECKING:
    from edgevit.accuracy.check_dataset import DatasetResult
    from edgevit.accuracy.compare import AccuracyResult
    from edgevit.artifact import Artifact
    from edgevit.bench.result import BenchResult
    from edgevit.device.session import DeviceInfo, Session
    from edgevit.model import Model

MODEL_NAME = "mobilevit-xxs.onnx"
BOARD = "arm64-linux"
SCENES = "scenes"
SCENE_COUNT, BOARD_SCENE_COUNT = 240, 24
"""Labelled images: drawn, and shown to the emulated board, which is slow."""


@dataclass(frozen=True)
class Stop:
    """One place the model ran.

    Attributes:
        artifact: what ran, saved.
        device: where.
        accuracy: against ONNX Runtime, output by output.
        recognition: how many scenes both recognise.
        latency: None under emulation, where times mean nothing.
    """

    artifact: Artifact
    device: DeviceInfo
    accuracy: AccuracyResult
    recognition: DatasetResult
    latency: BenchResult | None


@dataclass(frozen=True)
class Tour:
    """What the demo did.

    Attributes:
        model: the embedded model.
        folder: where everything was saved.
        host: this machine.
        board: the emulated board, None without QEMU.
    """

    model: Model
    folder: Path
    host: Stop
    board: Stop | None


def run_demo(
    folder: Path,
    *,
    stage: Callable[[str], None] = lambda _: None,
    share: Callable[[float], None] = lambda _: None,
    build_progress: Callable[[int, int], None] | None = None,
) -> Tour:
    """Compile, check, judge and measure the embedded MobileViT-XXS; save model, scenes, artifacts and results.

    Args:
        folder: made if it does not exist.
        stage: told what is going on.
        share: told how far the stage is, 0 to 1.
        build_progress: told of the device server's build.

    Raises:
        UserError: the folder cannot be written.
        CheckFailed: the compiled code is wrong.
        EnvironmentFailure: a tool or a process failed.
    """
    import onnx

    from edgevit.device.connect import connect
    from edgevit.device.emulate import find_emulator
    from edgevit.files import make_folder
    from edgevit.model import load
    from edgevit.targets import get_target
    from edgevit.zoo import embedded_model

    make_folder(folder)
    stage("build the embedded MobileViT-XXS")
    proto: onnx.ModelProto = embedded_model()
    write_atomic(folder / MODEL_NAME, proto.SerializeToString(deterministic=True))
    model = load(folder / MODEL_NAME)
    stage("draw labelled scenes")
    _draw(folder / SCENES, share)

    artifact = _compile(model, "host", folder, stage)
    with connect() as session:
        stage("host: check over RPC")
        accuracy = _check(artifact, session, model, share)
        stage("host: recognise scenes")
        recognition = _recognise(artifact, session, model, folder, share)
        stage("host: measure beside ONNX Runtime")
        latency = _measure(artifact, session, model, share)
        host = Stop(artifact, session.describe(), accuracy, recognition, latency)

    board = None
    target = get_target(BOARD)
    if find_emulator(target):
        artifact = _compile(model, BOARD, folder, stage)
        with connect(emulate=target, progress=build_progress) as session:
            stage("board: check over RPC under QEMU")
            accuracy = _check(artifact, session, model, share)
            stage("board: recognise scenes under QEMU")
            recognition = _recognise(artifact, session, model, folder, share, limit=BOARD_SCENE_COUNT)
            board = Stop(artifact, session.describe(), accuracy, recognition, None)
    tour = Tour(model, folder, host, board)
    write_atomic(folder / "results.json", json.dumps(to_json(tour), indent=1, sort_keys=True) + "\n")
    return tour


def to_json(tour: Tour) -> dict[str, object]:
    """The results as plain data."""
    stops = {"host": tour.host, "board": tour.board}
    return {
        name: {
            "artifact": stop.artifact.path.name if stop.artifact.path else None,
            "artifact_sha256": stop.artifact.sha256,
            "device": stop.device.model_dump(mode="json"),
            "accuracy": stop.accuracy.model_dump(mode="json"),
            "recognition": stop.recognition.model_dump(mode="json"),
            "latency": stop.latency.to_json() if stop.latency else None,
        }
        if stop
        else None
        for name, stop in stops.items()
    }


def _compile(model: Model, target: str, folder: Path, stage: Callable[[str], None]) -> Artifact:
    from edgevit.compiler.compile import compile_model

    # The tour checks in the open what compile would check on the quiet.
    artifact = compile_model(model, target, verify=False, stage=lambda name: stage(f"{target}: {name}"))
    return artifact.save(folder / f"mobilevit-xxs-{target}.edgevit")


def _check(artifact: Artifact, session: Session, model: Model, share: Callable[[float], None]) -> AccuracyResult:
    from edgevit.accuracy.check import check
    from edgevit.errors import CheckFailed

    result = check(artifact, session, model, progress=share)
    if not result.passed:
        raise CheckFailed(f"{result.failures[0]}.", where=str(artifact.path), advice="Please report this.")
    return result


def _draw(folder: Path, share: Callable[[float], None]) -> None:
    """Scenes that the model has never seen, a folder for each class; those of an earlier tour are the same."""
    from edgevit.data import write

    if not folder.is_dir():
        write(folder, "cls", "test", SCENE_COUNT, progress=share)


def _recognise(
    artifact: Artifact,
    session: Session,
    model: Model,
    folder: Path,
    share: Callable[[float], None],
    *,
    limit: int | None = None,
) -> DatasetResult:
    from edgevit.accuracy.check_dataset import Request, check_dataset
    from edgevit.errors import CheckFailed

    request = Request(folder / SCENES, limit=limit)
    result = check_dataset(artifact, session, model, request, progress=lambda done, of: share(done / of))
    if failures := result.verdict.failures:
        raise CheckFailed(f"{failures[0]}.", where=str(artifact.path), advice="Please report this.")
    return result


def _measure(artifact: Artifact, session: Session, model: Model, share: Callable[[float], None]) -> BenchResult:
    from edgevit.bench.run import bench

    return bench(artifact, session, against="onnxruntime", reference=model.source, progress=share)
