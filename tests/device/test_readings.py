"""Clock readings around kernels, over every kind of session."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.artifact import Artifact
from edgevit.compiler.compile import compile_model
from edgevit.device.connect import connect
from edgevit.device.readings import Readings
from edgevit.device.session import Session
from edgevit.errors import UserError
from edgevit.model import Model
from edgevit.targets import get_target
from tests.device.reference import assert_same, expected, small_input


def _take(session: Session, artifact: Artifact, model: Model) -> Readings:
    """Readings whose run computed the right thing, and left the model's own function alone."""
    with session.load(artifact) as loaded:
        loaded.set_inputs(small_input(0))
        readings = loaded.profile(3)
        assert_same(readings.outputs, expected(model, small_input(0)))
        assert_same(loaded.invoke(), expected(model, small_input(0)))
        loaded.set_inputs(small_input(1))
        assert_same(loaded.profile(1).outputs, expected(model, small_input(1)))
    return readings


def _check(readings: Readings, artifact: Artifact) -> None:
    calls = len(artifact.resolution.program)
    (segment,) = readings.segments
    assert segment.dtype == np.int64
    assert segment.shape == (3, calls + 1)
    # One clock for all runs: it never goes back, and some time passes in between.
    in_order = np.diff(segment.ravel())
    assert (in_order >= 0).all()
    assert segment[0, 0] < segment[0, -1] < segment[1, 0] < segment[1, -1] < segment[2, 0] < segment[2, -1]
    assert readings.kernels.shape == (3, calls)
    assert (readings.between == 0).all()
    assert len(readings.seconds) == 3
    # A run takes as long as all of its kernels at least; the two clocks may tick differently.
    inside = (segment[:, -1] - segment[:, 0]) * 1e-9
    assert (inside <= np.array(readings.seconds) * 1.01 + 1e-6).all()


def test_here(host_session: Session, small_model: Model, small_artifact: Artifact) -> None:
    _check(_take(host_session, small_artifact, small_model), small_artifact)


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("target", ["arm64-linux", "armv7-linux"])
def test_on_other_processors(target: str, small_model: Model) -> None:
    artifact = compile_model(small_model, target, verify=False)
    with connect(emulate=get_target(target)) as session:
        _check(_take(session, artifact, small_model), artifact)


def test_an_artifact_without_the_function(small_artifact: Artifact) -> None:
    resolution = small_artifact.resolution.model_copy(update={"profile": None})
    old = Artifact(small_artifact.manifest.model_copy(update={"resolutions": (resolution,)}), small_artifact.files)
    with connect(in_process=True) as session, session.load(old) as loaded:
        loaded.set_inputs(small_input(0))
        with pytest.raises(UserError, match="no function that times"):
            loaded.profile(1)


def test_the_users_mistakes(small_artifact: Artifact) -> None:
    with connect(in_process=True) as session, session.load(small_artifact) as loaded:
        with pytest.raises(UserError, match="no inputs were set"):
            loaded.profile(1)
        loaded.set_inputs(small_input(0))
        with pytest.raises(UserError, match="0 samples"):
            loaded.profile(0)
