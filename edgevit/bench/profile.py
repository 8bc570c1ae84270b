"""Where a model's time goes: how long each of its kernels takes on a device, and how well it uses it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from edgevit.accuracy.inputs import seeded_inputs
from edgevit.bench.result import QUICK
from edgevit.bench.statistics import LatencySummary, summarise
from edgevit.device.phone import PhoneRun
from edgevit.device.session import DeviceInfo, Session
from edgevit.errors import ToolchainError, UserError
from edgevit.manifest import KernelInfo

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.bench.run import Progress
    from edgevit.device.session import LoadedModel

SCHEMA_VERSION = 1
SAMPLES = 50
_ROUNDS = 10
_TIMEOUT_SECONDS = 600.0


class _Timed(BaseModel):
    """Work and the time it took.

    Attributes:
        seconds: median over the samples.
        share: of the time that all kernels and TVM's own loops take.
        flops: two for every multiply-accumulate; what is computed on its result is not counted.
        bytes: inputs, weights and outputs, each moved once.
        gflops_per_second: None where values are only moved.
        peak_share: of the device's measured peak; None where that or the former is not known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: str
    family: str
    layers: tuple[str, ...]
    seconds: float
    share: float
    flops: int
    bytes: int
    gflops_per_second: float | None
    gbytes_per_second: float
    peak_share: float | None


class CallTime(_Timed):
    """One kernel call of the program."""


class KernelTime(_Timed):
    """All calls of one kernel together; a kernel is one function, for one shape of work.

    Attributes:
        workload: key under which tuning records know it.
        tuned: whether a tuning record shaped it.
        calls: in one run of the model.
    """

    workload: str
    tuned: bool
    calls: int


class ProfileResult(BaseModel):
    """A profile of one artifact on one device.

    Attributes:
        date: UTC, ISO 8601.
        shapes: of the inputs, by name.
        threads_asked: None where the runtime's own default was left alone.
        load_before: one-minute load of the device.
        samples: runs that count.
        latency: of the model as it always runs, without readings of the clock; seconds.
        kernels: slowest first.
        calls: in the order of the program.
        kernel_seconds: sum over all kernels.
        tvm_seconds: between the kernels, in TVM's own loops and its virtual machine; what such loops do before the
            first kernel or after the last is not in it.
        outside_seconds: the median latency less both of these: entering the model, allocating, TVM's loops at its
            ends, interruptions. Negative when that costs less than reading the clock.
        rest: operators left to TVM's own loops, and how many.
        peak_flops_per_second: most that the device computed on as many threads; None where it was not measured.
        peak_failure: why not.
        phone: how warm and how fast a phone was before and after, and whether it was throttled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    date: str
    model: str
    shapes: dict[str, tuple[int, ...]]
    model_sha256: str
    artifact_sha256: str
    target: str
    precision: str
    tools: dict[str, str]
    device: DeviceInfo
    threads_asked: int | None
    threads_seen: int | None
    load_before: float | None
    samples: int
    latency: LatencySummary
    kernels: tuple[KernelTime, ...]
    calls: tuple[CallTime, ...]
    kernel_seconds: float
    tvm_seconds: float
    outside_seconds: float
    rest: dict[str, int]
    peak_flops_per_second: float | None
    peak_failure: str | None = None
    phone: PhoneRun | None = None

    def notes(self) -> list[str]:
        """What a reader must know besides the numbers."""
        from edgevit.report.units import seconds

        parts = [f"{seconds(self.kernel_seconds)} in kernels"]
        if self.rest:
            parts.append(f"{seconds(self.tvm_seconds)} left to TVM ({_listed(self.rest)})")
        outside = max(0.0, self.outside_seconds)
        parts.append(f"{seconds(outside)} outside of them")
        notes = [f"one call takes {seconds(self.latency.p50)} (median): {', '.join(parts)}"]
        if self.peak_flops_per_second is not None:
            threads = "1 thread" if self.threads_seen == 1 else f"{self.threads_seen} threads"
            notes.append(f"peak, measured on {threads}: {self.peak_flops_per_second / 1e9:.1f} GFLOP/s")
        else:
            notes.append(f"no peak was measured: {self.peak_failure}")
        cores = self.device.cores or 1
        if self.load_before is not None and self.load_before > 0.5 * cores:
            notes.append(
                f"the device was busy before (load {self.load_before:.2f} on {cores} cores): other work takes time "
                "from kernels, and more from what is outside of them"
            )
        if self.device.phone:
            notes.append(f"phone: {self.device.phone.text}")
        if self.phone:
            notes += self.phone.notes()
        return notes

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``json.dumps``."""
        return self.model_dump(mode="json")


