"""``edgevit zoo``: the models that edgevit can build, their figures beside published ones, and their ONNX files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edgevit.zoo.arguments import ImageSize
    from edgevit.zoo.catalogue import Built, Entry, Patches


def zoo(
    name: Annotated[str | None, typer.Argument(help="A model. Without it, all models.")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the model here; a folder gets NAME.onnx or NAME-TASK.onnx."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="cls, det or seg: classification, SSDLite detection, DeepLabv3 segmentation. Default: cls."),
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="Pixels of the input: 320, or height and width, 240x320.")
    ] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=1, help="Classes, a background included.")] = None,
    patches: Annotated[
        str | None, typer.Option("--patches", help="MobileViT's patches at strides 8, 16 and 32: 8,4,2.")
    ] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Leave height and width of the input open.")] = False,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="Trained weights: .safetensors, .pt, .pth or .bin, read without running them."),
    ] = None,
    trained: Annotated[
        bool,
        typer.Option("--trained", help="Weights that ship: of mobilevit-xxs, trained on the scenes of 'edgevit data'."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random weights, where none are given.")] = 0,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Text file of class names, one a line, to store in the model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the models that can be built, show one, or with --output write one as ONNX."""
    from edgevit.cli.output import console, print_json
    from edgevit.cli.sizes import image_size
    from edgevit.report.zoo_tables import model_table, pixels, zoo_table
    from edgevit.zoo.catalogue import CATALOGUE, find

    only_written = {
        "--dynamic": dynamic,
        "--weights": weights is not None,
        "--trained": trained,
        "--seed": seed != 0,
        "--labels": labels is not None,
    }
    only_named = {
        "--output": output is not None,
        "--task": task is not None,
        "--size": size is not None,
        "--classes": classes is not None,
        "--patches": patches is not None,
    }
    if name is None:
        _refuse({**only_named, **only_written}, "a NAME", "edgevit zoo mobilevit-s --task det -o mobilevit-s-det.onnx")
        rows = [row for entry in CATALOGUE.values() for row in _rows(entry, list(entry.tasks))]
        if as_json:
            print_json(rows)
        else:
            console().print(zoo_table(rows))
            console().print("Parameters and MACs are counted; accuracy is what its source published.", soft_wrap=True)
        return
    entry = find(name)
    extents, sides = image_size(size) if size else None, _sides(patches)
    if output is None:
        _refuse(only_written, "--output", f"edgevit zoo {name} -o {name}.onnx {' '.join(_given(only_written))} …")
        rows = _rows(entry, [task] if task else list(entry.tasks), extents, classes, sides, with_about=True)
        if as_json:
            print_json(rows)
        else:
            for row in rows:
                console().print(model_table(row))
            console().print(f"To write the file: edgevit zoo {name} --task {rows[0]['task']} -o .", soft_wrap=True)
        return
    if trained:
        others = {name: only_written[name] for name in ("--weights", "--seed", "--labels")}
        others |= {name: only_named[name] for name in ("--classes", "--patches")}
        built = _trained(name, task or "cls", extents, others, dynamic=dynamic)
    else:
        from edgevit.model.metadata_labels import read_labels
        from edgevit.zoo.catalogue import make

        built = make(
            name,
            task=task or "cls",
            image_size=extents,
            classes=classes,
            patches=sides,
            seed=seed,
            dynamic=dynamic,
            weights=weights,
            labels=read_labels(labels).names if labels else None,
        )
    written = _write(built, output)
    if as_json:
        print_json({**written, "seed": None if weights or trained else seed, "trained": _training(built, trained)})
        return
    side = pixels(built.image_size)
    shape, at = ("1x3x open height and width", f" at {side}") if dynamic else (f"1x3x{side}", "")
    for line in (
        f"[bold]{written['path']}[/]  {entry.title}, {built.about.task}, {built.classes} classes, {shape}",
        f"{written['parameters']:,} parameters, {written['macs']:,} MACs{at}, {written['bytes']:,} bytes; "
        + _origin(built, weights, trained, seed),
        f"sha256 {written['sha256']}",
    ):
        console().print(line, soft_wrap=True)


