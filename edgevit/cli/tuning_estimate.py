"""``edgevit tune --estimate``: rank choices without a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.cli.tuning_run import Request
    from edgevit.tuning.estimating import EstimateSummary


def estimate_choices(request: Request, refused: Sequence[str]) -> None:
    """Estimate the kernels of the models, write records, and print what came of it.

    Args:
        request: models, target, time and log.
        refused: options that were given and need a device.

    Raises:
        UserError: there is no model, or an option makes no sense here.
    """
    from edgevit.cli.output import console, print_json, shown, steps
    from edgevit.cli.tuning_run import check_limits, load_models
    from edgevit.files import make_folder
    from edgevit.tuning.estimating import TaskEstimate, estimate_tasks
    from edgevit.tuning.run import log_for
    from edgevit.tuning.search import read_known
    from edgevit.tuning.tasks import extract_tasks
    from edgevit.tuning.writing import LogWriter

    if refused:
        raise UserError(f"--estimate runs nothing: {' and '.join(refused)} cannot be given.", advice="Leave it out.")
    check_limits(request)
    with steps() as stages:
        stages.stage("load")
        target, models = load_models(request)
        path = log_for(target, request.folder)
        stages.stage("look for kernels")
        tasks = extract_tasks(models, target, request.threads)
        make_folder(path.parent)
        stages.stage("estimate")

        def told(estimate: TaskEstimate) -> None:
            stages.share(estimate.done)

        with LogWriter(path) as log:
            known = read_known(target, path, request.folder) if request.resume else []
            summary = estimate_tasks(
                tasks,
                log,
                known,
                threads=request.threads,
                minutes=request.minutes,
                limit=request.trials,
                provenance="edgevit tune --estimate",
                progress=told,
            )
    if request.as_json:
        print_json({**summary.to_json(), "log": str(path), "target": target.name})
        return
    printer = console()
    for line in _lines(summary, target.name):
        printer.print(shown(line), soft_wrap=True)
    printer.print(f"records: {path}", soft_wrap=True, markup=False)


def _lines(summary: EstimateSummary, target: str) -> list[str]:
    from edgevit.report.units import seconds

    lines = [
        f"ESTIMATE for {target}: {summary.tasks} kernels estimated, {summary.better} choices better than the default, "
        f"{summary.records} records"
    ]
    counts = {
        "estimated before": summary.known,
        "measured, so left alone": summary.measured,
        "could not be estimated": summary.refused,
        "left for another run": summary.unfinished,
    }
    lines += [f"{count} {what}" for what, count in counts.items() if count]
    lines += [
        f"ESTIMATE of {model}'s kernels: {seconds(before)} -> {seconds(summary.after[model])}"
        for model, before in summary.before.items()
    ]
    return [*lines, *summary.notes()]
