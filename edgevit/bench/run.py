"""Take latency samples on a device, alone or in turns with a peer."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from edgevit.accuracy.inputs import seeded_inputs
from edgevit.bench.result import QUICK, BenchResult, Protocol, Runner
from edgevit.bench.statistics import RatioSummary, paired_ratio, summarise
from edgevit.device.phone import PhoneRun
from edgevit.device.session import DeviceUsage, Session
from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.device.session import LoadedModel

_ROUND_SECONDS = 0.25
_MAX_ROUND_SAMPLES = 200
_TIMEOUT_SECONDS = 600.0

Progress = Callable[[float], None]
"""Told the finished share of the work, 0 to 1."""


class Contender(Interface):
    """Something that can be timed: a model on a device, or a peer in its own process."""

    name: str
    threads_asked: int | None

    def sample(self, count: int) -> list[float]:
        """Seconds of each of ``count`` calls."""
        ...

    def usage(self) -> DeviceUsage:
        """CPU time, memory, load and threads of the process that runs it."""
        ...


class _Model:
    name = "edgevit"

    def __init__(self, model: LoadedModel, threads: int | None) -> None:
        self._model = model
        self.threads_asked = threads

    def sample(self, count: int) -> list[float]:
        return self._model.time(count, timeout=_TIMEOUT_SECONDS)

    def usage(self) -> DeviceUsage:
        return self._model.usage()


def bench(
    artifact: Artifact,
    session: Session,
    *,
    protocol: Protocol = QUICK,
    threads: int | None = None,
    against: str | None = None,
    reference: Path | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Measure an artifact on a session's device.

    Under emulation nothing is timed: one call proves that the path works.

    Args:
        artifact: what to run.
        session: where.
        protocol: how many samples.
        threads: worker threads; None leaves the runtime's default.
        against: ``onnxruntime``, run on this machine in a process of its own, in turns with the artifact.
        reference: the ONNX file the peer runs.
        progress: told how far the run is.

    Raises:
        UserError: a peer was asked for and the device is not this machine, or its model is missing.
        DeviceError: the device failed.
    """
    if threads is not None and threads < 1:
        raise UserError(f"{threads} threads cannot run anything.", advice="Give --threads 1 or more.")
    if against is not None and session.kind not in ("process", "in-process"):
        raise UserError(
            f"{against} runs on this machine, the artifact on {session.kind}: not comparable.",
            advice="Leave --against out, or bench on this machine.",
        )
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(session.load(artifact))
        if threads is not None:
            model.set_threads(threads)
        model.set_inputs(seeded_inputs(artifact.resolution.inputs, seed=0), timeout=_TIMEOUT_SECONDS)
        contender = _Model(model, threads)
        before = session.condition()
        if session.emulated:
            model.invoke(timeout=_TIMEOUT_SECONDS)
            runner, phone = _emulated_runner(contender), PhoneRun.of(before, session.condition())
            return _result(artifact, session, protocol, runner, None, phone)
        contenders: list[Contender] = [contender]
        if against is not None:
            from edgevit.bench.peers import start_peer

            if reference is None:
                raise UserError(f"{against} needs the ONNX file.", advice="Give it with --reference.")

            # The same number of threads for both, whatever each would choose on its own.
            count = threads or model.usage().threads
            contenders.append(stack.enter_context(start_peer(against, reference, artifact.resolution.inputs, count)))
        runners = _measure(contenders, protocol, progress)
        phone = PhoneRun.of(before, session.condition() if before else None)
        return _result(artifact, session, protocol, runners[0], runners[1] if against else None, phone)


