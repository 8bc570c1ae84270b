"""Measure an artifact that serves several resolutions beside one artifact for each: ``python docs/resolutions.py``.

Prints, as Markdown, the bytes of both and how long each takes at every resolution: two processes in turns, in the same
rounds, their outputs compared with ONNX Runtime's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.bench.contenders.rounds import Plan
    from edgevit.bench.contenders.worker import Entrant
    from edgevit.model import Model

HEADER = (
    "| model | resolution | threads | ms, of several | ms, of its own | ratio (95 % interval) | error | load |\n"
    "|---|---|---:|---:|---:|---|---:|---|"
)


def main(
    names: Annotated[list[str], typer.Argument(help="Models of the zoo.")],
    sizes: Annotated[
        str, typer.Option(help="Sides of the images in pixels, joined by commas.")
    ] = "256,160,192,224,320",
    threads: Annotated[str, typer.Option(help="Numbers of threads, joined by commas.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds at least.")] = 10,
    calls: Annotated[int, typer.Option(min=1, help="Counted calls of each in a round.")] = 5,
    seconds: Annotated[float, typer.Option("--minimum-seconds", min=0.0, help="Of counted calls, at least.")] = 0.5,
) -> None:
    """One table of times, and the bytes below it."""
    from edgevit.bench.contenders.rounds import Plan

    plan, counts = Plan(rounds, calls, seconds), [int(count) for count in threads.split(",")]
    print(HEADER, flush=True)
    notes = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="edgevit-resolutions-") as temporary:
            folder = Path(temporary)
            models = _models(name, [int(size) for size in sizes.split(",")], folder)
            several, alone = _compile(models, folder)
            for index, model in enumerate(models):
                for count in counts:
                    row = _compare(model, index, several, alone[index], count, plan, folder)
                    print(f"| {name} | {several.manifest.resolutions[index].text} | {count} | {row} |", flush=True)
            apart = sum(len(artifact.library) for artifact in alone)
            notes.append(f"- {name}: {len(several.library):,} bytes in one, {apart:,} in {len(alone)}.")
    print("\n" + "\n".join(notes))


def _models(name: str, sizes: Sequence[int], folder: Path) -> list[Model]:
    """The same file loaded at every size."""
    import edgevit
    from edgevit.zoo import build

    path = folder / f"{name}.onnx"
    path.write_bytes(build(name, dynamic=True).SerializeToString())
    return [edgevit.load(path, shapes=(1, 3, size, size)) for size in sizes]


def _compile(models: Sequence[Model], folder: Path) -> tuple[Artifact, list[Artifact]]:
    """The artifact of all, and one for each, as folders. Outputs are checked when they are measured."""
    import edgevit

    several = edgevit.compile(models, "host", verify=False).save(folder / "several")
    alone = [
        edgevit.compile(model, "host", verify=False).save(folder / f"alone-{index}")
        for index, model in enumerate(models)
    ]
    return several, alone


def _compare(
    model: Model, index: int, several: Artifact, alone: Artifact, threads: int, plan: Plan, folder: Path
) -> str:
    """Times of both at one resolution: the cells of a row."""
    from edgevit.bench.contenders.contest import run_once
    from edgevit.bench.contenders.field import Field
    from edgevit.bench.contenders.judge import make_cases
    from edgevit.bench.contenders.ranking import paired, round_medians
    from edgevit.errors import EnvironmentFailure

    field = Field([_entrant("several", several, index), _entrant("alone", alone, 0)])
    cases = make_cases(model, folder, range(4))
    run = run_once(field, EnvironmentFailure("not measured."), cases, 0, threads, plan, folder)
    ours, theirs = run.contenders
    for contender in run.contenders:
        if contender.status != "ok":
            raise EnvironmentFailure(f"{contender.name} cannot be measured: {contender.reason}")
    ratio = paired(round_medians(ours.rounds), round_medians(theirs.rounds))
    interval = f" ({ratio.ci95_low:.3f}–{ratio.ci95_high:.3f})" if ratio.ci95_low and ratio.ci95_high else ""
    times = [1e3 * (contender.median_seconds or 0) for contender in run.contenders]
    cells = (
        *(f"{time:.2f}" for time in times),
        f"{ratio.median:.3f}{interval}",
        f"{max(contender.max_error or 0 for contender in run.contenders):.0e}",
        f"{run.load_before:.2f} → {run.load_after:.2f}",
    )
    return " | ".join(cells)


def _entrant(name: str, artifact: Artifact, resolution: int) -> Entrant:
    from edgevit.bench.contenders.catalogue import WORKERS
    from edgevit.bench.contenders.judge import OWN_TOLERANCE
    from edgevit.bench.contenders.worker import Entrant

    runner, config = WORKERS / "edgevit_runner.py", {"resolution": resolution}
    assert artifact.path is not None
    return Entrant(name, name, Path(sys.executable), runner, artifact.path, config, OWN_TOLERANCE, artifact.sha256)


if __name__ == "__main__":
    typer.run(main)
