"""Candidates on real sessions: right or not, and how devices that fail are survived."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from edgevit.device.connect import connect
from edgevit.device.session import Session
from edgevit.errors import DeviceUnreachable, UserError
from edgevit.model import from_proto
from edgevit.target_schema import Target
from edgevit.targets import get_target
from edgevit.tuning.building.build import Builder
from edgevit.tuning.measure import Correct, Fault, Latency, Measurer, Outcome, Protocol
from edgevit.tuning.records import Choice
from edgevit.tuning.tasks import Task, extract_tasks
from edgevit.tuning.tuning_device import TuningDevice
from edgevit.zoo.mobilevit import build_mobilevit
from tests.compiler.test_attention_kernel import reference as attention_reference
from tests.models import small_proto
from tests.tuning import faulty_family as faulty

HOST, ARM64 = get_target("host"), get_target("arm64-linux")
QUICK = Protocol(rounds=3, most_rounds=200, seconds=1e-4, slow_share=1e6, call_seconds=2.0)
"""Every round is calm: tests run beside others."""


def ways(*numbers: int) -> list[Choice]:
    return [{"way": number} for number in numbers]


@pytest.fixture(scope="module")
def builder() -> Iterator[Builder]:
    with Builder() as builder:
        yield builder


@pytest.fixture
def measurer() -> Iterator[Measurer]:
    with Measurer(connect, threads=1, protocol=QUICK) as measurer:
        yield measurer


@dataclass
class Measure:
    """Builds and measures, as a run does."""

    builder: Builder

    def __call__(
        self, measurer: Measurer, task: Task, choices: Sequence[Choice], anchor: float | None = None
    ) -> list[Outcome]:
        libraries, failures = self.builder.build(task, choices)
        found: list[Outcome] = [Fault(failed.choice, failed.failure, failed.detail) for failed in failures]
        for library in libraries:
            found += measurer.measure(task, library, anchor)
        return found


@pytest.fixture
def outcomes(builder: Builder) -> Measure:
    return Measure(builder)


def faults(found: Sequence[Outcome]) -> dict[int, str]:
    return {outcome.choice["way"]: outcome.failure for outcome in found if isinstance(outcome, Fault)}


def latencies(found: Sequence[Outcome]) -> dict[int, Latency]:
    return {outcome.choice["way"]: outcome for outcome in found if isinstance(outcome, Latency)}


def test_right_ones_have_latencies_and_others_say_why_not(outcomes: Measure, measurer: Measurer) -> None:
    found = outcomes(measurer, faulty.task(HOST), ways(*range(5), faulty.WRONG, faulty.HALF, faulty.CRASHES))
    assert faults(found) == {
        faulty.REFUSED: "build",
        faulty.KILLS_COMPILER: "build",
        faulty.WRONG: "wrong",
        faulty.HALF: "wrong",
        faulty.CRASHES: "crash",
    }
    times = latencies(found)
    assert set(times) == {faulty.RIGHT, faulty.SAME_CODE, faulty.OTHER_CODE}
    # What has the default's code has its latency.
    assert times[faulty.SAME_CODE].samples == times[faulty.RIGHT].samples
    assert all(1 <= len(latency.samples) <= QUICK.rounds for latency in times.values())
    assert all(min(latency.samples) > 0 for latency in times.values())


def test_what_runs_forever_is_a_timeout(outcomes: Measure, measurer: Measurer) -> None:
    found = outcomes(measurer, faulty.task(HOST), ways(faulty.RUNS_FOREVER, faulty.OTHER_CODE))
    assert faults(found) == {faulty.RUNS_FOREVER: "timeout"}
    assert set(latencies(found)) == {faulty.RIGHT, faulty.OTHER_CODE}


def test_latencies_are_ratios_to_a_known_reference(outcomes: Measure, measurer: Measurer) -> None:
    found = latencies(outcomes(measurer, faulty.task(HOST), ways(faulty.OTHER_CODE, faulty.SAME_CODE), anchor=1000.0))
    assert set(found) == {faulty.OTHER_CODE, faulty.SAME_CODE}
    assert np.median(found[faulty.SAME_CODE].samples) == pytest.approx(1000.0)
    assert 10.0 < np.median(found[faulty.OTHER_CODE].samples) < 100_000.0


def test_restless_rounds_give_no_latency(outcomes: Measure) -> None:
    never = Protocol(rounds=3, most_rounds=4, seconds=1e-5, slow_share=-0.9)
    with Measurer(connect, threads=1, protocol=never) as measurer:
        (found,) = outcomes(measurer, faulty.task(HOST), ways(faulty.OTHER_CODE))
    assert found == Correct({"way": faulty.OTHER_CODE}, restless=4)


def test_an_accident_of_the_device_blames_nobody(outcomes: Measure) -> None:
    sessions: list[Session] = []

    def unlucky() -> Session:
        sessions.append(connect())
        if len(sessions) == 1:
            sessions[0].close()
        return sessions[-1]

    with Measurer(unlucky, threads=1, protocol=QUICK) as measurer:
        found = outcomes(measurer, faulty.task(HOST), ways(faulty.OTHER_CODE))
    assert len(sessions) == 2
    assert set(latencies(found)) == {faulty.RIGHT, faulty.OTHER_CODE}


def test_a_device_that_stays_away_ends_it(outcomes: Measure) -> None:
    sessions: list[Session] = []

    def gone() -> Session:
        if sessions:
            raise DeviceUnreachable("nobody answers.", where="there")
        sessions.append(connect())
        return sessions[0]

    with Measurer(gone, threads=1, protocol=QUICK) as measurer, pytest.raises(DeviceUnreachable):
        outcomes(measurer, faulty.task(HOST), ways(faulty.CRASHES, faulty.OTHER_CODE))


def test_never_in_the_tuners_own_process(outcomes: Measure) -> None:
    with Measurer(lambda: connect(in_process=True), threads=1) as measurer, pytest.raises(UserError, match="own proc"):
        outcomes(measurer, faulty.task(HOST), ways(faulty.OTHER_CODE))


def conv_task(target: Target) -> Task:
    tasks = extract_tasks({"model": from_proto(small_proto())}, target)
    return next(task for task in tasks if task.family.NAME == "conv" and len(task.outputs[0].shape) == 4)


def conv_reference(values: Sequence[np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(small_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"image": values[0].transpose(0, 3, 1, 2)})
    return np.asarray(features).transpose(0, 2, 3, 1)


def matmul_proto() -> Any:
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("a", (3, 30, 20)), ("b", (3, 20, 41)))
    ]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, (3, 30, 41))
    graph = helper.make_graph([helper.make_node("MatMul", ["a", "b"], ["y"])], "matmul", tensors, [out])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def matmul_task(target: Target) -> Task:
    (task,) = extract_tasks({"model": from_proto(matmul_proto())}, target)
    assert task.family.NAME == "matmul"
    return task


def matmul_reference(values: Sequence[np.ndarray]) -> np.ndarray:
    session = ort.InferenceSession(matmul_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, dict(zip("ab", values, strict=True)))[0])


def attention_task(target: Target) -> Task:
    tasks = extract_tasks({"model": from_proto(build_mobilevit("xxs", image_size=64))}, target)
    return next(task for task in tasks if task.family.NAME == "attention")


def attention_check(task: Task, values: Sequence[np.ndarray]) -> np.ndarray:
    sizes = task.workload.sizes
    assert values[0] is values[1] is values[2]
    return attention_reference(task.workload, [v.reshape(size) for v, size in zip(values, sizes, strict=True)])


CASES: dict[str, tuple[Callable[[Target], Task], Callable[[Task, Any], np.ndarray]]] = {
    "conv": (conv_task, lambda task, values: conv_reference(values)),
    "matmul": (matmul_task, lambda task, values: matmul_reference(values)),
    "attention": (attention_task, attention_check),
}


def some(task: Task, count: int) -> list[Choice]:
    """Points from all over the space, small ones first."""
    return [task.space.combination(number * task.space.combinations // count) for number in range(count)]


def check_values(case: str, target: Target, open_session: Callable[[], Session], count: int) -> None:
    """Outputs of a kernel's candidates against ONNX Runtime or numpy."""
    make, compare = CASES[case]
    task = make(target)
    expected = compare(task, task.draw()).reshape(-1)
    with Builder() as builder:
        (library,), failures = builder.build(task, some(task, count))
    assert failures == []
    device = TuningDevice(open_session, threads=1, call_seconds=60.0)
    try:
        bench = device.bench(task)
        bench.load(library)
        assert device.bench(task) is bench
        for choice, name in [(task.default, library.reference), *library.functions]:
            (found,) = bench.run(library, choice, name)
            np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
    finally:
        device.close()


