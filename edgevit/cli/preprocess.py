"""The option that says how images are prepared, the same for every command that loads a model."""

from __future__ import annotations

from typing import Annotated

import typer

Preprocess = Annotated[
    str | None,
    typer.Option(
        "--preprocess",
        metavar="PRESET|FILE.toml|KEY=VALUE,…",
        help="How images are prepared, where the model does not say or is wrong: mobilevit, imagenet, inception, "
        "a TOML file, or resize=288,crop=256,order=BGR,scale=1/255,mean=0,std=1.",
    ),
]
