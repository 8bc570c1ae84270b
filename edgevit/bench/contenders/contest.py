"""Run models through everyone, judge the outputs, compare the times."""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.bench.contenders.catalogue import BASELINE, EDGEVIT, FMA, Peer
from edgevit.bench.contenders.environments import Say
from edgevit.bench.contenders.field import Environments, Field, Yardstick, prepare_field
from edgevit.bench.contenders.judge import Case, make_cases, normalised_error
from edgevit.bench.contenders.ranking import fastest, paired, round_medians
from edgevit.bench.contenders.result import ContenderResult, ModelResult, Peak, RunResult
from edgevit.bench.contenders.rounds import Plan, Samples, take_rounds
from edgevit.bench.contenders.worker import Entrant, Worker
from edgevit.errors import EdgevitError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact


@dataclass(frozen=True)
class Settings:
    """What a contest is about.

    Attributes:
        peers: who takes part beside edgevit.
        threads: numbers of threads, each measured on its own.
        plan: how to measure.
        checks: fresh inputs to compare before measuring, and as many others after.
        with_edgevit: whether edgevit takes part.
        artifacts: compiled before, used for the models they were made of.
    """

    peers: Sequence[Peer]
    threads: Sequence[int] = (1,)
    plan: Plan = field(default_factory=Plan)
    checks: int = 5
    with_edgevit: bool = True
    artifacts: Sequence[Artifact] = ()


@dataclass
class _Standing:
    """A contender on its way through one run."""

    entrant: Entrant
    worker: Worker | None = None
    version: str | None = None
    worst: float = 0.0
    failure: str | None = None
    wrong: bool = False
    usage: tuple[int, int | None] | None = None


def run_model(
    path: Path,
    settings: Settings,
    pythons: Environments,
    yardsticks: Mapping[int, Yardstick | EdgevitError],
    *,
    say: Say = lambda _: None,
    progress: Callable[[float], None] = lambda _: None,
) -> ModelResult:
    """Everything about one model; a model that cannot be used is a result too.

    Args:
        path: the ONNX file.
        settings: who and how.
        pythons: from :func:`edgevit.bench.contenders.field.environments`.
        yardsticks: from :func:`edgevit.bench.contenders.field.yardsticks`, for every number of threads.
        say: told what is going on.
        progress: told the finished share of the current rounds.
    """
    import edgevit
    from edgevit.model import describe

    with tempfile.TemporaryDirectory(prefix="edgevit-contest-") as temporary:
        folder = Path(temporary)
        try:
            model = edgevit.load(path)
            macs = describe(model).macs
            say(f"computing the reference for {path.name}")
            cases = make_cases(model, folder, range(2 * settings.checks))
        except EdgevitError as error:
            return ModelResult(name=path.name, sha256=None, macs=None, inputs={}, failure=error.message)
        starters = prepare_field(
            model,
            settings.peers,
            pythons,
            folder,
            with_edgevit=settings.with_edgevit,
            artifacts=settings.artifacts,
            say=say,
        )
        runs = []
        for threads in settings.threads:
            say(f"measuring {path.name} with {threads} thread{'s' if threads > 1 else ''}")
            yardstick = yardsticks[threads]
            runs.append(run_once(starters, yardstick, cases, macs, threads, settings.plan, folder, progress))
        shapes = {spec.name: spec.shape for spec in model.inputs}
        return ModelResult(name=path.name, sha256=model.sha256, macs=macs, inputs=shapes, runs=tuple(runs))


def run_once(
    starters: Field,
    yardstick: Yardstick | EdgevitError,
    cases: Sequence[Case],
    macs: int,
    threads: int,
    plan: Plan,
    folder: Path,
    progress: Callable[[float], None] = lambda _: None,
) -> RunResult:
    """One model at one number of threads: start, check, measure, check again, compare.

    Args:
        starters: who takes part.
        yardstick: measures the FMA peak in the same rounds; an error is passed on as the reason there is none.
        cases: the first half is checked before measuring, the second half after.
        macs: multiply-adds of one call.
        threads: of every contender.
        plan: how to measure.
        folder: for files that pass between processes.
        progress: told the finished share of the rounds.
    """
    load_before = os.getloadavg()[0]
    half = (len(cases) + 1) // 2
    with contextlib.ExitStack() as stack:
        entrants = list(starters.entrants)
        if isinstance(yardstick, Yardstick):
            entrants.append(yardstick.entrant)
        standings = [_start(entrant, threads, stack) for entrant in entrants]
        for standing in standings:
            _check(standing, cases[:half], folder)
        fit = {standing.entrant.name: standing for standing in standings if _is_fit(standing)}
        workers = {name: standing.worker for name, standing in fit.items() if standing.worker is not None}
        samples = take_rounds(workers, plan, yardsticks=(FMA,), progress=progress)
        load_after = os.getloadavg()[0]
        for name, standing in fit.items():
            standing.failure = samples[name].failure
            _note_usage(standing)
            _check(standing, cases[half:], folder)
    by_name = {standing.entrant.name: standing for standing in standings}
    fma = by_name.pop(FMA, None)
    if isinstance(yardstick, Yardstick) and fma is not None:
        peak, peak_failure = _peak(samples.get(FMA), yardstick.flops), fma.failure
    else:
        peak, peak_failure = None, str(yardstick)
    contenders = _compare(list(by_name.values()), samples, macs, peak)
    absent = [
        ContenderResult(name=name, title=title, version=version, status="failed", reason=reason)
        for name, title, version, reason in starters.absent
    ]
    return RunResult(
        threads=threads,
        load_before=load_before,
        load_after=load_after,
        peak=peak,
        peak_failure=peak_failure,
        best_peer=_best_peer(_observations(list(by_name.values()), samples)),
        contenders=(*contenders, *absent),
    )


