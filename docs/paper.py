"""Write docs/paper.md, the tables of the MobileViT paper beside what is counted and measured here: ``just paper``.

The models are built by ``edgevit.zoo`` with seeded weights, so their accuracy is always a published one. Parameters
and multiply-accumulates are counted. Latency is measured on this machine, or on the device that the options name; on
this machine in turns with ONNX Runtime, at the same number of threads.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from paper_tables import page, patch_key

from edgevit.cli.where import Key, Rpc, Ssh, Timeout, Tracker, Where
from edgevit.errors import EdgevitError, UserError

if TYPE_CHECKING:
    from edgevit.bench.result import BenchResult, Protocol
    from edgevit.cli.output import Steps
    from edgevit.zoo.catalogue import Patches

PAGE = Path(__file__).resolve().parent / "paper.md"
PEER = "onnxruntime"
_INTERRUPTED = 130


@dataclass(frozen=True)
class Line:
    """A model that is timed.

    Attributes:
        key: name in the catalogue, and for other patches than 2,2,2 a slash and those.
        model: name in the catalogue.
        patches: of MobileViT, where they are chosen.
    """

    key: str
    model: str
    patches: Patches | None = None


def lines() -> tuple[Line, ...]:
    """Everything that is timed: the lines of the paper's Table 3, then of its Table 6."""
    from edgevit.zoo.published import IPHONE_12, PATCH_SIZES

    rivals = [Line(phone.model, phone.model) for phone in IPHONE_12]
    ablation = [Line(patch_key(row.patches), "mobilevit-s", row.patches) for row in PATCH_SIZES]
    return (*rivals, *ablation)


def measure(
    chosen: Sequence[Line], target: str, where: Where, protocol: Protocol, threads: int, shown: Steps
) -> dict[str, BenchResult]:
    """Build, compile, check and time; results by key."""
    import edgevit
    from edgevit.zoo.catalogue import build

    results = {}
    with tempfile.TemporaryDirectory(prefix="edgevit-paper-") as folder:
        for line in chosen:
            path = Path(folder) / f"{line.key.replace('/', '-').replace(',', '')}.onnx"
            path.write_bytes(build(line.model, patches=line.patches).SerializeToString(deterministic=True))
            shown.stage(f"{line.key}: compile")
            model = edgevit.load(path)
            artifact = edgevit.compile(model, target, stage=_staged(shown, line.key), build_progress=shown.build)
            with where.connect(artifact, shown) as session:
                here = session.kind in ("process", "in-process")
                shown.stage(f"{line.key}: measure")
                results[line.key] = edgevit.bench(
                    artifact,
                    session,
                    protocol=protocol,
                    threads=threads,
                    against=PEER if here else None,
                    reference=path if here else None,
                    progress=shown.share,
                )
    return results


def _staged(shown: Steps, key: str) -> Callable[[str], None]:
    return lambda name: shown.stage(f"{key}: {name}")


def _chosen(only: Sequence[str]) -> list[Line]:
    known = {line.key: line for line in lines()}
    for key in only:
        if key not in known:
            raise UserError(f"there is no line {key!r} to measure.", advice=f"Choose from {' '.join(known)}.")
    return [line for key, line in known.items() if key in only] if only else list(known.values())


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def paper(
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write.")] = PAGE,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Measure this line alone: pit-ti, or mobilevit-s/8,4,2. Given again: this too."),
    ] = None,
    count_only: Annotated[bool, typer.Option("--count-only", help="Measure nothing.")] = False,
    target: Annotated[str, typer.Option("--target", "-t", help="What to compile for: the device's preset.")] = "host",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Of every runner.")] = 1,
    protocol: Annotated[str, typer.Option("--protocol", help="quick or mlperf, as of 'edgevit bench'.")] = "quick",
    samples: Annotated[int | None, typer.Option("--samples", min=1, help="Calls at least, instead.")] = None,
    seconds: Annotated[float | None, typer.Option("--seconds", min=0.0, help="Seconds at least, instead.")] = None,
    rpc: Rpc = None,
    tracker: Tracker = None,
    key: Key = None,
    ssh: Ssh = None,
    timeout: Timeout = 20.0,
    data: Annotated[Path | None, typer.Option("--json", help="Write every sample here too.")] = None,
) -> None:
    """Write the paper's tables beside what is counted and measured here."""
    from edgevit.bench.result import protocol_named
    from edgevit.cli.output import steps
    from edgevit.files import write_atomic

    chosen = [] if count_only else _chosen(only or [])
    plan = protocol_named(protocol, samples=samples, seconds=seconds)
    where = Where(rpc, tracker, key, ssh, False, False, timeout)
    with steps() as shown:
        results = measure(chosen, target, where, plan, threads, shown)
        shown.stage("count")
        text = page(results, " ".join(["just paper", *sys.argv[1:]]))
    write_atomic(output, text)
    if data is not None:
        samples_taken = {name: result.to_json() for name, result in results.items()}
        write_atomic(data, json.dumps(samples_taken, indent=1, sort_keys=True) + "\n")
    print(f"wrote {output}")


def _terminate(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def run() -> None:
    """Entry point; exit codes as the ``edgevit`` command's."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(prog_name="python docs/paper.py")
    except EdgevitError as error:
        from edgevit.cli.output import print_error

        print_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("interrupted; the page is as it was", file=sys.stderr)
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    run()
