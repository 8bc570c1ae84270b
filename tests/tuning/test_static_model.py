"""The static model of a target: what costs more, what is counted, and that it is the same every time."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

from edgevit.compiler.graph import Tensor
from edgevit.compiler.kernels import KernelFamily, conv, depthwise, winograd, workload_key
from edgevit.compiler.kernels.window import Axis, Windows
from edgevit.target_schema import Target
from edgevit.targets import get_target
from edgevit.tuning.record import TargetFacts
from edgevit.tuning.static.cores import core_of
from edgevit.tuning.static.loops import CompiledLoop
from edgevit.tuning.static.model import StaticModel, nest_cycles, stretch_cycles, traffic_bytes
from edgevit.tuning.static.nest import Loop, Stretch, Work
from edgevit.tuning.static.reader import read_nest
from edgevit.tuning.static.traffic import Traffic
from edgevit.tuning.tasks import Task

TARGETS = ["x86-64-v4", "x86-64-v3", "rpi3", "rpi4", "armv7-linux"]
TILE = {"rows": 6, "vectors": 2, "block": 4, "panels": 1, "unroll": 1}


def product(rows: int, depth: int, columns: int) -> conv.Workload:
    return conv.Workload(1, 1, rows, (depth,), columns, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, None)


def task_of(family: Any, workload: Any, target: Target) -> Task:
    x = Tensor("x", (1, 1))
    return Task(workload_key(family, workload), family, workload, target, {"model": 1}, (x,), (x,))


def nest_of(family: KernelFamily, workload: Any, target: Target, choice: dict[str, int]) -> Loop:
    import tvm

    with tvm.target.Target(target.tvm_target()):
        return read_nest(family.emit(workload, target, choice, "kernel"), target)


def flops(nest: Loop) -> float:
    return sum(stretch.work.flops * prod(loop.times for loop in path) for stretch, path in nest.stretches())


def hottest(nest: Loop) -> Stretch:
    inner = [stretch for stretch, path in nest.stretches() if path[-1].counter is not None and path[-1].innermost]
    return max(inner, key=lambda stretch: stretch.work.flops)


@pytest.mark.parametrize("name", TARGETS)
def test_the_nest_holds_the_work_of_the_workload(name: str) -> None:
    target = get_target(name)
    # Rows and columns that no tile divides, and so tiles and panels at the edges; blocks of unequal size.
    work = product(101, 24, 72)
    for choice in (TILE, TILE | {"rows": 5, "block": 3}, TILE | {"vectors": 1, "panels": 2, "unroll": 2}):
        # Columns beyond the last are multiplied too, where vectors are longer than what is left.
        lanes = target.vector.lanes(32)
        padded = 72 // lanes * lanes + (1 << (72 % lanes - 1).bit_length() if 72 % lanes else 0)
        assert flops(nest_of(conv, work, target, choice)) == pytest.approx(2 * 101 * 24 * padded, rel=0.01)


def test_a_padded_convolution_is_counted_whole() -> None:
    target = get_target("rpi4")
    work = conv.Workload(1, 17, 19, (8, 8), 24, (3, 3), (2, 2), (1, 1, 1, 1), (1, 1), 1, None)
    for block in (1, 2, 4):
        nest = nest_of(conv, work, target, TILE | {"block": block})
        assert flops(nest) == work.flops


@pytest.mark.parametrize(("name", "registers"), [("x86-64-v4", 6 * 4 + 4 + 1), ("armv7-linux", 6 * 4 + 4 + 1)])
def test_registers_of_a_tile_are_accumulators_weights_and_a_scalar(name: str, registers: int) -> None:
    target = get_target(name)
    stretch = hottest(nest_of(conv, product(96, 64, 256), target, TILE | {"vectors": 4}))
    assert stretch.pressure == registers
    assert stretch.chain == 1
    assert stretch.work.multiply_adds == 24
    assert stretch.work.loads == 10


def test_a_tile_that_spills_ranks_behind_one_that_does_not() -> None:
    target = get_target("x86-64-v4")
    model, task = StaticModel(target, 1), task_of(conv, product(1024, 128, 512), target)
    fitting, spilling = TILE | {"vectors": 4}, TILE | {"rows": 13, "vectors": 4}
    for estimate in (model.rough, model.fine):
        assert estimate(task, fitting).seconds < 0.8 * estimate(task, spilling).seconds


def test_spills_in_the_assembly_cost_cycles() -> None:
    target = get_target("rpi4")
    stretch, core = Stretch(Work(multiply_adds=24, loads=10, flops=192)), core_of(target)
    clean = {192: CompiledLoop(instructions=38, vectors=24, loads=10, stores=0, spills=0)}
    spilled = {192: CompiledLoop(instructions=44, vectors=24, loads=13, stores=3, spills=6)}
    other = {96: CompiledLoop(instructions=999, vectors=999, loads=0, stores=0, spills=0)}

    def cycles(loops: dict[int, CompiledLoop]) -> float:
        return stretch_cycles(stretch, core, target, innermost=True, loops=loops)

    assert cycles(clean) < cycles(spilled)
    assert cycles(other) == cycles({})  # another loop's code says nothing of this one


def test_a_chain_of_multiply_adds_costs_its_latency() -> None:
    target = get_target("x86-64-v4")
    core = core_of(target)
    short = Stretch(Work(multiply_adds=1), chain=1)
    assert stretch_cycles(short, core, target, innermost=True) == core.latency
    assert stretch_cycles(short, core, target, innermost=False) < core.latency


def test_entering_a_loop_costs_cycles_each_time() -> None:
    target = get_target("rpi4")
    work = product(1024, 8, 64)
    core = core_of(target)
    one, six = (nest_of(conv, work, target, TILE | {"rows": rows, "vectors": 4}) for rows in (1, 6))
    # The same work in six times as many loops.
    assert nest_cycles(one, core, target) > nest_cycles(six, core, target)


def test_a_working_set_that_leaves_the_cache_moves_more_bytes() -> None:
    target = get_target("rpi4")
    nest = nest_of(conv, product(512, 256, 512), target, TILE)
    traffic = Traffic(nest)
    whole = 4 * (512 * 256 + 256 * 512 + 512 * 512)
    assert traffic.working_set == pytest.approx(whole, rel=0.05)
    assert traffic.beyond(2 * whole) == 0
    sizes = [traffic.beyond(capacity) for capacity in (1 << 20, 1 << 18, 1 << 15)]
    assert 0 < sizes[0] <= sizes[1] <= sizes[2]
    assert sizes[0] >= 4 * 512 * 512  # the result at least


def test_weights_are_fetched_again_for_each_block_that_does_not_fit() -> None:
    target = get_target("rpi4")
    work = product(960, 512, 512)  # a megabyte of weights
    few, many = (Traffic(nest_of(conv, work, target, TILE | {"block": block})) for block in (16, 1))
    weights, capacity = 4 * 512 * 512, 256 << 10
    assert 10 * weights < few.beyond(capacity) < 20 * weights  # ten blocks of inputs that fit
    assert 160 * weights < many.beyond(capacity) < 200 * weights


def test_smaller_caches_never_make_a_kernel_faster() -> None:
    target = get_target("rpi4")
    small = target.model_copy(update={"caches": target.caches.model_copy(update={"l2": 64 << 10})})
    choice = TILE | {"block": 16}
    work = product(1024, 256, 256)
    seconds = [StaticModel(each, 1).rough(task_of(conv, work, each), choice).seconds for each in (target, small)]
    assert seconds[0] < seconds[1]
    bytes_moved = [traffic_bytes(nest_of(conv, work, target, choice), each)[2] for each in (target, small)]
    assert bytes_moved[0] < bytes_moved[1]


def test_threads_share_the_work_and_wait_for_the_one_with_most() -> None:
    target = get_target("rpi4")
    task = task_of(conv, product(960, 64, 64), target)
    choice = TILE | {"block": 20}  # eight tasks of twenty tiles
    one, four, five = (StaticModel(target, threads).rough(task, choice).compute_cycles for threads in (1, 4, 5))
    assert four == pytest.approx(one / 4, rel=0.01)
    assert five == pytest.approx(four)


@pytest.mark.parametrize("name", ["rpi3", "armv7-linux", "apple-silicon"])
def test_estimates_need_no_device_and_repeat(name: str) -> None:
    target = get_target(name)
    task = task_of(conv, product(96, 64, 96), target)
    first, again = (StaticModel(target).fine(task, task.default) for _ in range(2))
    assert first == again
    assert first.fine
    assert 1e-6 < first.seconds < 1e-2
    assert 0 < StaticModel(target).rough(task, task.default).seconds / first.seconds < 3


@pytest.mark.parametrize("name", ["rpi3", "armv7-linux", "apple-silicon", "x86-64-v3"])
def test_nests_of_other_families_are_read(name: str) -> None:
    target = get_target(name)
    rows = columns = Axis(32, 32, 3, 1, 1, 1, 1)
    filters = depthwise.Workload(Windows(1, 32, rows, columns, "float32"))
    image = conv.Workload(1, 16, 16, (32,), 32, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1, None)
    works: list[tuple[Any, Any]] = [(depthwise, filters), (winograd, image)]
    for family, work in works:
        task = task_of(family, work, target)
        first, again = (StaticModel(target).rough(task, task.default) for _ in range(2))
        assert first == again
        assert 1e-7 < first.seconds < 1e-1
        assert not first.fine


def test_what_a_target_is_decides_not_its_name() -> None:
    target = get_target("rpi4")
    renamed = target.model_copy(update={"name": "mine"})
    assert TargetFacts.of(renamed).identity == TargetFacts.of(target).identity
    assert core_of(renamed) == core_of(target)
    unknown = target.model_copy(update={"cpu": "generic"})
    assert core_of(unknown) == core_of(target)