@pytest.mark.parametrize("case", CASES)
def test_kernels_compute_what_their_node_does(case: str) -> None:
    check_values(case, HOST, connect, 4)


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
@pytest.mark.parametrize("case", CASES)
def test_the_same_on_a_static_server(case: str) -> None:
    check_values(case, ARM64, lambda: connect(emulate=ARM64), 2)


def test_real_candidates_are_measured(outcomes: Measure, measurer: Measurer) -> None:
    task = attention_task(HOST)
    choices = some(task, 3)
    found = [outcome for outcome in outcomes(measurer, task, choices) if not getattr(outcome, "again", False)]
    assert {type(outcome) for outcome in found} == {Latency}
    assert [outcome.choice for outcome in found if outcome.choice != task.default] == [
        choice for choice in choices if choice != task.default
    ]


@pytest.mark.emulated
@pytest.mark.usefixtures("qemu")
def test_an_emulator_says_what_is_right_and_no_latency(outcomes: Measure) -> None:
    with Measurer(lambda: connect(emulate=ARM64), threads=1, protocol=QUICK) as measurer:
        found = outcomes(measurer, faulty.task(ARM64), ways(faulty.OTHER_CODE, faulty.WRONG, faulty.CRASHES))
    assert faults(found) == {faulty.WRONG: "wrong", faulty.CRASHES: "crash"}
    assert Correct({"way": faulty.OTHER_CODE}) in found
    assert len(found) == 3
