"""A tuning run from models to records: devices, builders, tasks and log are brought together, and ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import UserError
from edgevit.files import make_folder
from edgevit.tuning.layers import user_folder
from edgevit.tuning.measure import Measurer, Protocol
from edgevit.tuning.roofline import measure_peaks
from edgevit.tuning.search import BATCH, Budget, Tuner, forget_measured, read_known
from edgevit.tuning.tasks import extract_tasks
from edgevit.tuning.writing import LogWriter

if TYPE_CHECKING:
    from edgevit.device.session import DeviceInfo
    from edgevit.model import Model
    from edgevit.target_schema import Target
    from edgevit.tuning.places import Places
    from edgevit.tuning.roofline import Peaks


@dataclass(frozen=True)
class Plan:
    """What a run is to do.

    Attributes:
        log: file to append to.
        folder: of further records to start from.
        threads: to call kernels with; None for the target's cores, or the device's if those are fewer.
        workers: where candidates are built: see :func:`edgevit.tuning.builders.open_builders`.
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


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin.

    Attributes:
        target: to tune for.
        devices: that measure.
        threads: that kernels are called with.
        peaks: of a device, for comparison; None where it is emulated.
        tuner: of the kernels.
    """

    target: Target
    devices: tuple[DeviceInfo, ...]
    threads: int
    peaks: Peaks | None
    tuner: Tuner

    @property
    def emulated(self) -> bool:
        """Whether nothing is timed."""
        return self.devices[0].emulated


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
    from edgevit.tuning.builders import open_builders

    with contextlib.ExitStack() as stack:
        stage("look for kernels")
        # Not yet pinned to the number of threads: that takes the device.
        if not any(task.space.size > 1 for task in extract_tasks(models, target)):
            raise UserError(
                "no kernel of this model has a choice.",
                where=", ".join(models),
                advice="'edgevit info' shows which of its operators are TVM's.",
            )
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
        stage("start builders")
        builders = stack.enter_context(open_builders(plan.workers))
        stage("read records")
        make_folder(plan.log.parent)
        log = stack.enter_context(LogWriter(plan.log))
        known = read_known(target, plan.log, plan.folder)
        if not plan.resume:
            known = forget_measured(known, target, devices[0].device, threads)
        tuner = Tuner(
            extract_tasks(models, target, threads),
            devices,
            builders,
            log,
            known,
            budget=plan.budget,
            batch=plan.batch,
            provenance=plan.provenance,
            exclusive=places.here and builders.here,
        )
        yield Run(target, tuple(device.device for device in devices), threads, peaks, tuner)
