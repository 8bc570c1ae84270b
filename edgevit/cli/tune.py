"""``edgevit tune``: search for kernels' best choices on a device, and keep what is found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit.cli.where import Emulate, Key, Timeout, Tracker

_MINUTES = 30.0
_INTERRUPTED = 130


def tune(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL...", help="ONNX files; kernels that several share are tuned once."),
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="A name from 'edgevit targets', or a TOML file. Default: host.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="1x3x256x256 or INPUT=1x3x256x256, for dynamic inputs. Given again: all."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="Hard limit of the run; default: 30, or none with --trials.")
    ] = None,
    trials: Annotated[int | None, typer.Option("--trials", min=1, help="Choices to try at most.")] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="To call kernels with; default: the target's cores.")
    ] = None,
    workers: Annotated[
        str | None,
        typer.Option("--workers", help="Processes that build here, or a Dask scheduler: tcp://HOST:PORT. Default: 1."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Choices that become one library.")] = 16,
    tuning_log: Annotated[
        Path | None,
        typer.Option("--tuning-log", help="Folder for records, as TARGET/records.jsonl; default: the user's own."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from earlier runs on this device, or measure anew.")
    ] = True,
    local: Annotated[
        bool, typer.Option("--local", help="In a process of its own on this machine: the default.")
    ] = False,
    rpc: Annotated[
        list[str] | None,
        typer.Option("--rpc", metavar="HOST:PORT", help="An RPC server. Given again: several devices, all alike."),
    ] = None,
    tracker: Tracker = None,
    key: Key = None,
    ssh: Annotated[
        list[str] | None,
        typer.Option("--ssh", metavar="HOST", help="A host that OpenSSH reaches. Given again: several, all alike."),
    ] = None,
    adb: Annotated[
        list[str] | None,
        typer.Option("--adb", metavar="[SERIAL]", help="A phone that adb reaches. Given again: several, all alike."),
    ] = None,
    emulate: Emulate = False,
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="Devices to use at most; default: all that are free.")
    ] = None,
    timeout: Timeout = 20.0,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Run nothing: rank choices by a model of the target's core.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw the models' latency over the trials: .svg, .png or .pdf.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Only count the records there are.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FILE", help="Only write all records there are into one log.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Only take over the records of logs, named as MODEL.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Only drop records that decide nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Search for the best choices of MODEL's kernels on a device, and keep them for 'edgevit compile'.

    Every result is written the moment it is known: a run that ended, in whatever way, goes on with the same command.
    Under --emulate only the path is tried: nothing is timed, and no latency is recorded.
    """
    from edgevit.cli.tuning_estimate import estimate_choices
    from edgevit.cli.tuning_run import Request, keep_records, run_tuning

    keeping = {"--status": status, "--export": export is not None, "--merge": merge, "--prune": prune}
    if any(keeping.values()):
        keep_records([name for name, given in keeping.items() if given], models, target, export, tuning_log, as_json)
        return
    request = Request(
        models=tuple(models or ()),
        target=target or "host",
        shape=tuple(shape or ()),
        minutes=_MINUTES if minutes is None and trials is None else minutes,
        trials=trials,
        threads=threads,
        workers=workers,
        batch=batch,
        folder=tuning_log,
        resume=resume,
        plot=plot,
        as_json=as_json,
    )
    if estimate:
        places = {
            "--rpc": rpc,
            "--tracker": tracker,
            "--ssh": ssh,
            "--adb": adb,
            "--emulate": emulate,
            "--local": local,
        }
        beside = {**places, "--workers": workers, "--devices": devices, "--plot": plot}
        estimate_choices(request, [name for name, given in beside.items() if given])
        return
    where = {
        "rpc": rpc or (),
        "tracker": tracker,
        "key": key,
        "ssh": ssh or (),
        "adb": adb or (),
        "emulate": emulate,
        "local": local,
    }
    if run_tuning(request, where, devices, timeout) == "interrupted":
        raise typer.Exit(_INTERRUPTED)