def profile(
    artifact: Artifact,
    session: Session,
    *,
    samples: int = SAMPLES,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ProfileResult:
    """Time every kernel of an artifact on a session's device.

    Runs that read the clock take turns with runs that do not, so that both meet the same changes of frequency
    and load. Then the device's peak is measured with a kernel of its own.

    Args:
        artifact: what to run.
        session: where.
        samples: runs to count, of both kinds.
        threads: worker threads; None leaves the runtime's default.
        progress: told how far the run is.

    Raises:
        UserError: the device is emulated, or the artifact is older than this function.
        DeviceError: the device failed.
    """
    _refuse(artifact, session, samples, threads)
    with session.load(artifact) as model:
        if threads is not None:
            model.set_threads(threads)
        model.set_inputs(seeded_inputs(artifact.resolution.inputs, seed=0), timeout=_TIMEOUT_SECONDS)
        before, usage = session.condition(), model.usage()
        calls, between, latencies = _measure(model, samples, progress)
        phone = PhoneRun.of(before, session.condition())
    peak, failure = _peak(artifact, session, usage.threads)
    manifest, program = artifact.manifest, artifact.resolution.program
    latency = summarise(latencies)
    inside = sum(calls) + between
    return ProfileResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        model=manifest.model.name,
        shapes=artifact.resolution.shapes,
        model_sha256=manifest.model.sha256,
        artifact_sha256=artifact.sha256,
        target=manifest.target.name,
        precision=manifest.precision,
        tools=manifest.tools,
        device=session.describe(),
        threads_asked=threads,
        threads_seen=usage.threads,
        load_before=usage.load_average,
        samples=samples,
        latency=latency,
        kernels=_by_kernel(program, calls, inside, peak),
        calls=tuple(
            CallTime(layers=info.layers, **_figures([info], [seconds], inside, peak))
            for info, seconds in zip(program, calls, strict=True)
        ),
        kernel_seconds=sum(calls),
        tvm_seconds=between,
        outside_seconds=latency.p50 - inside,
        rest=artifact.resolution.rest,
        peak_flops_per_second=peak,
        peak_failure=failure,
        phone=phone,
    )


def _refuse(artifact: Artifact, session: Session, samples: int, threads: int | None) -> None:
    if session.emulated:
        raise UserError(
            "times under emulation say nothing about a device, those of kernels least of all.",
            advice="Profile on a device, or compile with --target host and profile here.",
        )
    if not artifact.resolution.program or artifact.resolution.profile is None:
        raise UserError(
            "the artifact cannot time its kernels: it is of an earlier edgevit, or TVM's own loops compute it all.",
            where=artifact.manifest.model.name,
            advice="Compile the model again; 'edgevit info' says which operators are left to TVM.",
        )
    for what, count in (("samples", samples), ("threads", threads)):
        if count is not None and count < 1:
            raise UserError(f"{count} {what} cannot be asked for.", advice="Ask for one at least.")


def _measure(model: LoadedModel, samples: int, progress: Progress | None) -> tuple[list[float], float, list[float]]:
    """Median seconds of each call and between segments; the latencies of runs that read no clock."""
    import numpy as np

    spent = 0.0
    while spent < QUICK.warmup_seconds:
        spent += sum(model.time(1, timeout=_TIMEOUT_SECONDS))
    kernels, between, latencies = [], [], list[float]()
    while len(latencies) < samples:
        count = min(-(-samples // _ROUNDS), samples - len(latencies))
        readings = model.profile(count, timeout=_TIMEOUT_SECONDS)
        kernels.append(readings.kernels)
        between.append(readings.between)
        latencies += model.time(count, timeout=_TIMEOUT_SECONDS)
        if progress:
            progress(len(latencies) / samples)
    medians = np.median(np.concatenate(kernels), axis=0) * 1e-9
    return [float(one) for one in medians], float(np.median(np.concatenate(between))) * 1e-9, latencies


def _peak(artifact: Artifact, session: Session, threads: int | None) -> tuple[float | None, str | None]:
    from edgevit.bench.peak import measure_peak

    if threads is None:
        return None, "the device does not say how many threads it uses"
    try:
        return measure_peak(artifact, session, threads), None
    except ToolchainError as error:
        return None, error.message


def _by_kernel(
    program: Sequence[KernelInfo], calls: Sequence[float], inside: float, peak: float | None
) -> tuple[KernelTime, ...]:
    groups: dict[str, list[int]] = defaultdict(list)
    for index, info in enumerate(program):
        groups[info.kernel].append(index)
    kernels = []
    for members in groups.values():
        infos = [program[index] for index in members]
        layers = tuple(dict.fromkeys(layer for info in infos for layer in info.layers))
        figures = _figures(infos, [calls[index] for index in members], inside, peak)
        kernels.append(
            KernelTime(layers=layers, workload=infos[0].workload, tuned=infos[0].tuned, calls=len(members), **figures)
        )
    return tuple(sorted(kernels, key=lambda kernel: -kernel.seconds))


def _figures(infos: Sequence[KernelInfo], times: Sequence[float], inside: float, peak: float | None) -> dict[str, Any]:
    """What calls of one kernel have in common with a single call."""
    seconds = sum(times)
    # A clock may tick more slowly than the shortest kernel runs.
    rate = 1 / seconds if seconds else 0.0
    flops, moved = sum(info.flops for info in infos), sum(info.bytes for info in infos)
    return {
        "kernel": infos[0].kernel,
        "family": infos[0].family,
        "seconds": seconds,
        "share": seconds / inside if inside else 0.0,
        "flops": flops,
        "bytes": moved,
        "gflops_per_second": flops * rate / 1e9 if flops else None,
        "gbytes_per_second": moved * rate / 1e9,
        "peak_share": flops * rate / peak if flops and peak else None,
    }


def _listed(operators: dict[str, int]) -> str:
    return ", ".join(f"{count} {operator}" for operator, count in operators.items())
