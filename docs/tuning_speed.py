"""Measure how fast candidates are tried: ``python docs/tuning_speed.py MODEL.onnx``.

``edgevit tune`` runs again and again on this machine with the same trials, anew each time: with one and more builders,
with candidates one by one and in batches, through an RPC server (where building goes on beside measuring), and on a
Dask cluster of as many workers. Each run is a process of its own; the rate is that from its first trial to its last.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

_START_SECONDS = 60


@dataclass(frozen=True)
class Setting:
    """A way to run.

    Attributes:
        workers: processes that build; on a cluster, its workers.
        batch: choices of a library.
        where: ``local``, ``rpc`` (a server on this machine) or ``dask`` (that server, and a cluster).
    """

    workers: int
    batch: int
    where: str = "local"

    @property
    def text(self) -> str:
        """For the table."""
        place = {"local": "local", "rpc": "RPC server", "dask": "RPC server, Dask cluster"}[self.where]
        return f"{place} | {self.workers} | {self.batch}"


def settings(most: int) -> tuple[Setting, ...]:
    """Everything that is measured, for so many builders at most."""
    counts = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    return (
        Setting(1, 1),
        *(Setting(workers, 16) for workers in counts),
        *(Setting(workers, 16, "rpc") for workers in counts),
        Setting(most, 16, "dask"),
    )


def measure(model: Path, setting: Setting, trials: int, threads: int) -> dict[str, Any]:
    """One run of the command; what it prints as JSON."""
    with tempfile.TemporaryDirectory(prefix="edgevit-speed-") as folder, contextlib.ExitStack() as stack:
        options = ["--trials", str(trials), "--threads", str(threads), "--batch", str(setting.batch), "--json"]
        workers = str(setting.workers)
        if setting.where != "local":
            options += ["--rpc", stack.enter_context(_server())]
        if setting.where == "dask":
            workers = stack.enter_context(_cluster(setting.workers))
        command = ["tune", str(model), "--workers", workers, "--tuning-log", folder, *options]
        # Records of earlier runs would leave less to try.
        environment = {**os.environ, "EDGEVIT_TUNING_DIR": folder}
        done = subprocess.run([*_program(), *command], env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _program() -> list[str]:
    return [sys.executable, "-c", "from edgevit.cli.main import run; run()"]


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """Address of an RPC server of this machine's own."""
    command = [*_program(), "devices", "serve", "--port", "0", "--json"]
    quiet = subprocess.DEVNULL
    with _ended(subprocess.Popen(command, stdout=subprocess.PIPE, stdin=quiet, stderr=quiet, text=True)) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield f"{told['host']}:{told['port']}"


@contextlib.contextmanager
def _cluster(workers: int) -> Iterator[str]:
    """Address of the scheduler of a Dask cluster on this machine."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield str(cluster.scheduler_address)


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_START_SECONDS)


def markdown(rows: Sequence[tuple[Setting, dict[str, Any]]], model: str, trials: int) -> str:
    """The table for a page."""
    from edgevit.device.usage import machine_facts

    machine = machine_facts()
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    lines = [
        f"{date}: {machine.get('cpu') or machine['arch']}, {machine['cores']} cores; {model}, {trials} trials a run.",
        "",
        "| where | builders | batch | trials/s | seconds | measured |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for setting, found in rows:
        seconds = found["elapsed_seconds"]
        cells = (f"{found['trials'] / seconds:.2f}", f"{seconds:.0f}", str(found["measured"]))
        lines.append(f"| {setting.text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(
    model: Annotated[Path, typer.Argument(help="ONNX file.")],
    trials: Annotated[int, typer.Option(min=1, help="Of each run.")] = 160,
    builders: Annotated[int, typer.Option(min=1, help="At most.")] = os.cpu_count() or 1,
    threads: Annotated[int, typer.Option(min=1, help="To call kernels with.")] = 1,
) -> None:
    """One run for each setting, and a table for a page."""
    rows = []
    for setting in settings(builders):
        print(setting.text, file=sys.stderr, flush=True)
        rows.append((setting, measure(model, setting, trials, threads)))
    print(markdown(rows, model.stem, trials), end="")


if __name__ == "__main__":
    typer.run(main)
