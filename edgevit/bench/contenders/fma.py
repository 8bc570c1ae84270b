"""Measure what the machine can do at most: a kernel of fused multiply-adds on registers alone.

A core reaches its peak when enough independent chains of FMAs hide each one's latency: latency times units, 8
to 16 on the processors of today. The kernel runs as many as the register file holds beside two operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevit.target_schema import Target

_MAX_CHAINS = 24
_STEPS = 2_000_000
"""Rounds of all chains per call: milliseconds, long enough for a launch not to count."""


@dataclass(frozen=True)
class FmaKernel:
    """A linked kernel.

    Attributes:
        library: the shared library.
        flops: floating-point operations of one call, all threads together.
        lanes: float32 elements of each of its two operands.
        sums: float32 elements of its result.
    """

    library: Path
    flops: int
    lanes: int
    sums: int


def chains_for(target: Target) -> int:
    """Independent accumulators: all registers but four, for the operands and what the compiler needs."""
    return max(4, min(_MAX_CHAINS, target.vector.registers - 4))


def fma_module(target: Target, threads: int, steps: int = _STEPS) -> Any:
    """Module whose ``entry(operands, sums)`` runs ``chains_for(target)`` chains on each thread.

    Args:
        target: whose vector width and registers to use.
        threads: iterations of the parallel loop.
        steps: FMAs of each chain.
    """
    from tvm import IRModule, tirx

    lanes, chains = target.vector.lanes(), chains_for(target)
    operands = tirx.decl_buffer((2 * lanes,), "float32", name="operands")
    sums = tirx.decl_buffer((threads * chains * lanes,), "float32", name="sums")
    registers = [tirx.decl_buffer((lanes,), "float32", name=f"chain{i}", scope="local") for i in range(chains)]
    thread, step = tirx.Var("thread", "int32"), tirx.Var("step", "int32")

    def load(buffer: Any, start: int) -> Any:
        return tirx.BufferLoad(buffer, [_span(start, lanes)])

    def store(buffer: Any, start: Any, value: Any) -> Any:
        return tirx.BufferStore(buffer, value, [_span(start, lanes)])

    # Different starts, or the compiler would find out that all chains are the same.
    first = [store(chain, 0, tirx.Broadcast(tirx.const(i, "float32"), lanes)) for i, chain in enumerate(registers)]
    # LLVM's own operation: it would hoist the product of two constants out of the loop and leave an addition. The
    # accumulator is the addend because that is the one fmla overwrites; as a factor it would cost a move each time.
    factors = (load(operands, 0), load(operands, lanes))
    fused = [tirx.call_llvm_pure_intrin(f"float32x{lanes}", "llvm.fma", *factors, load(c, 0)) for c in registers]
    advance = [store(chain, 0, value) for chain, value in zip(registers, fused, strict=True)]
    last = [store(sums, (thread * chains + i) * lanes, load(chain, 0)) for i, chain in enumerate(registers)]
    loop = _loop(step, steps, tirx.ForKind.SERIAL, advance)
    work = [*(tirx.AllocBuffer(chain) for chain in registers), *first, loop, *last]
    body = _loop(thread, threads, tirx.ForKind.PARALLEL, work)
    function = tirx.PrimFunc([operands, sums], body)
    return IRModule({"entry": function.with_attr("global_symbol", "entry").with_attr("tirx.noalias", True)})


def _span(start: Any, lanes: int) -> Any:
    from tvm import tirx

    start = tirx.const(start, "int32") if isinstance(start, int) else start
    return tirx.Ramp(start, tirx.const(1, "int32"), lanes)


def _loop(variable: Any, extent: int, kind: Any, statements: list[Any]) -> Any:
    from tvm import tirx

    zero, limit = tirx.const(0, "int32"), tirx.const(extent, "int32")
    return tirx.For(variable, zero, limit, kind, tirx.SeqStmt(statements))


def build_fma_kernel(folder: Path, threads: int, steps: int = _STEPS) -> FmaKernel:
    """Compile and link the kernel for this machine.

    Args:
        folder: to write the library to.
        threads: cores to load.
        steps: FMAs of each chain.

    Raises:
        TargetError: this machine cannot be a target.
        ToolchainError: linking failed.
    """
    import tvm

    from edgevit.link import Linker
    from edgevit.targets import get_target

    target = get_target("host")
    executable = tvm.compile(fma_module(target, threads, steps), target=tvm.target.Target(target.tvm_target()))
    linker = Linker(target)
    library = folder / f"fma-{threads}{linker.suffix}"
    library.write_bytes(linker.link(executable))
    elements = threads * chains_for(target) * target.vector.lanes()
    return FmaKernel(library, flops=2 * steps * elements, lanes=target.vector.lanes(), sums=elements)
