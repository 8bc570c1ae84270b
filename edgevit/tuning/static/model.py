"""ESTIMATE of what a call of a kernel costs on a target: cycles of its loops times their iterations, and bytes moved.

Two steps, because compiling takes a hundred times as long as reading a loop nest:

- :meth:`StaticModel.rough` reads the nest: instructions of every stretch of code against the core's pipes, the latency
  of chains of multiply-adds, registers that are too few, entries of loops, and the bytes that the caches fetch.
- :meth:`StaticModel.fine` compiles the kernel besides, and counts the instructions of its loops with multiply-adds as
  LLVM wrote them, spills included.

The constants below were chosen on an AMD Zen 5 core with 512-bit vectors, on half of the kernels of MobileViT-S; see
``docs/measurements.md`` for how the other half agrees. On other cores they are a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from edgevit.target_schema import Target
from edgevit.tuning.records import Choice, ChoiceKey, choice_key
from edgevit.tuning.static.cores import Core, core_of
from edgevit.tuning.static.loops import CompiledLoop, compiled_loops
from edgevit.tuning.static.nest import Loop, Stretch
from edgevit.tuning.static.reader import read_nest
from edgevit.tuning.static.traffic import Traffic
from edgevit.tuning.tasks import Task

_ENTRY_CYCLES = 10.0
"""From the end of what comes before an innermost loop until its pipes are full, and out of it again."""
_SPILL_CYCLES = 0.5
"""Of each access to the stack in a compiled loop, besides the load's or store's own: values wait for each other."""
_SPILLED, _SPILLED_MORE, _SPILLED_UNROLLED = 1.3, 0.1, 2.5
"""How much longer a loop takes that needs too many registers and whose code is not known: by one, by each further one,
and with several steps in a loop, where LLVM loads far ahead."""
_CALL_CYCLES = 20.0
"""Of a function of the mathematical library, for one element."""
_OTHER_PIPES = 0.1
"""Part of the work of the pipes that are not the busiest one which that one does not hide."""
_UNHIDDEN = 0.1
"""Part of the shorter of computing and waiting for caches that the longer one does not hide."""
_USEFUL_L1 = 0.5
"""Part of the first cache that holds what a loop comes back to; streams pass through the rest."""
_LAUNCH_SECONDS = 3e-6
"""Of a parallel loop."""


@dataclass(frozen=True)
class ChoiceEstimate:
    """ESTIMATE of one choice, not a measurement.

    Attributes:
        choice: point of the task's space.
        seconds: of one call, at the core's nominal clock.
        compute_cycles: of instructions, on the core that has most to do.
        cache_cycles: of waiting for caches and memory.
        traffic: bytes that a call fetches from the second cache, the third, and memory.
        fine: whether the loops are those of the compiled kernel.
    """

    choice: Choice
    seconds: float
    compute_cycles: float
    cache_cycles: float
    traffic: tuple[float, float, float]
    fine: bool


class StaticModel:
    """The static model of one target. It is deterministic, and remembers what it was asked.

    Args:
        target: whose kernels are estimated; nothing of it is run.
        threads: that share the work; None for the target's cores.
    """

    def __init__(self, target: Target, threads: int | None = None) -> None:
        self.target = target
        self.core = core_of(target)
        self.threads = threads or target.cores
        self._known: dict[tuple[str, ChoiceKey, bool], ChoiceEstimate] = {}

    def rough(self, task: Task, choice: Choice) -> ChoiceEstimate:
        """Estimate from the loop nest alone; milliseconds.

        Raises:
            Exception: whatever the family says of a choice that it does not take.
        """
        return self._estimate(task, choice, fine=False)

    def fine(self, task: Task, choice: Choice) -> ChoiceEstimate:
        """Estimate from the loop nest and the compiled loops; most of a second.

        Raises:
            Exception: whatever the family or TVM says of a choice that does not compile.
        """
        return self._estimate(task, choice, fine=True)

    def _estimate(self, task: Task, choice: Choice, *, fine: bool) -> ChoiceEstimate:
        key = (task.key, choice_key(choice), fine)
        if key not in self._known:
            loops = compiled_loops(task.family, task.workload, self.target, choice) if fine else {}
            self._known[key] = self._of(self._nest(task, choice), choice, loops, fine)
        return self._known[key]

    def _nest(self, task: Task, choice: Choice) -> Loop:
        import tvm

        with tvm.target.Target(self.target.tvm_target()):  # elementary functions look at the current target
            return read_nest(task.family.emit(task.workload, self.target, choice, "kernel"), self.target)

    def _of(self, nest: Loop, choice: Choice, loops: Mapping[int, CompiledLoop], fine: bool) -> ChoiceEstimate:
        compute = nest_cycles(nest, self.core, self.target, self.threads, loops)
        share, launched = _busiest(nest, self.threads)
        traffic = traffic_bytes(nest, self.target)
        near, far, memory = traffic
        # Cores have caches of their own, but one memory.
        waiting = share * (near / self.core.near + far / self.core.far) + memory / self.core.memory
        cycles = max(compute, waiting) + _UNHIDDEN * min(compute, waiting)
        seconds = cycles / (self.core.gigahertz * 1e9) + (_LAUNCH_SECONDS if launched else 0.0)
        return ChoiceEstimate(dict(choice), seconds, compute, waiting, traffic, fine)


def nest_cycles(
    loop: Loop, core: Core, target: Target, threads: int = 1, loops: Mapping[int, CompiledLoop] | None = None
) -> float:
    """Cycles of all iterations of a loop, without caches, on the core that has most to do.

    Args:
        loop: the nest.
        core: that runs it.
        target: whose registers it was written for.
        threads: that share parallel loops.
        loops: of the compiled kernel, by floating-point operations an iteration.
    """
    body = sum(
        stretch_cycles(part, core, target, innermost=_runs_innermost(loop), loops=loops)
        if isinstance(part, Stretch)
        else nest_cycles(part, core, target, threads, loops)
        for part in loop.parts
    )
    entry = _ENTRY_CYCLES if _runs_innermost(loop) else 0.0
    return body * _times(loop, threads) + entry


def stretch_cycles(
    stretch: Stretch,
    core: Core,
    target: Target,
    *,
    innermost: bool,
    loops: Mapping[int, CompiledLoop] | None = None,
) -> float:
    """Cycles of straight-line code: those of its busiest pipe, or of its longest chain where it repeats."""
    work = stretch.work
    compiled = (loops or {}).get(work.flops) if innermost else None
    if compiled is not None:
        vectors, loads, stores = float(compiled.vectors), float(compiled.loads), float(compiled.stores)
        instructions = float(compiled.instructions)
        spilled = _SPILL_CYCLES * compiled.spills
    else:
        vectors = work.multiply_adds + work.arithmetic + work.shuffles
        loads, stores = work.loads, work.stores
        instructions = work.instructions + 2 * innermost
        spilled = 0.0
    vector_cycles = vectors / core.vectors + work.divisions * core.division + work.calls * _CALL_CYCLES
    pipes = (vector_cycles, loads / core.loads, stores / core.stores, instructions / core.width)
    cycles = max(pipes) + _OTHER_PIPES * (sum(pipes) - max(pipes)) + spilled
    if not innermost:
        return cycles
    if compiled is None:
        cycles *= _slowdown(stretch, target)
    return max(cycles, stretch.chain * core.latency)


def _slowdown(stretch: Stretch, target: Target) -> float:
    """By registers that are too few, in a loop."""
    excess = stretch.pressure + _spare(stretch, target) - target.vector.registers
    if excess <= 0:
        return 1.0
    guessed = min(_SPILLED + _SPILLED_MORE * (excess - 1), _SPILLED_UNROLLED)
    return _SPILLED_UNROLLED if _unrolled(stretch, target) else guessed


def _spare(stretch: Stretch, target: Target) -> int:
    """Registers that LLVM's scheduler wants besides those in use, to load ahead."""
    if target.architecture == "aarch64":
        return 8 if target.in_order else 4
    return 2 if target.architecture == "arm" or _unrolled(stretch, target) else 0


