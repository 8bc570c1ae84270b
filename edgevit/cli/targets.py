"""``edgevit targets``: the devices there are presets for, and what each preset says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.targets import Target


_SIZES = ("caches.l1d", "caches.l2", "caches.l3", "gpu.local_bytes")


def targets(
    name: Annotated[
        str | None, typer.Argument(help="A preset, an alias or a TOML file. Without it, all presets.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_toml: Annotated[
        bool, typer.Option("--toml", help="Print NAME as TOML, to start a file of your own from.")
    ] = False,
) -> None:
    """List targets, or show one."""
    from edgevit.cli.output import console, print_json
    from edgevit.errors import UserError
    from edgevit.targets import get_target, list_targets

    if as_toml and (name is None or as_json):
        raise UserError("--toml needs a NAME and goes without --json.", advice="Try: edgevit targets rpi4 --toml")
    if name is None:
        found = list_targets()
        if as_json:
            print_json([target.model_dump(mode="json") for target in found])
        else:
            console().print(_overview(found))
            console().print("NAME may also be the path of a TOML file: edgevit targets arm --toml > mine.toml")
        return
    target = get_target(name)
    if as_toml:
        # Not through the console, which would wrap long lines.
        typer.echo(target.to_toml(), nl=False)
    elif as_json:
        print_json({**target.model_dump(mode="json"), "fingerprint": target.fingerprint()})
    else:
        console().print(_details(target))


def _overview(found: list[Target]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("name", "aliases", "device", "cpu", "cores"):
        table.add_column(column, no_wrap=column in ("name", "cpu", "cores"))
    for target in found:
        row = (target.name, ", ".join(target.aliases), target.description, target.cpu, str(target.cores))
        table.add_row(*row)
    return table


def _details(target: Target) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_header=False, title=target.name, title_justify="left")
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    rows = _flatten(target.model_dump(mode="json", exclude={"name"}))
    for field, value in [*rows, ("fingerprint", target.fingerprint())]:
        # Text, not markup: a value may hold square brackets.
        table.add_row(field, Text(value))
    return table


def _flatten(content: dict[str, object], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in content.items():
        if isinstance(value, dict):
            rows += _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            rows.append((prefix + key, ", ".join(_plain(entry) for entry in value) or "-"))
        else:
            size = prefix + key in _SIZES and isinstance(value, int)
            rows.append((prefix + key, _size(value) if size and isinstance(value, int) else _plain(value)))
    return rows


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{key}={entry}" for key, entry in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None or value == "" else str(value)


def _size(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size >> 20} MiB" if size % (1 << 20) == 0 else f"{size / 1024:g} KiB"
