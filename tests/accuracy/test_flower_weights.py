"""The classifier of flower photographs whose weights lie beside its recipe, before and after compiling."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgevit.accuracy.check_dataset import Request, check_dataset
from edgevit.accuracy.classification import ClassificationScores
from edgevit.compiler.compile import compile_model
from edgevit.device.session import Session
from edgevit.model import load
from edgevit.zoo.catalogue import make

WEIGHTS = Path(__file__).resolve().parents[2] / "recipes" / "trained" / "flowers.safetensors"


def test_photographs_it_was_not_trained_on(flowers: Path, in_process: Session, tmp_path: Path) -> None:
    facts = json.loads(WEIGHTS.with_suffix(".json").read_text(encoding="utf-8"))
    built = make(facts["model"], image_size=facts["image_size"], weights=WEIGHTS, labels=facts["labels"])
    path = tmp_path / "flowers.onnx"
    path.write_bytes(built.proto.SerializeToString())
    model = load(path)
    artifact = compile_model(model, "host", verify=False)
    result = check_dataset(artifact, in_process, model, Request(flowers))
    assert isinstance(result.scores, ClassificationScores)
    assert result.run.images == 250
    assert result.run.unreadable == ()
    assert result.scores.reference.top1.value > 0.8
    assert result.verdict.passed
    assert result.scores.agreement.value > 0.99
    # Another version of Pillow or ONNX Runtime may move an image or two.
    assert facts["figures"]["top1"] == pytest.approx(100 * result.scores.reference.top1.value, abs=1)
    assert WEIGHTS.stat().st_size < 6_000_000