def _unrolled(stretch: Stretch, target: Target) -> bool:
    """Whether a loop holds more steps than one load of a row brings in."""
    return stretch.chain > (target.vector.lanes(32) if target.architecture == "aarch64" else 1)


def traffic_bytes(nest: Loop, target: Target) -> tuple[float, float, float]:
    """Bytes that a call fetches from the second cache, the third, and memory, by the target's cache sizes.

    The call before has warmed the caches, as it has where kernels are measured. Without a third cache, what the second
    does not hold comes from memory.
    """
    traffic, caches = Traffic(nest), target.caches
    near = traffic.beyond(_USEFUL_L1 * caches.l1d)
    beyond = traffic.beyond(caches.l2 / caches.l2_shared_by)
    if caches.l3 is None:
        return near, 0.0, beyond
    return near, beyond, traffic.beyond(caches.l3)


def _runs_innermost(loop: Loop) -> bool:
    return loop.counter is not None and loop.innermost


def _times(loop: Loop, threads: int) -> float:
    """Iterations of the core that has most."""
    return float(ceil(loop.times / threads)) if loop.parallel and threads > 1 else loop.times


def _busiest(nest: Loop, threads: int) -> tuple[float, bool]:
    """Share of the work that the core with most of it does, and whether threads are woken for it."""
    parallel = next((loop for loop in _loops(nest) if loop.parallel and loop.times > 1), None)
    if parallel is None or threads == 1:
        return 1.0, False
    return ceil(parallel.times / threads) / parallel.times, True


def _loops(loop: Loop) -> list[Loop]:
    return [loop, *(inner for part in loop.parts if isinstance(part, Loop) for inner in _loops(part))]


def rank(estimate: ChoiceEstimate, task: Task) -> tuple[float, bool, ChoiceKey]:
    """Order of estimates: of equal ones the default first, then by the choice's values."""
    return estimate.seconds, estimate.choice != task.default, choice_key(estimate.choice)