def _trained(name: str, task: str, size: ImageSize | None, others: dict[str, bool], *, dynamic: bool) -> Built:
    """The model whose weights ship.

    Raises:
        UserError: an option contradicts that, or none ship for that model and task.
    """
    from edgevit.errors import UserError
    from edgevit.zoo.trained import PLANS, facts, make_trained

    if given := _given(others):
        raise UserError(
            f"{', '.join(given)} and --trained contradict each other: the weights settle that.",
            advice="Leave out one of them.",
        )
    if task in PLANS and name != facts(task).model:
        raise UserError(
            f"no trained weights of {name} ship with edgevit.",
            advice=f"They are of {facts(task).model}. For others give a checkpoint: --weights FILE.",
        )
    return make_trained(task, image_size=size, dynamic=dynamic)


def _training(built: Built, trained: bool) -> dict[str, Any] | None:
    from edgevit.zoo.trained import facts

    return facts(built.task).model_dump(mode="json") if trained else None


def _origin(built: Built, weights: Path | None, trained: bool, seed: int) -> str:
    """Where the weights are from, in words."""
    if trained:
        from edgevit.zoo.trained import facts

        known = facts(built.task)
        figures = ", ".join(f"{name} {value:.1f} %" for name, value in known.figures.items())
        return f"trained on drawn scenes at {known.image_size}x{known.image_size}: {figures}"
    return f"weights of {weights} ({built.source})" if weights else f"seeded weights ({seed}), not trained"


def _rows(
    entry: Entry,
    tasks: Sequence[str],
    image_size: ImageSize | None = None,
    classes: int | None = None,
    patches: Patches | None = None,
    *,
    with_about: bool = False,
) -> list[dict[str, Any]]:
    """A model's figures at each task, ours and the published ones."""
    from edgevit.zoo.catalogue import make
    from edgevit.zoo.published import PUBLISHED

    rows = []
    for task in tasks:
        built = make(entry.name, task=task, image_size=image_size, classes=classes, patches=patches)
        row = _facts(built)
        if not with_about:
            del row["about"]
        known = PUBLISHED[entry.name, task] if built.is_published else None
        rows.append({**row, "title": entry.title, "published": known.as_json() if known else None})
    return rows


def _facts(built: Built) -> dict[str, Any]:
    from edgevit.zoo.counts import count

    counts = count(built)
    return {
        "name": built.entry.name,
        "task": built.task,
        "image_size": built.image_size,
        "classes": built.classes,
        "patches": built.patches,
        "parameters": counts.parameters,
        "macs": counts.macs,
        "about": built.about.model_dump(mode="json"),
    }


def _write(built: Built, output: Path) -> dict[str, Any]:
    """Write the file, whole or not at all."""
    import hashlib

    from edgevit.files import write_atomic

    suffix = "" if built.task == "cls" else f"-{built.task}"
    path = output / f"{built.entry.name}{suffix}.onnx" if output.is_dir() else output
    data = built.proto.SerializeToString(deterministic=True)
    write_atomic(path, data)
    return {
        **_facts(built),
        "path": str(path),
        "dynamic": built.dynamic,
        "weights": built.source,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }


def _sides(patches: str | None) -> Patches | None:
    import re

    from edgevit.errors import UserError

    if patches is None:
        return None
    match = re.fullmatch(r"(\d{1,3}),(\d{1,3}),(\d{1,3})", patches)
    if not match:
        raise UserError(f"{patches!r} are no three patch sizes.", advice="Give one for each stride: --patches 8,4,2.")
    return int(match[1]), int(match[2]), int(match[3])


def _given(options: dict[str, bool]) -> list[str]:
    return [option for option, given in options.items() if given]


def _refuse(options: dict[str, bool], without: str, example: str) -> None:
    from edgevit.errors import UserError

    given = _given(options)
    if given:
        raise UserError(f"{', '.join(given)} without {without} does nothing.", advice=f"Try: {example}")
