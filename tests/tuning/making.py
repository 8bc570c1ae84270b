"""Records for tests."""

from __future__ import annotations

from typing import Any

from edgevit.target_schema import Target
from edgevit.targets import get_target
from edgevit.tuning.layers import Layer
from edgevit.tuning.record import (
    About,
    DeviceFacts,
    Evidence,
    FailureRecord,
    KernelRecord,
    TargetFacts,
    Timing,
    Versions,
)
from edgevit.tuning.records import Pick

KEY = "conv/1/0123456789abcdef"


def common(workload: str = KEY, target: Target | str = "rpi4", **fields: Any) -> dict[str, Any]:
    """What every kind of record needs."""
    family, version, _ = workload.split("/")
    chosen = target if isinstance(target, Target) else get_target(target)
    return {
        "workload": workload,
        "about": About(family=family, shape="height 32; width 32", dtype="float32", epilogue="silu"),
        "target": TargetFacts.of(chosen),
        "threads": 1,
        "versions": Versions(edgevit="0.1.0", tvm="0.27.0", family=int(version)),
        "date": "2025-01-31T12:00:00Z",
        "provenance": "edgevit tune model.onnx",
        **fields,
    }


def measured(
    choice: dict[str, int] | None = None,
    seconds: float = 1e-3,
    *,
    evidence: Evidence = "measured",
    cpu: str = "Cortex-A72",
    **fields: Any,
) -> KernelRecord:
    """A kernel record; ``seconds`` is the median."""
    estimated = evidence == "estimated"
    return KernelRecord(
        **common(**fields),
        choice=choice or {"rows": 4},
        evidence=evidence,
        timing=Timing(seconds=seconds, samples=0) if estimated else Timing.of([seconds] * 5),
        device=None if estimated else DeviceFacts(kind="rpc", cpu=cpu, cores=4, system="linux"),
    )


def failed(choice: dict[str, int] | None = None, **fields: Any) -> FailureRecord:
    """A failure."""
    return FailureRecord(**common(**fields), choice=choice or {"rows": 4}, failure="build", detail="LLVM refused")


def pick(workload: str, choice: dict[str, int]) -> Pick:
    """What a log answers."""
    return Pick(measured(choice, workload=workload), Layer.GIVEN, "measured")
