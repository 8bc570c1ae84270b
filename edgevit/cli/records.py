"""``edgevit records``: look after tuning records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from edgevit.target_schema import Target
    from edgevit.tuning.maintenance import Status
    from edgevit.tuning.reading import Rejected

records = typer.Typer(
    help="Count, export, merge and prune tuning records.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_SHOWN_LINES = 20

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Target = Annotated[str | None, typer.Option("--target", "-t", help="Only this target's own records.")]
_Folder = Annotated[Path | None, typer.Option("--tuning-log", help="Folder of further records.")]


@records.command("status")
def status_command(target: _Target = None, tuning_log: _Folder = None, as_json: _Json = False) -> None:
    """Count the records that edgevit knows, by layer and target."""
    from edgevit.cli.output import console, print_json
    from edgevit.tuning.layers import user_folder
    from edgevit.tuning.maintenance import status

    chosen = _target(target)
    found = status(chosen, tuning_log)
    near = _relatives(chosen)
    if as_json:
        print_json({**_status_json(found), "relatives": near, "user_folder": str(user_folder())})
        return
    printer = console()
    if found.holdings:
        printer.print(_table(found))
    else:
        printer.print("no records")
    printer.print(f"new records go to {user_folder()}", soft_wrap=True)
    if chosen:
        printer.print(f"{chosen.name} borrows from: {', '.join(near) or 'nobody'}", soft_wrap=True)
    if found.stale:
        printer.print(f"{found.stale} of other kernel versions, which are not used", soft_wrap=True)
    _print_rejected(found.rejected)


@records.command("export")
def export_command(
    file: Annotated[Path, typer.Argument(help="The log to write; one that is there is replaced.")],
    target: _Target = None,
    tuning_log: _Folder = None,
    as_json: _Json = False,
) -> None:
    """Write all records that edgevit knows into one log, in the order of their workloads."""
    from edgevit.cli.output import console, print_json
    from edgevit.tuning.maintenance import export

    count = export(file, _target(target), tuning_log)
    if as_json:
        print_json({"file": str(file), "records": count})
    else:
        console().print(f"{count} records in {file}", soft_wrap=True)


@records.command("merge")
def merge_command(
    sources: Annotated[list[Path], typer.Argument(help="Logs, or folders of logs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Log to append to; made if there is none.")],
    as_json: _Json = False,
) -> None:
    """Append the records of logs to another, each once, oldest first."""
    from edgevit.cli.output import console, print_json
    from edgevit.tuning.maintenance import merge

    done = merge(sources, output)
    if as_json:
        rejected = [str(line) for line in done.rejected]
        print_json({"added": done.added, "file": str(output), "known": done.known, "rejected": rejected})
        return
    console().print(f"{done.added} records added to {output}, {done.known} were there before", soft_wrap=True)
    _print_rejected(done.rejected)


@records.command("prune")
def prune_command(
    logs: Annotated[
        list[Path] | None, typer.Argument(help="Logs, or folders of logs; the user's own if none is given.")
    ] = None,
    target: _Target = None,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Choices to keep of each workload, device and number of threads.")
    ] = 3,
    as_json: _Json = False,
) -> None:
    """Drop records that decide nothing: slower, repeated, stale; set aside lines that are no records.

    Choices known to fail stay recorded, so that nobody tries them again.
    """
    from edgevit.cli.output import console, print_json
    from edgevit.tuning.layers import user_folder
    from edgevit.tuning.maintenance import prune

    chosen = _target(target)
    results: list[dict[str, Any]] = []
    # The user's own folder comes into being with the first record.
    chosen_logs = logs or [folder for folder in (user_folder(),) if folder.is_dir()]
    for log in prune(chosen_logs, keep=keep, target=chosen):
        aside = [str(line) for line in log.set_aside]
        results.append(
            {"dropped": dict(log.dropped), "file": str(log.file), "kept": log.kept, "set_aside": aside},
        )
        if not as_json:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(log.dropped.items())) or "none"
            console().print(f"{log.file}: {log.kept} records kept; dropped: {reasons}", soft_wrap=True)
            _print_rejected(log.set_aside, "set aside")
    if as_json:
        print_json({"logs": results})
    elif not results:
        console().print("no logs")


def _target(name: str | None) -> Target | None:
    from edgevit.targets import get_target

    return get_target(name) if name else None


def _relatives(target: Target | None) -> list[str]:
    from edgevit.tuning.relatives import relatives

    return [other.name for other in relatives(target)] if target else []


def _status_json(found: Status) -> dict[str, Any]:
    holdings = [
        {
            "counts": dict(held.counts),
            "devices": sorted(held.devices),
            "layer": held.layer.label,
            "newest": held.newest,
            "target": held.target,
            "workloads": len(held.workloads),
        }
        for held in found.holdings
    ]
    return {"holdings": holdings, "rejected": [str(line) for line in found.rejected], "stale": found.stale}


def _table(found: Status) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from edgevit.cli.output import shown

    kinds = ("measured", "borrowed", "estimated", "failure", "tvm")
    table = Table(box=SIMPLE_HEAD)
    for column in ("layer", "target"):
        table.add_column(column)
    for column in ("workloads", *kinds):
        table.add_column(column, justify="right")
    table.add_column("newest")
    for held in found.holdings:
        counts = [str(held.counts[kind]) for kind in kinds]
        table.add_row(held.layer.label, shown(held.target), str(len(held.workloads)), *counts, held.newest[:10])
    return table


def _print_rejected(lines: Sequence[Rejected], done: str = "ignored") -> None:
    from edgevit.cli.output import console, shown

    for line in lines[:_SHOWN_LINES]:
        console().print(f"[yellow]{done}[/] {shown(str(line))}", soft_wrap=True)
    if len(lines) > _SHOWN_LINES:
        console().print(f"[yellow]{done}[/] {len(lines) - _SHOWN_LINES} more lines", soft_wrap=True)
