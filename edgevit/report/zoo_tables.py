"""The zoo's models as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE, SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from edgevit.model.metadata import Metadata


def pixels(image_size: Sequence[int]) -> str:
    """Height and width as one word."""
    return "x".join(map(str, image_size))


def zoo_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Every model and task, a row each; rows as ``edgevit zoo --json`` prints them."""
    # As narrow as 80 columns ask.
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in ("name", "task", "input", "parameters", "MACs", "accuracy", "source"):
        table.add_column(column, no_wrap=True, justify="right" if column in ("parameters", "MACs") else "left")
    for row in rows:
        measure, figure = next(iter(row["published"]["accuracy"].items()))
        table.add_row(
            row["name"],
            row["task"],
            pixels(row["image_size"]),
            f"{row['parameters'] / 1e6:.2f} M",
            f"{row['macs'] / 1e9:.2f} G",
            f"{measure} {figure['text']}",
            figure["source"],
        )
    return table


def model_table(row: dict[str, Any]) -> Table:
    """One model for one task, with its metadata and every published figure."""
    about = Metadata.model_validate(row["about"])
    table = Table(
        box=SIMPLE, show_header=False, title=f"{row['title']}, {about.task} ({row['task']})", title_justify="left"
    )
    table.add_column("field", style="bold", no_wrap=True)
    table.add_column("value", overflow="fold")
    lines = [
        ("input", f"pixel_values 1x3x{pixels(row['image_size'])}"),
        ("classes", str(row["classes"]) + (f": {', '.join(about.labels[:3])}, …" if about.labels else ", no labels")),
        ("parameters", f"{row['parameters']:,}"),
        ("MACs", f"{row['macs']:,}"),
        ("preprocessing", about.preprocessing.sentence() if about.preprocessing else "-"),
    ]
    if about.detection:
        boxes = sum(level.height * level.width * len(level.sizes) for level in about.detection.anchors)
        lines.append(("anchors", f"{boxes:,} on {len(about.detection.anchors)} feature maps"))
    for what, figure in _published(row):
        at = f" at {figure['image_size']} pixels" if figure["image_size"] else ""
        lines.append((f"published {what}", f"{figure['text']}{at} ({figure['source']}, {figure['place']})"))
        if figure["why"]:
            lines.append(("", figure["why"]))
    for field, value in lines:
        table.add_row(field, Text(value))
    return table


def _published(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    known = row["published"]
    if known is None:
        return []
    return [
        ("parameters", known["parameters"]),
        *(("MACs", figure) for figure in known["macs"]),
        *known["accuracy"].items(),
    ]
