"""``edgevit devices``: find what is wrong with a device or the tools, list devices, be one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.phones import list_attached, refuse_beside_phones, serve_phones
from edgevit.cli.where import DeviceCommand

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.device.doctor import Finding
    from edgevit.device.listing import KeyStatus

devices = typer.Typer(
    help="Diagnose devices and tools, list a tracker's devices, make this machine a device.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_FAILED = 3
_DANGER = (
    "whoever reaches this port controls this machine: TVM's protocol has no password and no encryption. "
    "Listen on 127.0.0.1 and forward the port through ssh where others share the network."
)
_MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[bold red]error[/]"}

_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@devices.command(cls=DeviceCommand)
def doctor(
    rpc: Annotated[str | None, typer.Option("--rpc", metavar="HOST:PORT", help="Look at this RPC server too.")] = None,
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Look at this tracker and its devices.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only this key's devices of the tracker.")] = None,
    ssh: Annotated[str | None, typer.Option("--ssh", metavar="HOST", help="See whether ssh logs in there.")] = None,
    adb: Annotated[
        str | None,
        typer.Option("--adb", metavar="[SERIAL]", help="Look at this phone; without SERIAL: the only one."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Check tools, ports, room and devices, and say what to do. Exits 3 if something has to be mended."""
    from edgevit.cli.output import console, print_json, steps
    from edgevit.device.doctor import diagnose
    from edgevit.errors import UserError

    if key is not None and tracker is None:
        raise UserError("--key names a tracker's devices.", advice="Give --tracker HOST:PORT too.")
    with steps() as shown:
        shown.stage("examine")
        findings = diagnose(
            rpc=rpc,
            tracker=tracker,
            key=key,
            ssh=ssh,
            adb=adb,
            progress=lambda done, total: shown.share(done / total),
        )
    errors = sum(finding.status == "error" for finding in findings)
    warnings = sum(finding.status == "warning" for finding in findings)
    if as_json:
        listed = [finding.model_dump(mode="json") for finding in findings]
        print_json({"errors": errors, "findings": listed, "ok": errors == 0, "warnings": warnings})
    else:
        console().print(_findings_table(findings))
        console().print(_verdict(errors, warnings))
    if errors:
        raise typer.Exit(_FAILED)


@devices.command("list")
def list_command(
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="The tracker to ask, instead of adb.")
    ] = None,
    as_json: _Json = False,
) -> None:
    """List the phones that adb reaches, or the devices a tracker knows, by key."""
    from edgevit.cli.output import console, print_json
    from edgevit.device.connect import TRACKER_PORT, parse_address
    from edgevit.device.listing import list_devices

    if tracker is None:
        list_attached(as_json)
        return
    host, port = parse_address(tracker, TRACKER_PORT)
    known = list_devices(host, port)
    if as_json:
        print_json({"keys": [entry.model_dump(mode="json") for entry in known], "tracker": f"{host}:{port}"})
    elif known:
        console().print(_devices_table(known))
    else:
        console().print(
            f"no device is registered; start one: edgevit devices serve --tracker {host}:{port} --key KEY",
            soft_wrap=True,
        )


@devices.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=0,
            max=65535,
            help="First port to try; 0: any free one. Default: 9090; for the tracker of --adb-all 9190.",
        ),
    ] = None,
    port_end: Annotated[
        int | None, typer.Option("--port-end", min=1, max=65536, help="Try the ports below this one.")
    ] = None,
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Register with this tracker.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Name clients ask the tracker for; of --adb-all: a prefix."),
    ] = None,
    custom_addr: Annotated[
        str | None, typer.Option("--custom-addr", help="Address the tracker gives to clients.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="Pretend to be this device, under QEMU where need be.")
    ] = None,
    stock: Annotated[bool, typer.Option("--stock", help="Run TVM's Python server, not edgevit's.")] = False,
    adb_all: Annotated[
        bool, typer.Option("--adb-all", help="Serve every phone that adb reaches instead, at a tracker of its own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the port as one line of JSON.")] = False,
) -> None:
    """Make this machine a device, or all attached phones, until Ctrl-C."""
    from edgevit.cli.output import status, steps
    from edgevit.device.serve import ForegroundServer, ServeOptions, choose_server, is_loopback
    from edgevit.targets import get_target

    if adb_all:
        beside = {"--tracker": tracker, "--custom-addr": custom_addr, "--target": target, "--port-end": port_end}
        refuse_beside_phones([*(name for name, value in beside.items() if value), *["--stock"] * stock], host)
        serve_phones(key, 9190 if port is None else port, as_json)
        return
    port = 9090 if port is None else port
    arguments = ServeOptions(host, port, port_end, tracker, key, custom_addr).arguments()
    with steps() as shown:
        shown.stage("prepare the server")
        kind = choose_server(get_target(target) if target else None, stock=stock, progress=shown.build)
    if not is_loopback(host):
        status().print(f"[bold yellow]warning:[/] {_DANGER}", soft_wrap=True)
    try:
        with ForegroundServer([*kind.command, *arguments]) as server:
            note = "; emulated: its times mean nothing" if kind.emulated else ""
            _announce(f"{kind.label} {server.event.get('version', '')}".strip() + note, server.event, as_json)
            server.wait()
    except KeyboardInterrupt:
        status().print("stopped")


@devices.command()
def tracker(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any free one.")] = 9190,
    as_json: Annotated[bool, typer.Option("--json", help="Announce the port as one line of JSON.")] = False,
) -> None:
    """Run a TVM tracker, which hands devices to clients, until Ctrl-C."""
    from edgevit.cli.output import status
    from edgevit.device.serve import is_loopback
    from edgevit.device.serve_tracker import run_tracker

    if not is_loopback(host):
        status().print(f"[bold yellow]warning:[/] {_DANGER}", soft_wrap=True)
    try:
        run_tracker(
            host,
            port,
            lambda bound: _announce("tracker", {"event": "listening", "host": host, "port": bound}, as_json),
        )
    except KeyboardInterrupt:
        status().print("stopped")


def _announce(what: str, event: dict[str, object], as_json: bool) -> None:
    """Say where a server listens; at once, for a reader at the other end of a pipe."""
    import json

    if as_json:
        print(json.dumps(event, sort_keys=True), flush=True)
    else:
        print(f"listening on {event['host']}:{event['port']} ({what}); Ctrl-C ends it", flush=True)


def _findings_table(findings: list[Finding]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column("what", overflow="fold")
    table.add_column("found", overflow="fold", ratio=1)
    for finding in findings:
        advice = f"\n[dim]→[/] {escape(finding.advice)}" if finding.advice else ""
        table.add_row(_MARKS[finding.status], escape(finding.name), escape(finding.detail) + advice)
    return table


def _verdict(errors: int, warnings: int) -> str:
    if not errors and not warnings:
        return "[green]nothing is wrong[/]"
    counts = [
        f"{count} {word}{'s' * (count > 1)}" for count, word in ((errors, "error"), (warnings, "warning")) if count
    ]
    return f"[bold]{', '.join(counts)}[/]"


def _devices_table(known: list[KeyStatus]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for column in ("key", "devices", "free", "busy", "waiting"):
        table.add_column(column, justify="left" if column in ("key", "devices") else "right")
    for entry in known:
        counts = (str(entry.free), str(entry.busy), str(entry.pending))
        table.add_row(escape(entry.key), escape("\n".join(entry.devices)) or "-", *counts)
    return table
