"""``edgevit info``: what a model is, and whether it can be compiled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.preprocess import Preprocess

if TYPE_CHECKING:
    from rich.table import Table

    from edgevit.model import ModelReport
    from edgevit.model.metadata import Metadata


def info(
    model: Annotated[Path, typer.Argument(help="An ONNX file.", show_default=False)],
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Shape of an input the file leaves open: 1x3x256x256, or NAME=1x3x256x256."),
    ] = None,
    preprocess: Preprocess = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Describe a model; exit code 1 if it holds operators the compiler cannot take."""
    from edgevit.cli.output import console, print_json
    from edgevit.compiler.roads import roads
    from edgevit.errors import CheckFailed
    from edgevit.model import describe, load, parse_shapes

    loaded = load(model, shapes=parse_shapes(shape or []), audit=False, preprocess=preprocess)
    report = describe(loaded)
    found = roads(loaded) if report.compilable else None
    if as_json:
        said = {"macs": found.macs, "rest": found.rest} if found else None
        print_json({**report.model_dump(mode="json"), "compilable": report.compilable, "roads": said})
    else:
        for table in _tables(report):
            console().print(table)
        if found:
            console().print(f"  [bold]MACs by kernel family[/]  {found.sentence()}", soft_wrap=True)
    if not report.compilable:
        raise CheckFailed(
            f"{len(report.unsupported)} nodes have operators the compiler cannot take.",
            where=str(model),
            advice="Export the model with simpler operators or another opset.",
        )


def _tables(report: ModelReport) -> list[Table]:
    return [_summary(report), _operators(report), *([_unsupported(report)] if report.unsupported else [])]


def _summary(report: ModelReport) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_header=False)
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    rows = [
        ("model", report.source or "in memory"),
        ("sha256", report.sha256),
        ("task" if report.about.task else "task (guess)", report.task),
        *_stated(report.about),
        *((f"input {spec.name}", f"{_shape(spec.shape)} {spec.dtype}") for spec in report.inputs),
        *((f"output {spec.name}", f"{_shape(spec.shape)} {spec.dtype}") for spec in report.outputs),
        ("opset", str(report.opset)),
        ("parameters", f"{report.parameters:,}"),
        ("MACs", f"{report.macs:,}"),
        ("constants", f"{report.initializer_bytes:,} bytes"),
        ("activations", f"{report.activation_bytes:,} bytes in all"),
        ("targets to try", ", ".join(report.suggested_targets) or "-"),
        *(("note", note) for note in report.notes),
    ]
    for field, value in rows:
        # Text, not markup: names come from the file and may hold square brackets.
        table.add_row(Text(field), Text(value))
    return table


def _stated(about: Metadata) -> list[tuple[str, str]]:
    """Rows for what the model says of itself."""
    rows = []
    if about.labels:
        names = ", ".join(about.labels[:3])
        rows.append(("labels", f"{len(about.labels)}: {names}{', …' if len(about.labels) > 3 else ''}"))
    if about.preprocessing:
        rows.append(("preprocessing", about.preprocessing.sentence()))
    if about.detection:
        rows.append(("detection", about.detection.sentence()))
    return rows


def _operators(report: ModelReport) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column("operator")
    table.add_column("nodes", justify="right")
    for operator, count in report.operators.items():
        table.add_row(Text(operator), str(count))
    return table


def _unsupported(report: ModelReport) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD)
    table.add_column("cannot be compiled: node", overflow="fold")
    table.add_column("operator")
    for found in report.unsupported:
        table.add_row(Text(found.node), Text(found.operator))
    return table


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
