"""Make records: what all records of one run share is said once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from edgevit.tuning.record import (
    DeviceFacts,
    Failure,
    FailureRecord,
    KernelRecord,
    TargetFacts,
    Timing,
    Versions,
)
from edgevit.tuning.workloads import describe

if TYPE_CHECKING:
    from edgevit.compiler.kernels import KernelFamily
    from edgevit.device.session import DeviceInfo
    from edgevit.target_schema import Target

_DETAIL = 300


@dataclass(frozen=True)
class Origin:
    """Where the records of a run come from.

    Attributes:
        target: that kernels are compiled for.
        device: that runs them; None while nothing runs.
        threads: that kernels are called with.
        provenance: command or run id; it is published with the records.
    """

    target: Target
    device: DeviceInfo | None
    threads: int
    provenance: str = ""

    def measured(
        self,
        family: KernelFamily,
        workload: Any,
        choice: Mapping[str, int],
        samples: Sequence[float],
        default_seconds: float | None = None,
    ) -> KernelRecord:
        """Latencies of calls on the device, in seconds.

        Args:
            family: of the kernel.
            workload: that it computes.
            choice: of its space.
            samples: one of each round that counted.
            default_seconds: median of the default choice, where it is known.

        Raises:
            ValueError: there is no device, it is emulated, or the samples are no latencies.
        """
        return KernelRecord(
            **self._common(family, workload),
            choice=dict(choice),
            evidence="measured",
            timing=Timing.of(samples, default_seconds),
            device=self.facts,
        )

    def estimated(self, family: KernelFamily, workload: Any, choice: Mapping[str, int], seconds: float) -> KernelRecord:
        """What a model of the target says of a choice."""
        return KernelRecord(
            **self._common(family, workload),
            choice=dict(choice),
            evidence="estimated",
            timing=Timing(seconds=seconds, samples=0),
        )

    def failed(
        self, family: KernelFamily, workload: Any, choice: Mapping[str, int], failure: Failure, detail: str = ""
    ) -> FailureRecord:
        """A choice that is of no use; of ``detail`` the printable characters of the first line are kept."""
        first = (detail.strip().splitlines() or [""])[0]
        return FailureRecord(
            **self._common(family, workload),
            choice=dict(choice),
            failure=failure,
            detail="".join(filter(str.isprintable, first))[:_DETAIL],
            device=self.facts,
        )

    @property
    def facts(self) -> DeviceFacts | None:
        """The device, as records hold it."""
        return DeviceFacts.of(self.device) if self.device else None

    def shared(self, family_version: int) -> dict[str, Any]:
        """Fields that do not depend on the workload."""
        return {
            "target": TargetFacts.of(self.target),
            "threads": self.threads,
            "versions": Versions(edgevit=version("edgevit"), tvm=version("apache-tvm"), family=family_version),
            "date": datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "provenance": self.provenance,
        }

    def _common(self, family: KernelFamily, workload: Any) -> dict[str, Any]:
        from edgevit.compiler.kernels import workload_key

        key = workload_key(family, workload)
        return {"workload": key, "about": describe(family, workload), **self.shared(family.VERSION)}
