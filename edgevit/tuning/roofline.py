"""How fast a kernel could be at most on a device: its peak rate of arithmetic, and how fast data can be read.

The model is Williams, Waterman and Patterson's roofline (CACM 52(4), 2009), with a bandwidth for each amount of data:
kernels are timed with warm caches, from which small tensors come much faster than from memory.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgevit.device.session import Session
from edgevit.target_schema import Target
from edgevit.tuning.tasks import Task

if TYPE_CHECKING:
    from edgevit.device.workbench import Workbench

_STEPS = 500_000
"""FMAs of each chain and call: milliseconds, long enough for a launch not to count."""
_SIZES = tuple(1 << power for power in range(15, 26))
"""Bytes that are read, from what any first cache holds to what few last ones do."""
_READ_BYTES = 1 << 25
"""At least, by one sample."""
_SAMPLES = 20
_CHAINS = 8
"""Independent sums: enough to hide the latency of an addition."""


@dataclass(frozen=True)
class Peaks:
    """What a device can do at most with some number of threads, as measured.

    Attributes:
        flops_per_second: of fused multiply-adds in float32, two operations each.
        bandwidths: bytes a second that can be read again and again, by the amount of data in bytes; ascending.
    """

    flops_per_second: float
    bandwidths: tuple[tuple[int, float], ...]

    def bytes_per_second(self, size: int) -> float:
        """Most for data of a size: what was measured for the next smaller amount, which comes from no slower cache."""
        place = bisect_right([each for each, _ in self.bandwidths], size)
        return max(rate for _, rate in self.bandwidths[max(0, place - 1) :])


def roofline_seconds(task: Task, peaks: Peaks) -> float:
    """Below this no kernel for the task's workload can get, but for what padding spares it.

    Args:
        task: whose workload counts its operations and bytes.
        peaks: of the device and the number of threads.
    """
    return bound(task.family.NAME, task.workload.flops, task.workload.bytes, peaks)


def bound(family: str, flops: int, moved: int, peaks: Peaks) -> float:
    """Seconds that arithmetic takes or that moving every tensor once takes, whichever is more.

    Args:
        family: of the kernel. Winograd's convolution multiplies a quarter as often as a direct one, whose operations
            are counted: F(4 × 4, 3 × 3) takes 36 products for 16 outputs of 9 taps.
        flops: of the workload.
        moved: bytes of inputs, weights and outputs.
        peaks: of the device.
    """
    operations = flops / 4 if family == "winograd" else flops
    return max(operations / peaks.flops_per_second, moved / peaks.bytes_per_second(moved))


def measure_peaks(session: Session, target: Target, threads: int) -> Peaks | None:
    """Measure what a session's device can do; takes seconds.

    Args:
        session: where to measure.
        target: its vectors and registers are used.
        threads: cores to load at the same time.

    Returns:
        None where the device is emulated: its times mean nothing.

    Raises:
        ToolchainError: the kernels could not be compiled or linked.
        DeviceError: the device failed.
    """
    if session.emulated:
        return None
    with session.workbench() as bench:
        bench.set_threads(threads)
        return Peaks(_flops_per_second(bench, target, threads), _bandwidths(bench, target, threads))


def _flops_per_second(bench: Workbench, target: Target, threads: int) -> float:
    from edgevit.bench.contenders.fma import chains_for, fma_module

    lanes = target.vector.lanes()
    sums = threads * chains_for(target) * lanes
    bench.load(_linked(fma_module(target, threads, _STEPS), target))
    arguments = bench.place([np.full(2 * lanes, 0.5, np.float32), np.zeros(sums, np.float32)])
    # The fastest: whatever disturbs a call makes it slower.
    seconds = min(bench.time("entry", arguments, samples=_SAMPLES))
    bench.release(arguments)
    return 2 * _STEPS * sums / seconds


def _bandwidths(bench: Workbench, target: Target, threads: int) -> tuple[tuple[int, float], ...]:
    from tvm import IRModule

    lanes = target.vector.lanes()
    block = _CHAINS * 4 * lanes
    blocks = [-(-size // (threads * block)) for size in _SIZES]
    functions = [_reading(f"read_{place}", each, threads, lanes) for place, each in enumerate(blocks)]
    bench.load(_linked(IRModule({str(each.attrs["global_symbol"]): each for each in functions}), target))
    found = []
    for place, each in enumerate(blocks):
        size = each * threads * block
        arguments = bench.place([np.ones(size // 4, np.float32), np.zeros(threads * lanes, np.float32)])
        calls = max(1, _READ_BYTES // size)
        found.append((size, size / min(bench.time(f"read_{place}", arguments, calls=calls, samples=_SAMPLES))))
        bench.release(arguments)
    return tuple(found)


def _reading(name: str, blocks: int, threads: int, lanes: int) -> Any:
    """Function ``name(data, sums)`` that adds up all data: on each thread, blocks of as many vectors as sums."""
    from tvm import tirx

    def constant(value: int) -> Any:
        return tirx.const(value, "int32")

    def span(start: Any) -> Any:
        return tirx.Ramp(start, constant(1), lanes)

    data = tirx.decl_buffer((threads * blocks * _CHAINS * lanes,), "float32", name="data")
    sums = tirx.decl_buffer((threads * lanes,), "float32", name="sums")
    chains = [tirx.decl_buffer((lanes,), "float32", name=f"chain{i}", scope="local") for i in range(_CHAINS)]
    held = [tirx.BufferLoad(chain, [span(constant(0))]) for chain in chains]
    thread, block = tirx.Var("thread", "int32"), tirx.Var("block", "int32")

    def added(number: int) -> Any:
        vector = ((thread * blocks + block) * _CHAINS + number) * lanes
        return held[number] + tirx.BufferLoad(data, [span(vector)])

    def keep(chain: Any, value: Any) -> Any:
        return tirx.BufferStore(chain, value, [span(constant(0))])

    zero = tirx.Broadcast(tirx.const(0.0, "float32"), lanes)
    first = [keep(chain, zero) for chain in chains]
    steps = tirx.SeqStmt([keep(chain, added(number)) for number, chain in enumerate(chains)])
    loop = tirx.For(block, constant(0), constant(blocks), tirx.ForKind.SERIAL, steps)
    last = tirx.BufferStore(sums, sum(held[1:], held[0]), [span(thread * lanes)])
    work = tirx.SeqStmt([*(tirx.AllocBuffer(chain) for chain in chains), *first, loop, last])
    body = tirx.For(thread, constant(0), constant(threads), tirx.ForKind.PARALLEL, work)
    function = tirx.PrimFunc([data, sums], body)
    return function.with_attr("global_symbol", name).with_attr("tirx.noalias", True)


def _linked(module: Any, target: Target) -> bytes:
    from edgevit.compiler.entry import build_module
    from edgevit.link import Linker

    return Linker(target).link(build_module(module, target))
