"""A tuning run from models to records: devices, builders, tasks and log are brought together, and ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import UserError
from edgevit.files import make_folder
from edgevit.tuning.layers import user_folder
from edgevit.tuning.measure import Measurer, Protocol
from edgevit.tuning.metaschedule.search import TvmSummary, TvmTuner
from edgevit.tuning.metaschedule.tasks import TvmTask, extract_tvm_tasks, tvm_latencies
from edgevit.tuning.roofline import measure_peaks
from edgevit.tuning.schedule import latencies, model_latencies
from edgevit.tuning.search import BATCH, Budget, Reason, Tuner, forget_measured, read_known
from edgevit.tuning.tasks import extract_tasks
from edgevit.tuning.writing import LogWriter

if TYPE_CHECKING:
    from edgevit.device.session import DeviceInfo
    from edgevit.model import Model
    from edgevit.target_schema import Target
    from edgevit.tuning.layers import Layer
    from edgevit.tuning.places import Places
    from edgevit.tuning.record import Record
    from edgevit.tuning.roofline import Peaks


_LEAST_SHARE = 0.05
"""Of time and trials, for kernels and for functions of TVM's, where a model has both."""


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        log: file to append to.
        folder: of further records to start from.
        threads: to call kernels with; None for the target's cores, or the device's if those are fewer.
        workers: where candidates are built: see :func:`edgevit.tuning.building.builders.open_builders`.
        budget: what may be spent.
        batch: choices that become one library.
        resume: go on where earlier runs on this device ended; False measures everything anew.
        provenance: for the records.
        protocol: how to measure.
    """

    log: Path
    folder: Path | None = None
    threads: int | None = None
    workers: str | int | None = None
    budget: Budget = field(default_factory=Budget)
    batch: int = BATCH
    resume: bool = True
    provenance: str = "edgevit tune"
    protocol: Protocol | None = None


def log_for(target: Target, folder: Path | None) -> Path:
    """Where new records of a target go: ``TARGET/records.jsonl`` in a folder, or in the user's own."""
    return (folder or user_folder()) / target.name / "records.jsonl"


@dataclass
class Run:
    """A run that is ready to begin.

    Attributes:
        target: to tune for.
        devices: that measure.
        threads: that kernels are called with.
        peaks: of a device, for comparison; None where it is emulated.
        tuner: of the kernels.
        share: part of the models' latency that functions take which TVM imports; their part of the time and trials.
        import_tuner: makes the tuner of those functions, for so many minutes and trials; None without such functions.
        imported: what that one did; None before it has ended.
    """

    target: Target
    devices: tuple[DeviceInfo, ...]
    threads: int
    peaks: Peaks | None
    tuner: Tuner
    share: float = 0.0
    import_tuner: Callable[[float | None, int | None], TvmTuner] | None = None
    imported: TvmSummary | None = None

    @property
    def emulated(self) -> bool:
        """Whether nothing is timed."""
        return self.devices[0].emulated

    def go(self, tick: Callable[[Tuner], None] = lambda _: None) -> Reason:
        """Tune kernels, then functions that TVM imports; why it ended.

        Args:
            tick: told about twice a second while kernels are tuned.

        Raises:
            EdgevitError: as both tuners do.
        """
        whole = self.tuner.budget
        self.tuner.budget = replace(
            whole,
            minutes=None if whole.minutes is None else whole.minutes * (1 - self.share),
            trials=None if whole.trials is None else round(whole.trials * (1 - self.share)),
        )
        reasons: set[str] = {self.tuner.run(tick).reason} if self.tuner.entries else set()
        if self.import_tuner is not None:
            minutes = None if whole.minutes is None else whole.minutes * self.share
            trials = None if whole.trials is None else max(1, whole.trials - self.tuner.trials)
            self.imported = self.import_tuner(minutes, trials).run()
            reasons.add(self.imported.reason)
        order: tuple[Reason, ...] = ("minutes", "trials", "settled", "exhausted")
        return next(reason for reason in order if reason in reasons)


@contextlib.contextmanager
def open_run(
    models: Mapping[str, Model],
    target: Target,
    places: Places,
    plan: Plan,
    *,
    stage: Callable[[str], None] = lambda _: None,
) -> Iterator[Run]:
    """Everything that a tuner needs, until the block ends; then sessions, builders and log are closed.

    Args:
        models: by name.
        target: to tune for.
        places: where candidates run.
        plan: what to do.
        stage: told what is prepared.

    Raises:
        DeviceError: a device cannot be reached.
        UserError: there is nothing to tune, or the devices are not alike.
        EnvironmentFailure: the log cannot be written, or the builders are not there.
    """
    from edgevit.tuning.building.builders import open_builders

    with contextlib.ExitStack() as stack:
        stage("look for kernels")
        tasks, functions = extract_tasks(models, target), extract_tvm_tasks(models, target)
        if not functions and not any(task.space.size > 1 for task in tasks):
            raise UserError(
                "no kernel of this model has a choice.",
                where=", ".join(models),
                advice="'edgevit info' shows which of its operators are TVM's.",
            )
        stage("start builders")
        builders = stack.enter_context(open_builders(plan.workers))
        stage("connect")
        devices = [
            stack.enter_context(Measurer(connect, threads=plan.threads or target.cores, protocol=plan.protocol))
            for connect in places.connects
        ]
        cores = min(device.device.cores or target.cores for device in devices)
        threads = plan.threads or min(target.cores, cores)
        for device in devices:
            device.threads = threads
        stage("measure the device's peaks")
        peaks = measure_peaks(devices[0].session, target, threads)
        stage("read records")
        make_folder(plan.log.parent)
        log = stack.enter_context(LogWriter(plan.log))
        known = read_known(target, plan.log, plan.folder)
        if not plan.resume:
            known = forget_measured(known, target, devices[0].device, threads)
        tuner = Tuner(
            [replace(task, threads=threads) for task in tasks],
            devices,
            builders,
            log,
            known,
            target=target,
            budget=plan.budget,
            batch=plan.batch,
            provenance=plan.provenance,
            exclusive=places.here and builders.here,
        )
        run = Run(target, tuple(device.device for device in devices), threads, peaks, tuner)
        if functions:
            run.share = _share(tuner, functions)
            run.import_tuner = _import_tuner(functions, devices, places, log, known, plan, threads)
        yield run


def _share(tuner: Tuner, functions: Sequence[TvmTask]) -> float:
    """Part of the models' latency that functions of TVM's take, as far as it can be guessed."""
    theirs = sum(tvm_latencies(functions).values())
    ours = sum(model_latencies(tuner.entries, latencies(tuner.entries)).values())
    return min(max(theirs / (theirs + ours), _LEAST_SHARE), 1.0 - _LEAST_SHARE) if ours else 1.0


def _import_tuner(
    functions: Sequence[TvmTask],
    devices: Sequence[Measurer],
    places: Places,
    log: LogWriter,
    known: Sequence[tuple[Layer, Record]],
    plan: Plan,
    threads: int,
) -> Callable[[float | None, int | None], TvmTuner]:
    def make(minutes: float | None, trials: int | None) -> TvmTuner:
        for device in devices:  # a server may take one session at a time
            device.close()
        return TvmTuner(
            functions,
            places.connects[0],
            log,
            known,
            threads=threads,
            minutes=minutes,
            trials=trials,
            batch=plan.batch,
            provenance=plan.provenance,
            protocol=plan.protocol,
        )

    return make
