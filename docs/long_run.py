"""Measure a long check on a data set: ``python docs/long_run.py``.

Runs ``edgevit check --dataset`` on drawn scenes, a tenth of them and all: images per second of every stage, and the
largest resident memory. Then all of them again, killed in the middle and resumed, and compares the results.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

HEADER = (
    "| images | seconds | images/s | decoding | reference | device | judging | peak memory | load |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---|"
)
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Ended:
    """A check that ran.

    Attributes:
        result: what it printed; None if it was killed.
        peak: largest resident memory of its process, bytes.
        load: of the machine, before and after.
    """

    result: dict[str, Any] | None
    peak: int
    load: tuple[float, float]


def main(
    images: Annotated[int, typer.Option(min=20, help="Scenes.")] = 1000,
    size: Annotated[int, typer.Option(min=32, help="Pixels of their sides.")] = 256,
) -> None:
    """A table of the runs, and whether the resumed one is like the others."""
    import edgevit
    from edgevit.data import write
    from edgevit.zoo import embedded_model

    with tempfile.TemporaryDirectory(prefix="edgevit-long-run-") as temporary:
        folder = Path(temporary)
        source = folder / "model.onnx"
        source.write_bytes(embedded_model().SerializeToString())
        edgevit.compile(edgevit.load(source), "host", verify=False).save(folder / "model.edgevit")
        write(folder / "scenes", "cls", "test", images, size=size)
        print(HEADER, flush=True)
        for limit in (images // 10, images):
            ended = _check(folder, "--limit", str(limit))
            print(_row(ended), flush=True)
        whole = ended.result
        journal = ("--journal", str(folder / "journal.jsonl"))
        killed = _check(folder, *journal, kill_after=images // 2)
        resumed = _check(folder, *journal, "--resume")
        assert killed.result is None
        assert whole is not None
        assert resumed.result is not None
        same = resumed.result["scores"] == whole["scores"]
        run = resumed.result["run"]
        print(
            f"\nKilled with SIGKILL and resumed: {run['resumed']} of {run['images']} images were done before; "
            f"scores are {'the same' if same else 'NOT the same'} as those of the unbroken run."
        )
        if not same:
            raise typer.Exit(1)


def _check(folder: Path, *options: str, kill_after: int | None = None) -> Ended:
    """Run the command; kill it once so many images are in its journal."""
    command = [sys.executable, "-c", "from edgevit.cli.main import run; run()", "check", str(folder / "model.edgevit")]
    command += ["--dataset", str(folder / "scenes"), "--floor", "0", "--json", *options]
    before, peak = os.getloadavg()[0], 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            if kill_after is not None and _noted(folder / "journal.jsonl") >= kill_after:
                process.send_signal(signal.SIGKILL)
            time.sleep(_LOOK_SECONDS)
        assert process.stdout is not None
        text = process.stdout.read()
    if kill_after is None and process.returncode:
        raise typer.Exit(process.returncode)
    return Ended(json.loads(text) if text else None, peak, (before, os.getloadavg()[0]))


def _peak(pid: int) -> int:
    """Largest resident memory so far, bytes; getrusage would count that of the process it was forked from."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:")), 0)


def _noted(journal: Path) -> int:
    """Images in a journal; its first line is about the check."""
    return journal.read_bytes().count(b"\n") - 1 if journal.exists() else 0


def _row(ended: Ended) -> str:
    assert ended.result is not None
    run = ended.result["run"]
    rates = (run[name]["images_per_second"] for name in ("decoding", "reference_rate", "device_rate", "judging"))
    cells = (
        f"{run['images']:,}",
        f"{run['seconds']:.1f}",
        f"{ended.result['images_per_second']:.0f}",
        *(f"{rate:.0f}" for rate in rates),
        f"{ended.peak / 2**20:.0f} MiB",
        f"{ended.load[0]:.2f} → {ended.load[1]:.2f}",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    typer.run(main)