def _start(entrant: Entrant, threads: int, stack: contextlib.ExitStack) -> _Standing:
    standing = _Standing(entrant)
    try:
        standing.worker = Worker(entrant, threads)
        stack.callback(standing.worker.close)
        standing.version = standing.worker.version
    except EdgevitError as error:
        standing.failure = error.message
    return standing


def _is_fit(standing: _Standing) -> bool:
    return standing.failure is None and not standing.wrong


def _check(standing: _Standing, cases: Sequence[Case], folder: Path) -> None:
    tolerance = standing.entrant.tolerance
    if tolerance is None or standing.worker is None or not _is_fit(standing):
        return
    try:
        for case in reversed(cases):  # what is set last, and so measured, is the first case for everyone
            error = normalised_error(standing.worker.outputs(case.inputs, folder), case)
            standing.worst = max(standing.worst, error)
    except EdgevitError as error:
        standing.failure = error.message
    standing.wrong = standing.worst > tolerance


def _note_usage(standing: _Standing) -> None:
    if standing.worker is None or standing.failure is not None:
        return
    try:
        standing.usage = standing.worker.usage()
    except EdgevitError as error:
        standing.failure = error.message


def _peak(samples: Samples | None, flops: int) -> Peak | None:
    if samples is None or not samples.turns:
        return None
    rounds = tuple(turn.seconds for turn in samples.turns)
    return Peak(
        flops_per_second=flops / statistics.median(round_medians(rounds)),
        flops_per_call=flops,
        rounds=rounds,
    )


def _observations(standings: Sequence[_Standing], samples: Mapping[str, Samples]) -> dict[str, list[float]]:
    """Median seconds of each round, of those whose times mean something."""
    return {
        standing.entrant.name: round_medians([turn.seconds for turn in samples[standing.entrant.name].turns])
        for standing in standings
        if _is_fit(standing) and samples[standing.entrant.name].turns
    }


def _best_peer(observations: Mapping[str, Sequence[float]]) -> str | None:
    return fastest({name: values for name, values in observations.items() if name != EDGEVIT})


def _compare(
    standings: Sequence[_Standing], samples: Mapping[str, Samples], macs: int, peak: Peak | None
) -> list[ContenderResult]:
    """Results, fastest first, then those without a time."""
    observations = _observations(standings, samples)
    best = _best_peer(observations)
    results = [_result(standing, samples, observations, best, macs, peak) for standing in standings]
    return sorted(results, key=lambda result: result.median_seconds or float("inf"))


def _result(
    standing: _Standing,
    samples: Mapping[str, Samples],
    observations: Mapping[str, Sequence[float]],
    best: str | None,
    macs: int,
    peak: Peak | None,
) -> ContenderResult:
    entrant = standing.entrant
    result = ContenderResult(
        name=entrant.name,
        title=entrant.title,
        version=standing.version,
        status="failed" if standing.failure else "wrong" if standing.wrong else "ok",
        reason=standing.failure or (_wrong_words(standing) if standing.wrong else None),
        artifact_sha256=entrant.artifact_sha256,
        max_error=standing.worst if standing.worst < float("inf") and not standing.failure else None,
        tolerance=entrant.tolerance,
    )
    own = observations.get(entrant.name)
    if own is None:
        return result
    turns = samples[entrant.name].turns
    median = statistics.median(own)
    memory, threads = standing.usage or (None, None)
    return result.model_copy(
        update={
            "median_seconds": median,
            "rounds": tuple(turn.seconds for turn in turns),
            "cpu_seconds_per_call": sum(t.cpu_seconds for t in turns) / sum(len(t.seconds) for t in turns),
            "idle_cpu_seconds": statistics.fmean(turn.idle_cpu_seconds for turn in turns),
            "peak_rss_bytes": memory,
            "busy_threads": threads,
            "to_baseline": paired(own, observations[BASELINE]) if BASELINE in observations else None,
            "to_best_peer": paired(own, observations[best]) if best else None,
            "roofline": 2 * macs / median / peak.flops_per_second if peak and macs else None,
        }
    )


def _wrong_words(standing: _Standing) -> str:
    if standing.worst == float("inf"):
        return "wrong: an output is not a number, or has another shape than the reference's."
    return f"wrong: max abs error is {standing.worst:.1e} of max |reference|, {standing.entrant.tolerance:g} passes."
