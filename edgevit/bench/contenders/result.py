"""What is kept of a contest: every number, and every raw sample behind it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from edgevit.bench.contenders.ranking import Ratio

SCHEMA_VERSION = 1


class _Schema(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContenderResult(_Schema):
    """How one contender did with one model and number of threads.

    Attributes:
        status: ``ok``; ``wrong``, when an output was, so that its times mean nothing and are not kept; or
            ``failed``, when it could not be installed, prepared or run.
        reason: why it is not ``ok``.
        max_error: largest max abs error over max |reference| of all checks; None if it was not checked, or if
            an output was no number at all or had another shape.
        median_seconds: median over rounds of each round's median call.
        rounds: seconds of every counted call, by round.
        cpu_seconds_per_call: of all threads, mean of the counted calls.
        idle_cpu_seconds: CPU time spent between two of its turns, mean: what its idle threads cost the others.
        busy_threads: threads that took a tenth of the busiest one's CPU time or more.
        to_baseline: time over ONNX Runtime's.
        to_best_peer: time over that of the fastest peer.
        roofline: share of the measured FMA peak that the model's multiply-adds reach.
    """

    name: str
    title: str
    version: str | None
    status: Literal["ok", "wrong", "failed"]
    reason: str | None = None
    artifact_sha256: str | None = None
    max_error: float | None = None
    tolerance: float | None = None
    median_seconds: float | None = None
    rounds: tuple[tuple[float, ...], ...] = ()
    cpu_seconds_per_call: float | None = None
    idle_cpu_seconds: float | None = None
    peak_rss_bytes: int | None = None
    busy_threads: int | None = None
    to_baseline: Ratio | None = None
    to_best_peer: Ratio | None = None
    roofline: float | None = None


class Peak(_Schema):
    """The machine's measured FMA peak.

    Attributes:
        flops_per_second: of all threads together, from the median over rounds.
        flops_per_call: of the kernel.
        rounds: seconds of its every call, by round.
    """

    flops_per_second: float
    flops_per_call: int
    rounds: tuple[tuple[float, ...], ...]


class RunResult(_Schema):
    """One model at one number of threads.

    Attributes:
        load_before, load_after: one-minute load of the machine.
        peak: None where it could not be measured; ``peak_failure`` says why.
        best_peer: name of the fastest peer whose outputs are right.
    """

    threads: int
    load_before: float
    load_after: float
    peak: Peak | None
    peak_failure: str | None
    best_peer: str | None
    contenders: tuple[ContenderResult, ...]


class ModelResult(_Schema):
    """One model.

    Attributes:
        macs: multiply-adds of one call.
        failure: why nothing was measured.
    """

    name: str
    sha256: str | None
    macs: int | None
    inputs: dict[str, tuple[int, ...]]
    failure: str | None = None
    runs: tuple[RunResult, ...] = ()


class ContestResult(_Schema):
    """A whole contest.

    Attributes:
        date: UTC, ISO 8601.
        machine: architecture, system, CPU, cores, memory.
        tools: versions of what edgevit was built with.
        packages: pinned packages of each peer's environment.
    """

    schema_version: int = SCHEMA_VERSION
    date: str
    machine: dict[str, Any]
    tools: dict[str, str]
    packages: dict[str, tuple[str, ...]]
    reference: str
    rounds: int
    calls: int
    minimum_seconds: float
    pause_seconds: float
    checks: int
    models: tuple[ModelResult, ...]
