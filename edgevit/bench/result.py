"""The result of a benchmark: every number with what it takes to believe it."""

from __future__ import annotations

import csv
import io
from typing import Any

from pydantic import BaseModel, ConfigDict

from edgevit.bench.statistics import LatencySummary, RatioSummary
from edgevit.device.phone import PhoneRun
from edgevit.device.session import DeviceInfo
from edgevit.errors import UserError

SCHEMA_VERSION = 1


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Protocol(_Schema):
    """How samples are taken.

    Attributes:
        name: a key of ``PROTOCOLS``.
        warmup_seconds: time spent running before anything counts.
        min_samples: samples taken at least.
        min_seconds: seconds of counted running at least; both must be met.
        max_seconds: counted running stops here even with fewer samples, and the result says so.
    """

    name: str
    warmup_seconds: float
    min_samples: int
    min_seconds: float
    max_seconds: float


QUICK = Protocol(name="quick", warmup_seconds=0.5, min_samples=50, min_seconds=2.0, max_seconds=120.0)
MLPERF = Protocol(name="mlperf", warmup_seconds=5.0, min_samples=1024, min_seconds=60.0, max_seconds=3600.0)
"""MLPerf Mobile's single stream: at least 1,024 samples and 60 seconds."""
PROTOCOLS = {protocol.name: protocol for protocol in (QUICK, MLPERF)}


def protocol_named(name: str, *, samples: int | None = None, seconds: float | None = None) -> Protocol:
    """A protocol, with other minimum samples or seconds where given.

    Raises:
        UserError: there is no protocol of that name.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}.", advice=f"Choose one of {', '.join(PROTOCOLS)}.")
    asked = {"min_samples": samples, "min_seconds": seconds}
    return PROTOCOLS[name].model_copy(update={key: value for key, value in asked.items() if value is not None})


class Runner(_Schema):
    """One side of a benchmark.

    Attributes:
        name: ``edgevit`` or the peer's name and version.
        latency: of one call; seconds. None under emulation.
        samples: every counted call, in order; seconds. Empty under emulation.
        round_size: consecutive samples taken before the other runner's turn.
        cpu_seconds_per_call: CPU time of all threads, averaged over the counted calls.
        threads_asked: None where the runtime's own default was left alone.
        threads_seen: what the runtime says it uses.
        load_before, load_after: one-minute load of the device.
        complete: False when ``max_seconds`` cut the run short.
    """

    name: str
    latency: LatencySummary | None
    samples: tuple[float, ...]
    round_size: int
    cpu_seconds_per_call: float | None
    peak_rss_bytes: int | None
    threads_asked: int | None
    threads_seen: int | None
    load_before: float | None
    load_after: float | None
    temperature_c: float | None = None
    complete: bool = True


class BenchResult(_Schema):
    """A benchmark of one artifact, with its peer if one ran.

    Attributes:
        emulated: True when no latency was measured: only that the path works.
        ratio: latency of edgevit over the peer's, paired round by round; below 1 edgevit is faster.
        date: UTC, ISO 8601.
        shapes: of the inputs, by name.
        phone: how warm and how fast a phone was before and after, and whether it was throttled.
    """

    schema_version: int = SCHEMA_VERSION
    date: str
    protocol: Protocol
    model: str
    shapes: dict[str, tuple[int, ...]]
    model_sha256: str
    artifact_sha256: str
    target: str
    precision: str
    tools: dict[str, str]
    device: DeviceInfo
    emulated: bool
    edgevit: Runner
    peer: Runner | None = None
    ratio: RatioSummary | None = None
    phone: PhoneRun | None = None

    @property
    def runners(self) -> tuple[Runner, ...]:
        """edgevit, then the peer if there is one."""
        return (self.edgevit, self.peer) if self.peer else (self.edgevit,)

    def notes(self) -> list[str]:
        """What a reader must know besides the numbers."""
        if self.emulated:
            return ["emulated: the path works. Times under emulation say nothing about a device; none is given."]
        notes = []
        if self.ratio and self.peer:
            low, high = self.ratio.ci95_low, self.ratio.ci95_high
            interval = f" (95 % interval {low:.3f} … {high:.3f})" if low and high else ""
            notes.append(f"latency over {self.peer.name}'s: {self.ratio.median:.3f}{interval}; below 1 is faster")
        cores = self.device.cores or 1
        for runner in self.runners:
            if runner.load_before is not None and runner.load_before > 0.5 * cores:
                notes.append(
                    f"the device was busy before {runner.name} ran (load {runner.load_before:.2f} on {cores} "
                    "cores): expect a quieter one to be faster"
                )
                break
        if not all(runner.complete for runner in self.runners):
            notes.append(f"cut short after {self.protocol.max_seconds:g} s: fewer samples than the protocol asks")
        if self.device.phone:
            notes.append(f"phone: {self.device.phone.text}")
        if self.phone:
            notes += self.phone.notes()
        return notes

    def to_csv(self) -> str:
        """One line per counted call: runner, index, seconds."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["runner", "sample", "seconds"])
        for runner in self.runners:
            writer.writerows([runner.name, index, repr(value)] for index, value in enumerate(runner.samples))
        return text.getvalue()

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return self.model_dump(mode="json")
