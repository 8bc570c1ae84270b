"""What there is to tune in models, and the spaces of it."""

from __future__ import annotations

import pickle
from pathlib import Path

import onnx
import pytest

from edgevit.compiler.compile import compile_model
from edgevit.compiler.kernels import claim, in_space, workload_key
from edgevit.compiler.prepare import prepare
from edgevit.compiler.program import KernelLibrary
from edgevit.model import Model, from_proto, load
from edgevit.targets import get_target
from edgevit.tuning.building.candidates import Order
from edgevit.tuning.layers import Layer
from edgevit.tuning.proposing import propose
from edgevit.tuning.records import TuningLog, choice_key
from edgevit.tuning.space import Space
from edgevit.tuning.tasks import Task, extract_tasks
from edgevit.zoo.mobilevit import build_mobilevit
from tests.tuning.making import measured

RPI4 = get_target("rpi4")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks") / "open.onnx"
    onnx.save(build_mobilevit("xxs", classes=7, image_size=64, dynamic=True), path)
    return path


@pytest.fixture(scope="module")
def large(source: Path) -> Model:
    return load(source, shapes=(1, 3, 96, 96))


@pytest.fixture(scope="module")
def small(source: Path) -> Model:
    return load(source, shapes=(1, 3, 64, 64))


@pytest.fixture(scope="module")
def tasks(large: Model) -> list[Task]:
    return extract_tasks({"large": large}, RPI4)


def test_every_call_of_the_compiled_model_belongs_to_a_task(large: Model, tasks: list[Task]) -> None:
    artifact = compile_model(large, RPI4, tuning_log=TuningLog(), verify=False)
    called = [kernel.workload for kernel in artifact.resolution.program]
    assert {task.key: task.calls["large"] for task in tasks} == {key: called.count(key) for key in called}
    assert len({task.key for task in tasks}) == len(tasks)


def test_models_share_tasks(tasks: list[Task], large: Model) -> None:
    other = from_proto(build_mobilevit("xxs", classes=5, image_size=96, seed=3))
    both = extract_tasks({"large": large, "other": other}, RPI4)
    shared = [task for task in both if set(task.calls) == {"large", "other"}]
    assert len(tasks) < len(both) < 2 * len(tasks)
    assert all(task.calls["large"] == task.calls["other"] for task in shared)
    assert all(task.leader is None for task in both)


def test_the_largest_image_decides_how_weights_are_packed(large: Model, small: Model) -> None:
    tasks = {task.key: task for task in extract_tasks({"small": small, "large": large}, RPI4)}
    followers = [task for task in tasks.values() if task.leader]
    assert followers
    for task in followers:
        leader = tasks[task.leader or ""]
        assert (list(task.calls), leader.family) == (["small"], leader.family)
        assert "large" in leader.calls
        pinned = task.pin(leader.default)
        assert pinned.layout_of(pinned.default) == leader.layout_of(leader.default)
        assert {pinned.layout_of(choice) for choice in pinned.space} == {leader.layout_of(leader.default)}


def test_spaces_hold_valid_choices_alone(tasks: list[Task]) -> None:
    for task in {task.family.NAME: task for task in tasks}.values():
        points = list(task.space)
        assert len({choice_key(choice) for choice in points}) == len(points) == task.space.size
        assert points[0] == task.default
        assert points == list(task.space)
        for choice in points[:: max(1, len(points) // 20)]:
            assert in_space(choice, task.family, task.workload, RPI4)
            assert choice in task.space
            assert all(near in task.space for near in task.space.neighbours(choice))
        assert {**task.default, "unknown": 1} not in task.space


def test_neighbours_differ_by_one_step() -> None:
    space = Space({"a": (1, 2, 4), "b": (0, 1)}, {"a": 2, "b": 0})
    assert space.size == 6
    assert space.neighbours({"a": 2, "b": 0}) == [{"a": 1, "b": 0}, {"a": 4, "b": 0}, {"a": 2, "b": 1}]
    off = Space({"a": (1, 2, 4), "b": (0, 1)}, {"a": 16, "b": 0})
    assert off.size == 7
    assert off.default in off
    assert off.neighbours(off.default) == [{"a": 4, "b": 0}, {"a": 2, "b": 0}, {"a": 4, "b": 1}]
    assert Space({}, {}).neighbours({}) == []


def test_proposals_never_repeat_and_reach_everything() -> None:
    axes = {"a": tuple(range(12)), "b": tuple(range(12))}
    space, tried, results = Space(axes, {"a": 0, "b": 0}), set(), {}
    while choices := propose(space, results, tried, 10, seed=str(len(tried))):
        keys = {choice_key(choice) for choice in choices}
        assert len(keys) == len(choices)
        assert keys.isdisjoint(tried)
        tried |= keys
        results |= {choice_key(choice): float(choice["a"] + choice["b"]) for choice in choices}
    assert len(tried) == space.size == 144
    assert propose(space, {}, set(), 10, seed="x") == propose(space, {}, set(), 10, seed="x")
    assert propose(space, {}, set(), 3, seeds=[{"a": 7, "b": 7}, {"a": 99, "b": 0}])[1] == {"a": 7, "b": 7}


def test_orders_can_be_sent_elsewhere(tasks: list[Task]) -> None:
    for task in tasks:
        order = Order(task.module, task.workload, task.target, (task.default,))
        assert pickle.loads(pickle.dumps(order)) == order


def test_fewer_threads_than_cores_have_no_say_in_how_work_is_cut() -> None:
    target = get_target("x86-64-v4")
    model = from_proto(build_mobilevit("xxs", image_size=128))
    cut = 0
    for task, free in zip(
        extract_tasks({"m": model}, target, threads=1), extract_tasks({"m": model}, target), strict=True
    ):
        count = getattr(task.family, "tasks", None)
        assert set(map(choice_key, task.space)) <= set(map(choice_key, free.space))
        if count is None or task.space.size < 2:
            continue
        least = min(2 * target.cores, count(task.workload, target, task.default))
        found = [count(task.workload, target, choice) for choice in task.space]
        assert min(found) >= least
        cut += len(found) < free.space.size
    assert cut > 10


def test_a_choice_that_starves_cores_is_not_taken_from_one_thread() -> None:
    target = get_target("x86-64-v4")
    graph = prepare(from_proto(build_mobilevit("xxs", image_size=64)), target)
    claimed = ((node, claim(node)) for node in graph.nodes)
    node, (family, workload) = next((n, found) for n, found in claimed if found and found[0].NAME == "conv")
    default = family.analytic_default(workload, target)
    space = Space.of(family.space(workload, target), default, {})
    serial = min(space, key=lambda choice: family.tasks(workload, target, choice))  # type: ignore[attr-defined]
    for threads, taken in ((1, default), (target.cores, serial)):
        record = measured(serial, workload=workload_key(family, workload), target=target, threads=threads)
        library = KernelLibrary(target, TuningLog([(Layer.GIVEN, record)], target))
        assert library.choose(node, family, workload)[0] == taken
