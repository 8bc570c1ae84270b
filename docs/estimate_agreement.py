"""Compare the static model with measurements: ``python docs/estimate_agreement.py --tuning-log FOLDER MODEL.onnx``.

Prints Markdown. The log must hold kernel records of this target, of several choices for each kernel, such as
``edgevit tune`` writes; the models say what the records' kernels compute. Nothing is run on any device.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from edgevit.tuning.agreement import Agreement, Summary

HEADER = (
    "| kernels | tasks | choices | Kendall's tau: quartiles | pick / default | pick / best | faster, slower "
    "| used | used: pick / default |\n"
    "|---|---:|---:|---|---:|---:|---|---:|---:|"
)


def main(
    models: Annotated[list[Path], typer.Argument(help="ONNX files whose kernels the log holds.")],
    tuning_log: Annotated[Path, typer.Option(help="Folder or file of records.")],
    target: Annotated[str, typer.Option(help="That the records are of.")] = "host",
    threads: Annotated[int, typer.Option(min=1, help="That the kernels were called with.")] = 1,
    most: Annotated[int, typer.Option(min=8, help="Choices of each kernel to compile.")] = 24,
    rough: Annotated[bool, typer.Option(help="Estimate from loop nests alone, without compiling.")] = False,
    output: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
) -> None:
    """A table of the agreement by half, by family, and of all kernels."""
    import edgevit
    from edgevit.files import write_atomic
    from edgevit.tuning.agreement import agreement
    from edgevit.tuning.layers import log_files
    from edgevit.tuning.reading import Rejected, read_records
    from edgevit.tuning.static.model import StaticModel
    from edgevit.tuning.tasks import extract_tasks

    found = edgevit.get_target(target)
    tasks = extract_tasks({path.stem: edgevit.load(path) for path in models}, found, threads)
    entries = (entry for file in log_files(tuning_log) for entry in read_records(file))
    records = [entry for entry in entries if not isinstance(entry, Rejected)]
    model = StaticModel(found, threads)
    estimator = model.rough if rough else model.fine
    result = agreement(tasks, records, estimator, threads=threads, most=most)
    print(markdown(result))
    if output is not None:
        write_atomic(output, json.dumps(result.to_json(), indent=1, sort_keys=True) + "\n")


def markdown(result: Agreement) -> str:
    """The table for a page."""
    rows = [*result.halves.items(), *result.families.items(), ("all", result.all)]
    lines = [HEADER, *(_row(name, summary) for name, summary in rows), "", *(f"- {note}" for note in result.notes())]
    return "\n".join(lines)


def _row(name: str, summary: Summary) -> str:
    taus = " – ".join(f"{tau:.2f}" for tau in summary.tau) if summary.tau else "–"
    cells = (
        name,
        str(summary.tasks),
        str(summary.choices),
        taus,
        _ratio(summary.to_default),
        _ratio(summary.to_best),
        f"{summary.wins:.0%}, {summary.losses:.0%}",
        str(summary.acted),
        _ratio(summary.acted_to_default),
    )
    return f"| {' | '.join(cells)} |"


def _ratio(value: float | None) -> str:
    return f"{value:.3f}" if value is not None else "–"


if __name__ == "__main__":
    typer.run(main)