def _measure(contenders: list[Contender], protocol: Protocol, progress: Progress | None) -> list[Runner]:
    """Warm up, then rounds in turn until every contender has enough samples and seconds."""
    round_sizes = [_warm_up(contender, protocol) for contender in contenders]
    before = [contender.usage() for contender in contenders]
    samples: list[list[float]] = [[] for _ in contenders]
    begun = time.monotonic()
    complete = True
    while not all(_enough(taken, protocol) for taken in samples):
        if time.monotonic() - begun > protocol.max_seconds * len(contenders):
            complete = False
            break
        for contender, taken, size in zip(contenders, samples, round_sizes, strict=True):
            taken.extend(contender.sample(size))
        if progress:
            progress(min(_share(taken, protocol) for taken in samples))
    after = [contender.usage() for contender in contenders]
    return [
        _runner(contender, taken, first, last, size, complete)
        for contender, taken, first, last, size in zip(contenders, samples, before, after, round_sizes, strict=True)
    ]


def _warm_up(contender: Contender, protocol: Protocol) -> int:
    """Run for the warm-up time; returns how many calls make a round."""
    spent = 0.0
    fastest = float("inf")
    while spent < protocol.warmup_seconds or fastest == float("inf"):
        taken = contender.sample(1)
        spent += sum(taken)
        fastest = min(fastest, *taken, float("inf"))
    return max(1, min(_MAX_ROUND_SAMPLES, round(_ROUND_SECONDS / max(fastest, 1e-6))))


def _enough(samples: list[float], protocol: Protocol) -> bool:
    return len(samples) >= protocol.min_samples and sum(samples) >= protocol.min_seconds


def _share(samples: list[float], protocol: Protocol) -> float:
    # Either minimum may be zero: then it is met.
    goals = ((len(samples), protocol.min_samples), (sum(samples), protocol.min_seconds))
    return min(1.0, *(done / goal for done, goal in goals if goal))


def _runner(
    contender: Contender,
    samples: list[float],
    before: DeviceUsage,
    after: DeviceUsage,
    round_size: int,
    complete: bool,
) -> Runner:
    # Each timed round begins with one call that is not counted, but costs CPU time all the same.
    calls = len(samples) + len(samples) // round_size
    cpu = None
    if before.cpu_seconds is not None and after.cpu_seconds is not None:
        cpu = (after.cpu_seconds - before.cpu_seconds) / calls
    return Runner(
        name=contender.name,
        latency=summarise(samples),
        samples=tuple(samples),
        round_size=round_size,
        cpu_seconds_per_call=cpu,
        peak_rss_bytes=after.peak_rss_bytes,
        threads_asked=contender.threads_asked,
        threads_seen=after.threads,
        load_before=before.load_average,
        load_after=after.load_average,
        temperature_c=after.temperature_c,
        complete=complete,
    )


def _emulated_runner(contender: _Model) -> Runner:
    usage = contender.usage()
    return Runner(
        name=contender.name,
        latency=None,
        samples=(),
        round_size=1,
        cpu_seconds_per_call=None,
        peak_rss_bytes=None,
        threads_asked=contender.threads_asked,
        threads_seen=usage.threads,
        load_before=None,
        load_after=None,
    )


def _result(
    artifact: Artifact,
    session: Session,
    protocol: Protocol,
    own: Runner,
    peer: Runner | None,
    phone: PhoneRun | None,
) -> BenchResult:
    manifest = artifact.manifest
    return BenchResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        protocol=protocol,
        model=manifest.model.name,
        shapes=artifact.resolution.shapes,
        model_sha256=manifest.model.sha256,
        artifact_sha256=artifact.sha256,
        target=manifest.target.name,
        precision=manifest.precision,
        tools=manifest.tools,
        device=session.describe(),
        emulated=session.emulated,
        edgevit=own,
        peer=peer,
        ratio=_ratio(own, peer) if peer else None,
        phone=phone,
    )


def _ratio(own: Runner, peer: Runner) -> RatioSummary:
    """Median of each round against the median of the peer's round that followed it."""
    ours, theirs = _round_medians(own), _round_medians(peer)
    rounds = min(len(ours), len(theirs))
    return paired_ratio(ours[:rounds], theirs[:rounds])


def _round_medians(runner: Runner) -> list[float]:
    size = runner.round_size
    return [statistics.median(runner.samples[start : start + size]) for start in range(0, len(runner.samples), size)]
