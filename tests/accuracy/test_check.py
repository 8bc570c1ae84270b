"""check: right artifacts pass, wrong ones fail by name, and bisect finds where it begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

import edgevit
from edgevit.accuracy.bisect import bisect, prefix
from edgevit.accuracy.check import check
from edgevit.artifact import Artifact
from edgevit.compiler import rewrite
from edgevit.compiler.compile import compile_model
from edgevit.device.session import Session
from edgevit.errors import ArtifactError
from edgevit.model import Model, from_proto, load
from tests.faults import stretch_sigmoid
from tests.models import small_proto


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with edgevit.connect() as opened:
        yield opened


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrite, "REWRITES", (*rewrite.REWRITES, rewrite.Rewrite("fault", stretch_sigmoid)))


def test_a_right_artifact_passes_on_every_input_and_call(
    small_artifact: Artifact, small_model: Model, session: Session
) -> None:
    result = check(small_artifact, session, small_model, seeds=range(5), calls=3)
    assert result.passed
    assert result.failures == ()
    assert [tensor.name for tensor in result.tensors] == ["logits", "features"]
    assert all(tensor.comparisons == 15 for tensor in result.tensors)
    assert result.reference.startswith("onnxruntime ")
    assert not result.emulated


def test_a_wrong_artifact_fails_and_names_the_worst_tensor(small_model: Model, session: Session, fault: None) -> None:
    artifact = compile_model(small_model, "host", verify=False)
    result = check(artifact, session, small_model)
    assert not result.passed
    assert result.worst in ("logits", "features")
    assert result.failures


def test_bisect_finds_the_planted_operator(small_model: Model, session: Session, fault: None) -> None:
    artifact = compile_model(small_model, "host", verify=False)
    found = bisect(artifact, session, small_model)
    assert found.found
    assert found.op_type == "Sigmoid"
    assert found.node == "sigmoid"
    assert found.compilations <= 4
    assert "Sigmoid 'sigmoid'" in found.sentence()


def test_bisect_finds_a_fault_deep_in_the_embedded_model(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the softmax is spoiled: nothing before the first attention may be blamed."""
    from edgevit.zoo import embedded_model
    from tests.faults import stretch_softmax

    monkeypatch.setattr(rewrite, "REWRITES", (*rewrite.REWRITES, rewrite.Rewrite("fault", stretch_softmax)))
    model = from_proto(embedded_model())
    artifact = compile_model(model, "host", verify=False)
    found = bisect(artifact, session, model)
    first = next(node for node in model.proto.graph.node if node.op_type == "Softmax")
    assert (found.op_type, found.node) == ("Softmax", first.name or first.output[0])


def test_bisect_of_a_right_compiler_blames_the_artifact(
    small_artifact: Artifact, small_model: Model, session: Session
) -> None:
    found = bisect(small_artifact, session, small_model)
    assert not found.found
    assert not found.simplification
    assert "compile again" in found.sentence()


def test_every_prefix_is_a_valid_model(small_model: Model) -> None:
    for count in range(1, len(small_model.proto.graph.node) + 1):
        onnx.checker.check_model(prefix(small_model.proto, count), full_check=True)


def test_another_model_is_no_reference(small_artifact: Artifact, session: Session) -> None:
    other = from_proto(small_proto(seed=1))
    with pytest.raises(ArtifactError, match="compiled from another model"):
        check(small_artifact, session, other)


def test_state_left_by_a_call_is_noticed(
    small_artifact: Artifact, small_model: Model, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that is right the first time and wrong the second must not pass."""
    from edgevit.device.rpc import RpcModel

    calls = 0
    right = RpcModel.invoke

    def forgetful(self: RpcModel, **options: float) -> object:
        nonlocal calls
        calls += 1
        outputs = right(self, **options)
        return outputs if calls % 2 else {name: value + 1 for name, value in outputs.items()}

    monkeypatch.setattr(RpcModel, "invoke", forgetful)
    assert not check(small_artifact, session, small_model, seeds=(0,), calls=2).passed


def test_the_users_own_file_is_the_reference(tmp_path: Path, session: Session) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(small_proto().SerializeToString())
    model = load(path)
    assert check(compile_model(model, "host", verify=False), session, model).passed
