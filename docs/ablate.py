"""Measure what each of the compiler's ideas is worth: ``python docs/ablate.py MODEL.onnx``.

The model is compiled for this machine once by the whole compiler and once for every idea without that idea: a
process that does nothing else replaces the idea's functions by simpler ones that compute the same, and compiles.
Then each variant takes turns with the whole compiler's code, each in a process of its own, as the contenders of
``edgevit.bench.contenders`` do: two at a time, so that the turns that are compared lie as close together as can be. A
time counts only if the outputs are ONNX Runtime's. Tuning records are left aside: they would choose shapes that some
ideas are about.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from unittest import mock

import typer
from ideas import IDEAS, Idea, without

from edgevit.errors import EdgevitError, EnvironmentFailure, UserError

if TYPE_CHECKING:
    from edgevit.bench.contenders.result import RunResult
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.bench.contenders.worker import Entrant

FULL = "full"
_BUILD = "--build"
_BUILD_SECONDS = 1800.0
_INTERRUPTED = 130


@dataclass(frozen=True)
class Variant:
    """What one compilation gave.

    Attributes:
        name: of the idea that it does without, or ``full``.
        sha256: of the artifact; None if it could not be compiled.
        kernels: calls of edgevit's kernels.
        workspace: bytes for the values between them.
        failure: why it could not be compiled.
    """

    name: str
    sha256: str | None = None
    kernels: int = 0
    workspace: int = 0
    failure: str | None = None


def build(name: str, source: str, folder: str) -> None:
    """Compile without an idea and answer as ``edgevit.bench.contenders.build`` does."""
    import edgevit.compiler.compile as compiler
    from edgevit.bench.contenders import build as contenders_build
    from edgevit.tuning.records import TuningLog

    sys.argv[1:] = ["model", source, folder]
    untuned = mock.patch.object(compiler, "load_tuning_log", return_value=TuningLog([]))
    with untuned, without(IDEAS[name]) if name in IDEAS else contextlib.nullcontext():
        contenders_build.main()


def compile_variant(name: str, source: Path, folder: Path) -> Variant:
    """Compile in a process of its own; a failure is a result, except of the whole compiler."""
    from edgevit.artifact import load_artifact
    from edgevit.bench.contenders.worker import answer_of

    command = [sys.executable, __file__, _BUILD, name, str(source), str(folder)]
    try:
        sha256 = str(answer_of(command, f"the compiler without {name}", _BUILD_SECONDS)["sha256"])
    except EdgevitError as error:
        if name == FULL:
            raise
        return Variant(name, failure=error.message)
    resolution = load_artifact(folder).resolution
    return Variant(name, sha256, len(resolution.program), resolution.workspace_bytes)


def measure(source: Path, ideas: Sequence[Idea], threads: int, plan: Plan, checks: int) -> dict[str, Any]:
    """Compile, check and time all variants of a model; what the JSON file holds."""
    import edgevit
    from edgevit.bench.contenders.contest import run_once
    from edgevit.bench.contenders.field import Field
    from edgevit.bench.contenders.judge import make_cases
    from edgevit.cli.output import steps
    from edgevit.device.usage import machine_facts
    from edgevit.model import describe

    with steps() as shown, tempfile.TemporaryDirectory(prefix="edgevit-ablate-") as temporary:
        folder = Path(temporary)
        model = edgevit.load(source)
        cases = make_cases(model, folder, range(2 * checks))
        macs = describe(model).macs
        variants = []
        for name in (FULL, *(idea.name for idea in ideas)):
            shown.stage("compiling" if name == FULL else f"compiling without {name}")
            variants.append(compile_variant(name, source, folder / name))
        full, *others = variants
        runs = {}
        for variant in (v for v in others if v.sha256 not in (None, full.sha256)):
            shown.stage(f"measuring without {variant.name}")
            pair = Field([_entrant(full, folder), _entrant(variant, folder)])
            no_peak = EnvironmentFailure("not measured.")
            runs[variant.name] = run_once(pair, no_peak, cases, macs, threads, plan, folder, shown.share)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine_facts(),
        "tools": {name: version(name) for name in ("edgevit", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxruntime")},
        "model": {"name": source.name, "sha256": model.sha256, "macs": macs},
        "threads": threads,
        "plan": {**asdict(plan), "checks": checks},
        "variants": _rows(variants, runs),
    }


def _entrant(variant: Variant, folder: Path) -> Entrant:
    from edgevit.bench.contenders.catalogue import WORKERS
    from edgevit.bench.contenders.judge import OWN_TOLERANCE
    from edgevit.bench.contenders.worker import Entrant

    runner, name = WORKERS / "edgevit_runner.py", variant.name
    return Entrant(name, name, Path(sys.executable), runner, folder / name, {}, OWN_TOLERANCE, variant.sha256)


def _rows(variants: Sequence[Variant], runs: Mapping[str, RunResult]) -> list[dict[str, Any]]:
    """What is kept of each variant, the whole compiler first."""
    rows = []
    for variant in variants:
        idea, run = IDEAS.get(variant.name), runs.get(variant.name)
        rows.append(
            {
                "name": variant.name,
                "group": idea.group if idea else None,
                "off": idea.off if idea else None,
                "artifact_sha256": variant.sha256,
                "kernels": variant.kernels,
                "workspace_bytes": variant.workspace,
                "status": "failed" if variant.failure else "same",
                "reason": variant.failure,
                **(_times(variant.name, run) if run else {}),
            }
        )
    return rows


def _times(name: str, run: RunResult) -> dict[str, Any]:
    """How a variant did beside the whole compiler, with every sample."""
    from edgevit.bench.contenders.ranking import paired, round_medians

    contenders = {contender.name: contender for contender in run.contenders}
    full, own = contenders[FULL], contenders[name]
    if full.status != "ok":
        raise EnvironmentFailure(f"the whole compiler's code cannot be measured: {full.reason}")
    times = {
        "status": own.status,
        "reason": own.reason,
        "max_error": own.max_error,
        "load": (run.load_before, run.load_after),
    }
    if own.status != "ok":
        return times
    return {
        **times,
        "median_seconds": own.median_seconds,
        "full_median_seconds": full.median_seconds,
        "to_full": paired(round_medians(own.rounds), round_medians(full.rounds)).model_dump(),
        "rounds": own.rounds,
        "full_rounds": full.rounds,
    }


_HEADINGS = ("without", "instead", "ms", "ms with", "× slower (95 %)", "kernel calls", "workspace MB")


def table(result: dict[str, Any]) -> tuple[str, list[tuple[str, ...]], list[str]]:
    """Title, rows of cells and notes: groups in order, in each what is worth most first."""
    full, *others = result["variants"]
    model, plan = result["model"], result["plan"]
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    groups = list(dict.fromkeys(row["group"] for row in others))
    timed = [row for row in others if row["status"] == "ok"]
    timed.sort(key=lambda row: (groups.index(row["group"]), -row["to_full"]["median"]))
    loads = [load for row in timed for load in row["load"]]
    title = (
        f"{model['name']}, {model['macs'] / 1e9:.2f} GMAC, {threads}: {plan['rounds']} rounds or more of "
        f"{plan['calls']} calls, load {min(loads, default=0):.2f} – {max(loads, default=0):.2f}"
    )
    same = [row["name"] for row in others if row["status"] == "same"]
    notes = [f"The whole compiler: {full['kernels']} kernel calls, {_megabytes(full)} MB workspace."]
    notes += [f"Without {row['name']}: {row['reason']}" for row in others if row["status"] in ("failed", "wrong")]
    if same:
        notes.append(f"The code is the same, byte for byte, without: {', '.join(same)}.")
    return title, [_cells(row) for row in timed], notes


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    ratio = row["to_full"]
    low, high = ratio["ci95_low"], ratio["ci95_high"]
    interval = f" ({low:.3f}–{high:.3f})" if low is not None else ""
    times = (f"{row[key] * 1e3:.2f}" for key in ("median_seconds", "full_median_seconds"))
    return row["name"], row["off"], *times, f"{ratio['median']:.3f}{interval}", str(row["kernels"]), _megabytes(row)


def _megabytes(row: dict[str, Any]) -> str:
    return f"{row['workspace_bytes'] / 1e6:.2f}"


def markdown(result: dict[str, Any]) -> str:
    """The table for a page."""
    title, rows, notes = table(result)
    machine = result["machine"]
    lines = [
        f"{result['date']}: {machine.get('cpu') or machine['arch']}, {machine['cores']} cores, {machine['os']}.",
        "",
        f"**{title}**",
        "",
        f"| {' | '.join(_HEADINGS)} |",
        "|---|---|" + "---:|" * (len(_HEADINGS) - 2),
        *(f"| {' | '.join(cells)} |" for cells in rows),
    ]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def show(result: dict[str, Any]) -> None:
    """The table for a terminal."""
    from rich.table import Table

    from edgevit.cli.output import console

    title, rows, notes = table(result)
    printer = console()
    if not printer.is_terminal:
        printer.width = 132
    grid = Table(title=title, title_justify="left")
    for position, heading in enumerate(_HEADINGS):
        grid.add_column(heading, justify="left" if position < 2 else "right", no_wrap=position != 1)
    for cells in rows:
        grid.add_row(*cells)
    printer.print(grid, markup=False)
    for note in notes:
        printer.print(note, soft_wrap=True, markup=False)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def ablate(
    model: Annotated[Path | None, typer.Argument(help="ONNX file; without one, the embedded model.")] = None,
    names: Annotated[str, typer.Option("--ideas", help="Comma-separated, of --list.")] = "all",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of every variant.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds at least.")] = 20,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Counted calls of each in a round.")] = 5,
    seconds: Annotated[
        float, typer.Option("--minimum-seconds", min=0.0, help="Seconds of counted calls of each, at least.")
    ] = 0.5,
    checks: Annotated[int, typer.Option("--checks", min=1, help="Inputs to check before; as many others after.")] = 2,
    output: Annotated[Path | None, typer.Option("--json", help="Write everything, with every sample, here.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table for a page.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Print the ideas and what happens without them.")] = False,
) -> None:
    """Measure what each of the compiler's ideas is worth on this machine."""
    if listing:
        for idea in IDEAS.values():
            print(f"{idea.group:9} {idea.name:15} {idea.off}")
        return
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.files import write_atomic

    ideas = _named(names)
    with _source(model) as source:
        result = measure(source, ideas, threads, Plan(rounds, calls, seconds), checks)
    if output is not None:
        write_atomic(output, json.dumps(result, indent=1, sort_keys=True) + "\n")
    if as_markdown:
        print(markdown(result), end="")
    else:
        show(result)


def _named(names: str) -> list[Idea]:
    if names == "all":
        return list(IDEAS.values())
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",")))
    unknown = [name for name in wanted if name not in IDEAS]
    if unknown:
        raise UserError(f"there is no idea {unknown[0]!r}.", advice="--list prints them.")
    return [IDEAS[name] for name in wanted]


@contextlib.contextmanager
def _source(model: Path | None) -> Iterator[Path]:
    """The model's file, or the embedded model's."""
    if model is not None:
        yield model
        return
    from edgevit.zoo import build

    with tempfile.TemporaryDirectory(prefix="edgevit-ablate-") as folder:
        path = Path(folder) / "mobilevit-xxs.onnx"
        path.write_bytes(build("mobilevit-xxs").SerializeToString())
        yield path


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run() -> None:
    """Entry point; exit codes as the ``edgevit`` command's."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name="python docs/ablate.py")
    except EdgevitError as error:
        from edgevit.cli.output import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; every process was ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    if sys.argv[1:2] == [_BUILD]:
        build(*sys.argv[2:])
    else:
        run()
