"""The command: ``python -m edgevit.bench.contenders MODEL.onnx …``."""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.errors import EdgevitError, UserError

if TYPE_CHECKING:
    from edgevit.bench.contenders.contest import Settings
    from edgevit.bench.contenders.result import ContestResult, ModelResult

_INTERRUPTED = 130
_WIDTH = 132
"""Columns where no terminal says how many there are."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def contest(
    models: Annotated[list[Path] | None, typer.Argument(help="ONNX files.")] = None,
    folder: Annotated[Path | None, typer.Option("--models", help="A folder: all ONNX files in it.")] = None,
    peers: Annotated[str, typer.Option("--peers", help="Comma-separated; 'all', or '' for none.")] = "all",
    threads: Annotated[str, typer.Option("--threads", help="Numbers of threads, comma-separated.")] = "1",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds at least.")] = 20,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Counted calls of each in a round.")] = 5,
    minimum_seconds: Annotated[
        float, typer.Option("--minimum-seconds", min=0.0, help="Seconds of counted calls of each, at least.")
    ] = 1.0,
    pause: Annotated[
        float, typer.Option("--pause", min=0.0, help="Seconds of rest between turns, while spinning threads stop.")
    ] = 0.05,
    checks: Annotated[
        int, typer.Option("--checks", min=1, help="Inputs to check before measuring; as many others after.")
    ] = 5,
    artifacts: Annotated[
        list[Path] | None,
        typer.Option("--artifact", help="Compiled before: used for the model it was made of. May be repeated."),
    ] = None,
    with_edgevit: Annotated[bool, typer.Option("--edgevit/--no-edgevit", help="Whether edgevit takes part.")] = True,
    install: Annotated[
        bool, typer.Option("--install/--no-install", help="Whether missing peers may be installed, in the cache.")
    ] = True,
    output: Annotated[Path | None, typer.Option("--json", help="Write everything, with every sample, here.")] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print tables for a page.")] = False,
) -> None:
    """Measure edgevit and its peers in turns, each in a process of its own, and check what they compute.

    Missing peers are installed with pip, each into an environment of its own in edgevit's cache folder
    (EDGEVIT_CACHE_DIR moves it).
    """
    from edgevit.artifact import load_artifact
    from edgevit.bench.contenders.catalogue import peers_named
    from edgevit.bench.contenders.contest import Settings
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.files import write_atomic

    settings = Settings(
        peers=peers_named(peers),
        threads=_numbers(threads),
        plan=Plan(rounds, calls, minimum_seconds, pause),
        checks=checks,
        with_edgevit=with_edgevit,
        artifacts=[load_artifact(path) for path in artifacts or ()],
    )
    files = _files(models or [], folder)
    result = _result(settings, _measure(files, settings, install=install))
    if output is not None:
        write_atomic(output, json.dumps(result.model_dump(mode="json"), indent=1, sort_keys=True) + "\n")
    _show(result, as_markdown=as_markdown)


def _files(models: list[Path], folder: Path | None) -> list[Path]:
    files = [*models, *(sorted(folder.glob("*.onnx")) if folder else [])]
    if not files:
        raise UserError("there is no model to measure.", advice="Name ONNX files, or a folder of them with --models.")
    return files


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UserError(f"{text!r} is no list of numbers of threads.", advice="Write --threads 1,2.")
    return numbers


def _measure(files: list[Path], settings: Settings, *, install: bool) -> list[ModelResult]:
    from edgevit.bench.contenders.contest import run_model
    from edgevit.bench.contenders.field import environments, yardsticks
    from edgevit.cli.output import status, steps

    # A line that stays, not a spinner: what is installed must be seen, also in a log.
    pythons = environments(settings.peers, install=install, say=lambda text: status().print(text, soft_wrap=True))
    with steps() as shown, tempfile.TemporaryDirectory(prefix="edgevit-fma-") as folder:
        fma = yardsticks(Path(folder), settings.threads, shown.stage)
        return [run_model(file, settings, pythons, fma, say=shown.stage, progress=shown.share) for file in files]


def _result(settings: Settings, models: list[ModelResult]) -> ContestResult:
    from importlib.metadata import version

    from edgevit.bench.contenders.result import ContestResult
    from edgevit.device.usage import machine_facts

    return ContestResult(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=machine_facts(),
        tools={name: version(name) for name in ("edgevit", "apache-tvm", "apache-tvm-ffi", "onnx", "onnxsim", "numpy")},
        packages={peer.name: peer.packages for peer in settings.peers},
        reference=f"ONNX Runtime {version('onnxruntime')} without optimisations",
        rounds=settings.plan.rounds,
        calls=settings.plan.calls,
        minimum_seconds=settings.plan.minimum_seconds,
        pause_seconds=settings.plan.pause_seconds,
        checks=settings.checks,
        models=tuple(models),
    )


def _show(result: ContestResult, *, as_markdown: bool) -> None:
    from edgevit.bench.contenders.tables import markdown, rich_tables
    from edgevit.cli.output import console

    if as_markdown:
        print(markdown(result), end="")
        return
    printer = console()
    if not printer.is_terminal:
        printer.width = _WIDTH
    for part in rich_tables(result):
        printer.print(part, soft_wrap=isinstance(part, str), markup=False)


def run() -> None:
    """Entry point; exit codes as the ``edgevit`` command's."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name="python -m edgevit.bench.contenders")
    except EdgevitError as error:
        from edgevit.cli.output import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; every contender was ended", file=sys.stderr)
        sys.exit(_INTERRUPTED)


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run()
