"""The options that say where an artifact runs, the same for every command."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.cli.output import Steps
    from edgevit.device.session import Session

_PANEL = "Where"

Rpc = Annotated[str | None, typer.Option("--rpc", metavar="HOST:PORT", help="An RPC server: edgevit's or TVM's.")]
Tracker = Annotated[str | None, typer.Option("--tracker", metavar="HOST:PORT", help="A TVM tracker; needs --key.")]
Key = Annotated[str | None, typer.Option("--key", help="Which of the tracker's devices will do.")]
Ssh = Annotated[str | None, typer.Option("--ssh", metavar="HOST", help="A host that OpenSSH reaches.")]
Adb = Annotated[
    str | None,
    typer.Option("--adb", metavar="[SERIAL]", help="A phone that adb reaches; without SERIAL: the only one."),
]
Emulate = Annotated[
    bool,
    typer.Option("--emulate", help="Run under QEMU, a GPU's kernels on this CPU: proves correctness, never speed."),
]
Local = Annotated[bool, typer.Option("--local", help="Run inside this process.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to reach the device.")]


class DeviceCommand(TyperCommand):
    """A command whose ``--adb`` needs no value; Typer has no such options.

    What follows ``--adb`` is its value unless it is another option or names a file.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse, after an empty value was given to each ``--adb`` without one."""
        return super().parse_args(ctx, spell_out_adb(args))


def spell_out_adb(arguments: list[str]) -> list[str]:
    """Command-line arguments in which every ``--adb`` carries its value: ``--adb=SERIAL``, or ``--adb=``."""
    spelled: list[str] = []
    rest = list(arguments)
    while rest:
        part = rest.pop(0)
        if part == "--":
            return [*spelled, part, *rest]
        if part == "--adb":
            part = f"--adb={rest.pop(0) if rest and _may_be_serial(rest[0]) else ''}"
        spelled.append(part)
    return spelled


def _may_be_serial(text: str) -> bool:
    # Not Path.exists(), which fails on what can be no name.
    return not (text.startswith("-") or text.endswith((".edgevit", ".onnx")) or os.path.exists(text))  # noqa: PTH110


@dataclass(frozen=True)
class Where:
    """The options as given."""

    rpc: str | None
    tracker: str | None
    key: str | None
    ssh: str | None
    emulate: bool
    local: bool
    timeout: float
    adb: str | None = None

    def connect(self, artifact: Artifact, steps: Steps, *, checked: bool = True) -> Session:
        """Open the session they ask for, else the target's own; else a process of its own on this machine.

        Args:
            artifact: what is to run.
            steps: told of the connection and of what must be built for it.
            checked: whether an emulated GPU's accesses to memory are checked.
        """
        from edgevit.device.connect import connect

        steps.stage("connect")
        target = artifact.manifest.target
        given = self.adb is not None or any((self.rpc, self.tracker, self.key, self.ssh, self.emulate, self.local))
        reach = self if given else target.reach
        return connect(
            rpc=reach.rpc,
            tracker=reach.tracker,
            key=reach.key if reach.tracker or given else None,
            ssh=reach.ssh,
            adb=self.adb,
            emulate=target if self.emulate else None,
            checked=checked,
            in_process=self.local,
            timeout=self.timeout,
            progress=steps.build,
        )
