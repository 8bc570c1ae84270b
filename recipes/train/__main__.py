"""The command line: trains a plan, or goes on with one that was stopped, and writes its weights."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError, ToolchainError, UserError
from recipes.train.plans import PLANS, Plan

if TYPE_CHECKING:
    from torch import Tensor


def main(given: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = _arguments(given)
    if arguments.list:
        print("\n".join(f"{plan.name:12} {plan.task}  {plan.data}" for plan in PLANS.values()))
        return 0
    try:
        _train(arguments)
    except EdgevitError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m recipes.train", description="Train MobileViT-XXS from scratch.")
    parser.add_argument("plan", nargs="?", metavar="PLAN", help=f"one of {', '.join(PLANS)}")
    parser.add_argument("--list", action="store_true", help="name the plans")
    parser.add_argument("-o", "--output", type=Path, default=Path("trained"), metavar="FOLDER", help="for all files")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="with train and val, for photographs")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch; the same number gives the same weights")
    parser.add_argument("--every", type=float, default=180, metavar="SECONDS", help="between checkpoints")
    parser.add_argument("--stop", action="store_true", help="train no further: write the checkpoint's weights")
    return parser.parse_args(given)


def _train(arguments: argparse.Namespace) -> None:
    plan = PLANS.get(arguments.plan)
    if plan is None:
        raise UserError(f"there is no plan {arguments.plan!r}.", advice=f"Choose from {', '.join(PLANS)}.")
    try:
        import torch
    except ImportError as error:
        raise ToolchainError("torch is not installed.", advice="pip install 'edgevit[train]'") from error
    from recipes.train.data import sources
    from recipes.train.shipping import ship
    from recipes.train.trainer import Trainer

    torch.set_num_threads(arguments.threads)
    trainer = Trainer(
        plan,
        *sources(plan, arguments.data),
        arguments.output / f"{plan.name}.checkpoint",
        backbone=_backbone(plan, arguments.output),
        say=lambda line: print(line, flush=True),
    )
    if not arguments.stop:
        trainer.run(every=arguments.every)
    elif not trainer.updates:
        raise UserError(f"{plan.name} was not trained yet.", advice="Leave out --stop.")
    print(ship(trainer, arguments.output, threads=arguments.threads), flush=True)


def _backbone(plan: Plan, folder: Path) -> dict[str, Tensor] | None:
    """The classifier's parameters that a plan starts from."""
    if plan.backbone is None:
        return None
    path = folder / f"{plan.backbone}.safetensors"
    if not path.is_file():
        raise UserError(f"{plan.name} starts from {path}.", advice=f"Train {plan.backbone} into {folder} first.")
    import torch

    from edgevit.zoo.weights import read_tensors

    return {name: torch.from_numpy(array.astype("float32")) for name, array in read_tensors(path).items()}


if __name__ == "__main__":
    sys.exit(main())
