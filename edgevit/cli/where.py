"""The options that say where an artifact runs, the same for every command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.cli.output import Steps
    from edgevit.device.session import Session

_PANEL = "Where"

Rpc = Annotated[str | None, typer.Option("--rpc", metavar="HOST:PORT", help="An RPC server: edgevit's or TVM's.")]
Tracker = Annotated[str | None, typer.Option("--tracker", metavar="HOST:PORT", help="A TVM tracker; needs --key.")]
Key = Annotated[str | None, typer.Option("--key", help="Which of the tracker's devices will do.")]
Ssh = Annotated[str | None, typer.Option("--ssh", metavar="HOST", help="A host that OpenSSH reaches.")]
Emulate = Annotated[bool, typer.Option("--emulate", help="Run under QEMU: proves correctness, never speed.")]
Local = Annotated[bool, typer.Option("--local", help="Run inside this process.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to reach the device.")]


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

    def connect(self, artifact: Artifact, steps: Steps) -> Session:
        """Open the session they ask for, else the target's own; else a process of its own on this machine."""
        from edgevit.device.connect import connect

        steps.stage("connect")
        target = artifact.manifest.target
        given = any((self.rpc, self.tracker, self.key, self.ssh, self.emulate, self.local))
        reach = self if given else target.reach
        return connect(
            rpc=reach.rpc,
            tracker=reach.tracker,
            key=reach.key if reach.tracker or given else None,
            ssh=reach.ssh,
            emulate=target if self.emulate else None,
            in_process=self.local,
            timeout=self.timeout,
            progress=steps.build,
        )
