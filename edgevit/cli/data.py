"""``edgevit data``: drawn scenes with exact labels, boxes and masks, written as a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def data(
    folder: Annotated[Path, typer.Argument(help="To make, with its parents; must not exist.")],
    task: Annotated[str, typer.Option(help="cls: a folder for each class; det: COCO; seg: VOC-style masks.")] = "cls",
    split: Annotated[str, typer.Option(help="train, val or test; they share no scene.")] = "val",
    count: Annotated[int, typer.Option("--count", help="Scenes.")] = 200,
    size: Annotated[str, typer.Option("--size", help="Pixels: 256, or height and width, 240x320.")] = "256",
    seed: Annotated[int, typer.Option("--seed", help="Of the whole data set.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write drawn scenes with exact labels, boxes and masks as a data set: the same on every machine."""
    from typing import cast

    from edgevit.cli.output import console, print_json, steps
    from edgevit.cli.sizes import image_size
    from edgevit.data import CLASSES, Split, Task, write

    pixels = image_size(size)
    with steps() as shown:
        shown.stage("draw scenes")
        # The call refuses what is neither task nor split.
        write(folder, cast("Task", task), cast("Split", split), count, size=pixels, seed=seed, progress=shown.share)
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "task": task,
                "split": split,
                "count": count,
                "size": list(pixels) if isinstance(pixels, tuple) else [pixels, pixels],
                "seed": seed,
                "classes": list(CLASSES),
            }
        )
        return
    sides = size if "x" in size else f"{size}x{size}"
    console().print(
        f"[bold]{folder}[/]  {count} scenes at {sides}, {len(CLASSES)} classes: {task}, {split}, seed {seed}",
        soft_wrap=True,
    )
