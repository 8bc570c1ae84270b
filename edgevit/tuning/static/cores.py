"""What a processor core can do in a cycle, by LLVM's name of it, for estimates."""

from __future__ import annotations

from dataclasses import dataclass

from edgevit.target_schema import Target


@dataclass(frozen=True)
class Core:
    """Throughput of one core, in whole vector registers of the target.

    Attributes:
        name: that documents give it.
        gigahertz: nominal clock; it turns cycles into seconds and decides no ranking.
        width: instructions a cycle.
        vectors: vector operations a cycle.
        loads, stores: a cycle.
        latency: cycles from one multiply-add to the next one on the same accumulator.
        division: cycles of one vector division.
        near, far, memory: bytes a cycle from the second cache, the third, and memory.
    """

    name: str
    gigahertz: float
    width: float
    vectors: float
    loads: float
    stores: float
    latency: float
    division: float
    near: float
    far: float
    memory: float


# Widths, pipes and latencies of Arm's cores are those of Arm's Software Optimization Guides (Cortex-A72, A76, A78,
# Neoverse N1, V1, V2); a Cortex-A53's and A55's vector unit takes one 128-bit multiply-add and half a load a cycle.
# Apple's are public measurements of Firestorm, the 256-bit core is Haswell by Intel's optimization manual. The 512-bit
# core is an AMD Zen 5, whose width, division and caches' bandwidths were chosen on half of the kernels of MobileViT-S.
# All other bandwidths are guesses: half of what a bus takes at best, and of memory what such boards stream.
_A53 = Core("Cortex-A53", 1.2, 2, 1, 0.5, 0.5, 8, 22, 4, 4, 1.5)
_A72 = Core("Cortex-A72", 1.5, 3, 2, 1, 1, 3, 16, 8, 8, 2)
_A76 = Core("Cortex-A76", 2.4, 4, 2, 2, 1, 2, 10, 16, 16, 4)
_A78 = Core("Cortex-A78", 2.0, 6, 2, 3, 1, 2, 10, 16, 16, 4)
_V1 = Core("Neoverse V1", 2.6, 8, 4, 3, 2, 2, 7, 32, 24, 8)
_FIRESTORM = Core("Apple Firestorm", 3.2, 8, 4, 3, 2, 4, 4, 32, 32, 16)
_AVX2 = Core("Haswell", 3.0, 4, 2, 2, 1, 4, 8, 24, 24, 4)
_AVX512 = Core("AMD Zen 5", 3.9, 8, 2, 2, 1, 4, 8, 48, 64, 8)

_BY_CPU = {
    "cortex-a53": _A53,
    "cortex-a55": _A53,
    "cortex-a7": _A53,
    "cortex-a72": _A72,
    "cortex-a76": _A76,
    "cortex-a78": _A78,
    "cortex-a78ae": _A78,
    "neoverse-n1": _A76,
    "neoverse-v1": _V1,
    "neoverse-v2": _V1,
    "neoverse-n2": _A78,
}


def core_of(target: Target) -> Core:
    """The core of a target, or one most like it."""
    known = _BY_CPU.get(target.cpu)
    if known is not None:
        return known
    if target.cpu.startswith("apple-"):
        return _FIRESTORM
    if target.architecture == "x86_64":
        return _AVX512 if target.vector.bits == 512 else _AVX2
    return _A53 if target.in_order else _A72
