"""The command line: parse, call, print. Each command is a file of this folder."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from edgevit.cli.bench import bench
from edgevit.cli.check import check
from edgevit.cli.compile import compile_command
from edgevit.cli.data import data
from edgevit.cli.demo import demo
from edgevit.cli.devices import devices
from edgevit.cli.info import info
from edgevit.cli.package import package
from edgevit.cli.records import records
from edgevit.cli.targets import targets
from edgevit.cli.tune import tune
from edgevit.cli.where import DeviceCommand
from edgevit.cli.zoo import zoo
from edgevit.errors import EdgevitError

app = typer.Typer(
    name="edgevit",
    help="Compile, check and benchmark mobile vision transformers on phones and boards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(demo)
app.command()(info)
app.command()(targets)
app.command()(zoo)
app.command()(data)
app.command("compile")(compile_command)
app.command(cls=DeviceCommand)(tune)
app.command(cls=DeviceCommand)(bench)
app.command(cls=DeviceCommand)(check)
app.command()(package)
app.add_typer(devices, name="devices")
app.add_typer(records, name="records")

_INTERRUPTED = 130


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"edgevit {version('edgevit')}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    # Errors are printed outside of Typer, where --debug is looked up again.
    pass


def run() -> None:
    """Entry point: exit codes are 0 good, 1 the answer is no, 2 the user's mistake, 3 device or toolchain."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app()
    except EdgevitError as error:
        if "--debug" in sys.argv:
            raise
        from edgevit.cli.output import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; nothing was left half-written", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output went away (| head): not an error of ours.
        sys.stderr.close()
        sys.exit(0)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    # As Ctrl-C: temporary files are removed on the way out.
    raise KeyboardInterrupt
