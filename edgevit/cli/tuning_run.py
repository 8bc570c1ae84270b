"""What ``edgevit tune`` does once its options are read."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.cli.tuning_display import TuningDisplay
    from edgevit.model import Model
    from edgevit.target_schema import Target
    from edgevit.tuning.run import Plan, Run
    from edgevit.tuning.schedule import Progress
    from edgevit.tuning.search import Reason, Tuner
    from edgevit.tuning.view import TuningView

_UNFINISHED = ("minutes", "trials", "interrupted")


@dataclass(frozen=True)
class Request:
    """The options of a run, as given."""

    models: tuple[Path, ...]
    target: str
    shape: tuple[str, ...]
    minutes: float | None
    trials: int | None
    threads: int | None
    workers: str | None
    batch: int
    folder: Path | None
    resume: bool
    plot: Path | None
    as_json: bool


def keep_records(
    asked: Sequence[str],
    logs: list[Path] | None,
    target: str | None,
    file: Path | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """Count, export, merge or prune: what ``edgevit records`` does, for records of the tuning log.

    Raises:
        UserError: more than one of them was asked for, or logs are missing or one too many.
    """
    from edgevit.cli.records import export_command, merge_command, prune_command, status_command
    from edgevit.targets import get_target
    from edgevit.tuning.run import log_for

    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} exclude each other.", advice="Ask for one at a time.")
    if logs and asked[0] in ("--status", "--export"):
        raise UserError(f"{asked[0]} takes no model or log.", where=str(logs[0]), advice="Leave it out.")
    if asked[0] == "--merge":
        if not logs:
            raise UserError("no log was given.", advice="Name the logs, or folders of logs, to take records from.")
        merge_command(logs, log_for(get_target(target or "host"), folder), as_json)
    elif asked[0] == "--prune":
        prune_command(logs or ([folder] if folder else None), target, 3, as_json)
    elif file is not None:
        export_command(file, target, folder, as_json)
    else:
        status_command(target, folder, as_json)


def run_tuning(request: Request, where: Mapping[str, Any], devices: int | None, timeout: float) -> Reason:
    """Tune, show how it goes, print what came of it; returns why it ended."""
    from edgevit.cli.output import status, steps
    from edgevit.cli.tuning_display import TuningDisplay
    from edgevit.tuning.places import find_places
    from edgevit.tuning.run import open_run

    begun = time.monotonic()
    check_limits(request)
    display = TuningDisplay(status())
    with ExitStack() as stack:
        with steps() as shown:
            shown.stage("load")
            target, models = load_models(request)
            shown.stage("look for devices")
            places = find_places(
                target, **where, devices=devices, threads=request.threads, timeout=timeout, progress=shown.build
            )
            plan = _plan(request, target, time.monotonic() - begun)
            run = stack.enter_context(open_run(models, target, places, plan, stage=shown.stage))
        with display:
            reason = _run(run, plan, display)
        view = _view(run, plan, reason)
    _report(request, run, plan, view)
    if request.plot is not None and run.tuner.measured:
        _plot(request.plot, run, plan)  # last: it may fail
    return reason


def _run(run: Run, plan: Plan, display: TuningDisplay) -> Reason:
    def tick(_tuner: Tuner) -> None:
        display.show(lambda: _view(run, plan))

    try:
        return run.go(tick)
    except KeyboardInterrupt:
        return "interrupted"


def check_limits(request: Request) -> None:
    """Refuse what can be refused before anything is loaded.

    Raises:
        UserError: no model, a limit that is none, or a plot that cannot be written.
        EnvironmentFailure: what draws plots is not installed.
    """
    if not request.models:
        raise UserError("no model was given.", advice="Name an ONNX file, or ask for --status.")
    if request.minutes is not None and not 0 < request.minutes < float("inf"):
        raise UserError(f"{request.minutes:g} minutes are no limit.", advice="Give --minutes a number above 0.")
    if request.plot is not None:
        from edgevit.report.tuning_plot import check_plot

        check_plot(request.plot)
        if not request.plot.absolute().parent.is_dir():
            raise UserError(
                "the folder of the plot does not exist.", where=str(request.plot), advice="Make it, or choose another."
            )


def load_models(request: Request) -> tuple[Target, dict[str, Model]]:
    """The target and the models, by names that tell them apart."""
    from edgevit.model import load, parse_resolutions
    from edgevit.targets import get_target, validate_for_compiler

    target = get_target(request.target)
    validate_for_compiler(target)
    models: dict[str, Model] = {}
    for path in request.models:
        for shapes in parse_resolutions(list(request.shape)):
            model = load(path, shapes=shapes)
            name = path.stem if len(request.shape) < 2 else f"{path.stem} {_sizes(model)}"
            models[name if name not in models else str(path)] = model
    return target, models


def _sizes(model: Model) -> str:
    return ", ".join("x".join(map(str, tensor.shape)) for tensor in model.inputs)


def _plan(request: Request, target: Target, spent: float) -> Plan:
    from edgevit.tuning.run import Plan, log_for
    from edgevit.tuning.search import Budget

    # What loading and connecting took counts as well.
    minutes = None if request.minutes is None else max(request.minutes - spent / 60, 0.01)
    return Plan(
        log=log_for(target, request.folder),
        folder=request.folder,
        threads=request.threads,
        workers=request.workers,
        budget=Budget(minutes=minutes, trials=request.trials),
        batch=request.batch,
        resume=request.resume,
    )


def _view(run: Run, plan: Plan, reason: Reason | None = None) -> TuningView:
    from edgevit.tuning.view import State, TuningView, model_views, task_views

    tuner = run.tuner
    states = tuner.pipeline.tasks() if tuner.pipeline else {}

    def state(entry: Progress) -> State:
        return states.get(entry.task.key, "done" if entry.exhausted else "waiting")

    return TuningView(
        models=model_views(tuner.entries, run.peaks),
        entries=task_views(tuner.entries, run.peaks, state),
        elapsed=tuner.elapsed,
        minutes=plan.budget.minutes,
        trials=tuner.trials,
        trial_limit=plan.budget.trials,
        rate=tuner.trials / tuner.elapsed if tuner.elapsed and tuner.trials else None,
        building=tuner.pipeline.building if tuner.pipeline else 0,
        devices=tuple(device.cpu or device.kind for device in run.devices),
        failures=dict(tuner.failures),
        reason=reason,
    )


def _report(request: Request, run: Run, plan: Plan, view: TuningView) -> None:
    """Print the summary and how to go on."""
    from edgevit.cli.output import console, print_json, shown

    command = shlex.join(["edgevit", *(part for part in sys.argv[1:] if part != "--no-resume")])
    if request.as_json:
        print_json(_to_json(run, plan, view, command))
        return
    from edgevit.report.tuning_table import tuning_summary

    printer = console()
    printer.print(tuning_summary(view, printer.width))
    for line in _imported_lines(run):
        printer.print(shown(line), soft_wrap=True)
    if run.emulated:
        printer.print("an emulator's times mean nothing: no latency was recorded")
    printer.print(f"records: {plan.log}", soft_wrap=True, markup=False)
    if view.reason in _UNFINISHED:
        printer.print(f"go on with: {command}", soft_wrap=True, markup=False)


def _imported_lines(run: Run) -> list[str]:
    """What came of the functions that TVM imports."""
    from edgevit.report.units import seconds

    found = run.imported
    if found is None:
        return []
    failed = "".join(f", {count} {kind}" for kind, count in sorted(found.failures.items()))
    lines = [f"functions of TVM's: {found.trials} trials, {found.measured} measured{failed}"]
    if not run.emulated:
        lines += [
            f"functions of TVM's in {model}: {seconds(before)} → {seconds(found.after[model])}"
            for model, before in found.before.items()
        ]
    return [*lines, *(f"not tuned, does not build: {name}" for name in found.unbuilt)]


def _plot(path: Path, run: Run, plan: Plan) -> None:
    """Draw all measurements of these kernels on this device that the log holds, of earlier runs too."""
    from edgevit.report.tuning_plot import plot_tuning
    from edgevit.tuning.history import comparable, history
    from edgevit.tuning.reading import read_records
    from edgevit.tuning.record import KernelRecord

    tasks = [entry.task for entry in run.tuner.entries]
    calls = {task.key: task.calls for task in tasks}
    found = [record for record in read_records(plan.log) if isinstance(record, KernelRecord)]
    defaults = {task.key: task.default for task in tasks}
    plot_tuning(history(comparable(record for record in found if record.workload in calls), calls, defaults), path)


def _to_json(run: Run, plan: Plan, view: TuningView, command: str) -> dict[str, Any]:
    return {
        "devices": [device.model_dump(mode="json") for device in run.devices],
        "elapsed_seconds": view.elapsed,
        "failures": dict(view.failures),
        "imported": asdict(run.imported) if run.imported else None,
        "log": str(plan.log),
        "measured": run.tuner.measured,
        "models": {
            model.name: {
                "after_seconds": model.after,
                "before_seconds": model.before,
                "guessed_kernels": model.guessed,
                "kernels": model.kernels,
                "roofline_seconds": model.roofline,
            }
            for model in view.models
        },
        "reason": view.reason,
        "resume": command,
        "target": run.target.name,
        "tasks": [asdict(task) for task in view.entries],
        "threads": run.threads,
        "trials": view.trials,
    }
