"""Every kind of session computes the right thing, again and again."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.artifact import Artifact
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.model import Model
from tests.device.reference import assert_same, expected, small_input, typed_input


def test_results_on_fresh_inputs_and_repeated_calls(
    host_session: Session,
    small_model: Model,
    small_artifact: Artifact,
    typed_model: Model,
    typed_artifact: Artifact,
) -> None:
    # Several models in one session, one of them twice.
    for model, artifact, draw in (
        (small_model, small_artifact, small_input),
        (typed_model, typed_artifact, typed_input),
        (small_model, small_artifact, small_input),
    ):
        with host_session.load(artifact) as loaded:
            first = loaded.run(draw(0))
            for seed in (1, 2):
                assert_same(loaded.run(draw(seed)), expected(model, draw(seed)))
                assert_same(loaded.invoke(), expected(model, draw(seed)))
            # Results are the caller's: later calls do not write into them.
            assert_same(first, expected(model, draw(0)))


def test_arrays_of_any_layout_are_taken(host_session: Session, small_model: Model, small_artifact: Artifact) -> None:
    image = small_input(3)["image"]
    turned = np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    image.flags.writeable = False
    with host_session.load(small_artifact) as loaded:
        assert_same(loaded.run({"image": turned}), expected(small_model, {"image": image}))
        assert_same(loaded.run({"image": image}), expected(small_model, {"image": image}))


def test_measuring(host_session: Session, small_artifact: Artifact) -> None:
    with host_session.load(small_artifact) as loaded:
        loaded.set_inputs(small_input(0))
        seconds = loaded.time(7)
        assert len(seconds) == 7
        assert all(0 < one < 10 for one in seconds)


def test_threads_and_usage(host_session: Session, small_artifact: Artifact) -> None:
    with host_session.load(small_artifact) as loaded:
        loaded.run(small_input(0))
        most = loaded.usage().threads
        assert most is not None
        assert loaded.set_threads(1) == 1
        assert loaded.usage().threads == 1
        assert loaded.set_threads(most) == most
        usage = loaded.usage()
        assert usage.threads == most
        if host_session.describe().runtime == "TVM RPC server":
            assert usage.cpu_seconds is None  # a stock server cannot say
        else:
            assert usage.cpu_seconds is not None
            assert usage.cpu_seconds > 0
            assert usage.peak_rss_bytes is not None
            assert usage.peak_rss_bytes > 1 << 20
            assert usage.load_average is not None


def test_description(host_session: Session) -> None:
    info = host_session.describe()
    assert info.kind == host_session.kind
    assert not info.emulated
    if info.runtime == "TVM RPC server":
        assert info.architecture is None
    else:
        import platform

        assert info.architecture == platform.machine()
        assert info.cores
        assert info.memory_bytes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": None}, "not the model's"),
        ({"extra": np.zeros(1, np.float32)}, "not the model's"),
        ({"image": np.zeros((1, 3, 32, 31), np.float32)}, "takes float32"),
        ({"image": np.zeros((3, 32, 32), np.float32)}, "takes float32"),
        ({"image": np.zeros((1, 3, 32, 32), np.float64)}, "takes float32"),
        ({"image": np.zeros((1, 3, 32, 32), ">f4")}, "takes float32"),
        ({"image": [[1.0]]}, "got list"),
    ],
)
def test_wrong_inputs(remote_session: Session, small_artifact: Artifact, change: dict, says: str) -> None:
    inputs = {name: array for name, array in {**small_input(0), **change}.items() if array is not None}
    with remote_session.load(small_artifact) as loaded:
        with pytest.raises(UserError, match=says):
            loaded.run(inputs)
        loaded.run(small_input(0))  # and the session goes on


def test_misuse(host_session: Session, small_artifact: Artifact) -> None:
    loaded = host_session.load(small_artifact)
    with pytest.raises(UserError, match="no inputs"):
        loaded.invoke()
    loaded.set_inputs(small_input(0))
    with pytest.raises(UserError):
        loaded.time(0)
    with pytest.raises(UserError):
        loaded.set_threads(0)
    loaded.close()
    loaded.close()
    for use in (lambda: loaded.run(small_input(0)), loaded.invoke, lambda: loaded.time(1)):
        with pytest.raises(UserError, match="not loaded"):
            use()
    again = host_session.load(small_artifact)
    host_session.close()
    host_session.close()
    with pytest.raises(UserError, match="not loaded"):
        again.run(small_input(0))
