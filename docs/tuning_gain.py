"""Measure what tuning records are worth: ``python docs/tuning_gain.py MODEL.onnx … --tuning-log FOLDER``.

Each model is compiled for this machine without any records, with those of the log, and with those that the log held
some minutes after its first one. The artifacts and a peer then take turns in one run, each in a process of its own, as
the contenders of ``edgevit.bench.contenders`` do. A time counts only if the outputs are ONNX Runtime's.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.errors import EdgevitError, EnvironmentFailure, UserError

if TYPE_CHECKING:
    from edgevit.bench.contenders.result import ContenderResult, RunResult
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.bench.contenders.worker import Entrant
    from edgevit.model import Model
    from edgevit.target_schema import Target
    from edgevit.tuning.records import TuningLog

UNTUNED, TUNED = "untuned", "tuned"
CONTROL = "same code"
"""The untuned artifact once more: how far from 1 its ratio is, other ratios may be by chance."""
_INTERRUPTED = 130


def logs(folder: Path, target: Target, minutes: Iterable[float]) -> dict[str, TuningLog]:
    """Records by the name of the variant that uses them: none, none again, those of the first minutes, and all."""
    from edgevit.device.usage import cpu_model
    from edgevit.tuning.layers import Layer, log_files
    from edgevit.tuning.reading import Rejected, read_records
    from edgevit.tuning.records import TuningLog

    found = [record for file in log_files(folder) for record in read_records(file) if not isinstance(record, Rejected)]
    if not found:
        raise UserError("there are no records.", where=str(folder), advice="Name a folder that 'edgevit tune' filled.")
    begun = min(_moment(record.date) for record in found)

    def log(limit: float | None) -> TuningLog:
        kept = [r for r in found if limit is None or _moment(r.date) - begun <= timedelta(minutes=limit)]
        return TuningLog([(Layer.GIVEN, record) for record in kept], target, device=cpu_model())

    return {
        UNTUNED: TuningLog(),
        CONTROL: TuningLog(),
        **{f"{limit:g} min": log(limit) for limit in minutes},
        TUNED: log(None),
    }


def _moment(date: str) -> datetime:
    return datetime.fromisoformat(date.removesuffix("Z"))


def measure(
    source: Path, target: Target, records: dict[str, TuningLog], peers: str, threads: Sequence[int], plan: Plan
) -> dict[str, Any]:
    """Compile, check and time all variants of a model beside the peers; what the JSON file holds of it."""
    import edgevit
    from edgevit.bench.contenders.catalogue import peers_named
    from edgevit.bench.contenders.contest import run_once
    from edgevit.bench.contenders.field import environments, prepare_field
    from edgevit.bench.contenders.judge import make_cases
    from edgevit.cli.output import steps
    from edgevit.model import describe

    with steps() as shown, tempfile.TemporaryDirectory(prefix="edgevit-tuning-") as temporary:
        folder = Path(temporary)
        model = edgevit.load(source)
        rivals = peers_named(peers)
        pythons = environments(rivals, install=True, say=shown.stage)
        field = prepare_field(model, rivals, pythons, folder, with_edgevit=False, say=shown.stage)
        counts: dict[str, dict[str, int]] = {}
        for name, log in records.items():
            shown.stage(f"{source.stem}: compiling {name}")
            entrant, counts[name] = _compile(name, model, target, log, folder)
            field.entrants.append(entrant)
        cases = make_cases(model, folder, range(4))
        macs = describe(model).macs
        no_peak = EnvironmentFailure("not measured.")
        runs = []
        for count in threads:
            shown.stage(f"{source.stem}: measuring with {count} thread{'s' if count > 1 else ''}")
            runs.append(run_once(field, no_peak, cases, macs, count, plan, folder, shown.share))
    names = [rival.name for rival in rivals]
    return {"model": source.stem, "kernels": counts, "runs": [_run(run, names) for run in runs]}


def _compile(name: str, model: Model, target: Target, log: TuningLog, folder: Path) -> tuple[Entrant, dict[str, int]]:
    """An artifact as a contender, and how many of its kernels took which kind of choice."""
    from edgevit.bench.contenders.catalogue import WORKERS
    from edgevit.bench.contenders.judge import OWN_TOLERANCE
    from edgevit.bench.contenders.worker import Entrant
    from edgevit.compiler.compile import compile_model

    artifact = compile_model(model, target, tuning_log=log, verify=False).save(folder / name)
    tuning = artifact.manifest.tuning
    counts = {kind: int(getattr(tuning, kind)) for kind in ("measured", "borrowed", "estimated", "default")}
    runner = WORKERS / "edgevit_runner.py"
    entrant = Entrant(name, name, Path(sys.executable), runner, folder / name, {}, OWN_TOLERANCE, artifact.sha256)
    return entrant, counts


def _run(run: RunResult, rivals: Sequence[str]) -> dict[str, Any]:
    """Times and ratios of one run: every variant to the untuned one, and to the fastest peer that is right."""
    from edgevit.bench.contenders.ranking import fastest, paired, round_medians

    contenders = {contender.name: contender for contender in run.contenders}
    for name in (UNTUNED, TUNED):
        if contenders[name].status != "ok":
            raise EnvironmentFailure(f"the {name} artifact cannot be measured: {contenders[name].reason}")

    right = {name: round_medians(contenders[name].rounds) for name in rivals if contenders[name].status == "ok"}
    best_peer = fastest(right)

    def ratio(own: ContenderResult, other: str | None) -> dict[str, Any] | None:
        if other is None or own.status != "ok":
            return None
        return paired(round_medians(contenders[other].rounds), round_medians(own.rounds)).model_dump()

    rows = {
        contender.name: {
            "status": contender.status,
            "max_error": contender.max_error,
            "median_seconds": contender.median_seconds,
            "times_faster_than_untuned": ratio(contender, UNTUNED),
            "times_faster_than_best_peer": ratio(contender, best_peer),
            "rounds": contender.rounds,
        }
        for contender in run.contenders
    }
    load = (run.load_before, run.load_after)
    return {"threads": run.threads, "load": load, "best_peer": best_peer, "contenders": rows}


def markdown(result: dict[str, Any]) -> str:
    """The table for a page."""
    names = [name for name in result["variants"] if name != UNTUNED]
    head = ["model", "threads", "untuned ms", "tuned ms", *(f"{name}: × untuned (95 %)" for name in names)]
    head += ["best peer", "tuned: × peer (95 %)"]
    lines = [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    loads = []
    for model in result["models"]:
        for run in model["runs"]:
            found = run["contenders"]
            loads += run["load"]
            cells = [model["model"], str(run["threads"])]
            cells += [f"{found[name]['median_seconds'] * 1e3:.2f}" for name in (UNTUNED, TUNED)]
            cells += [_times(found[name]["times_faster_than_untuned"]) for name in names]
            cells += [run["best_peer"] or "–", _times(found[TUNED]["times_faster_than_best_peer"])]
            lines.append(f"| {' | '.join(cells)} |")
    machine = result["machine"]
    where = f"{machine.get('cpu') or machine['arch']}, {machine['cores']} cores, {machine['os']}"
    load = f"load {min(loads):.2f} – {max(loads):.2f}"
    plan = f"{result['plan']['rounds']} rounds or more of {result['plan']['calls']} calls"
    return "\n".join([f"{result['date']}: {where}; target {result['target']}; {plan}; {load}.", "", *lines]) + "\n"


def _times(ratio: dict[str, Any] | None) -> str:
    if ratio is None:
        return "–"
    low, high = ratio["ci95_low"], ratio["ci95_high"]
    return f"{ratio['median']:.3f}" + (f" ({low:.3f}–{high:.3f})" if low is not None else "")


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def gain(
    models: Annotated[list[Path], typer.Argument(help="ONNX files.")],
    tuning_log: Annotated[Path, typer.Option("--tuning-log", help="Folder of records; no others are used.")],
    target: Annotated[str, typer.Option("--target", "-t", help="That this machine can run.")] = "host",
    minutes: Annotated[str, typer.Option("--minutes", help="Also with the records of the first: 5,15,60.")] = "",
    peers: Annotated[str, typer.Option("--peers", help="Comma-separated; 'all', or '' for none.")] = "onnxruntime",
    threads: Annotated[str, typer.Option("--threads", help="Numbers of threads, comma-separated.")] = "1,2",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds at least.")] = 20,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Counted calls of each in a round.")] = 5,
    seconds: Annotated[float, typer.Option("--minimum-seconds", min=0.0, help="Of counted calls, at least.")] = 1.0,
    output: Annotated[Path | None, typer.Option("--json", help="Write everything, with every sample, here.")] = None,
) -> None:
    """Measure untuned against tuned artifacts and peers, and print a table for a page."""
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.device.usage import machine_facts
    from edgevit.files import write_atomic
    from edgevit.targets import get_target

    chosen = get_target(target)
    records = logs(tuning_log, chosen, _numbers(minutes, "--minutes"))
    counts = [max(1, int(count)) for count in _numbers(threads, "--threads")]
    plan = Plan(rounds, calls, seconds)
    result = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "target": chosen.name,
        "variants": list(records),
        "plan": asdict(plan),
        "models": [measure(path, chosen, records, peers, counts, plan) for path in models],
    }
    if output is not None:
        write_atomic(output, json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(markdown(result), end="")


def _numbers(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{text!r} is no list of numbers.", advice=f"Write {option} 5,15,60.") from error


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run() -> None:
    """Entry point; exit codes as the ``edgevit`` command's."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name="python docs/tuning_gain.py")
    except EdgevitError as error:
        from edgevit.cli.output import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; every process was ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    run()
