"""The training loop: updates, averaged weights, checkpoints from which a killed training goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgevit.errors import UserError
from edgevit.files import make_folder, staged_file
from recipes.train.augment import augment
from recipes.train.data import Source
from recipes.train.network import build_network, inherit
from recipes.train.objectives import OBJECTIVES, images
from recipes.train.plans import Plan
from recipes.train.sampler import Batch
from recipes.train.schedule import learning_rate

_GRADIENT_NORM = 10.0
"""Longer gradients are shortened: a rare batch shall not undo many."""


class Trainer:
    """A training that can be stopped after any update and resumed with the same result.

    What an update does depends on the plan, the epoch and the number of the update alone: order, resolutions,
    augmentation and dropout are drawn from them, and no generator's state has to be kept.

    Args:
        plan: what to do.
        source: training set.
        checked: set that the accuracy is monitored on.
        checkpoint: file that the state is kept in; read if it exists.
        backbone: a classifier's parameters by name, to start a detector or a segmenter from.
        say: takes the line of an epoch.

    Raises:
        UserError: the checkpoint is another plan's.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        checked: Source,
        checkpoint: Path,
        *,
        backbone: dict[str, Tensor] | None = None,
        say: Callable[[str], None] = print,
    ) -> None:
        self.plan, self.source, self.checked, self.checkpoint, self.say = plan, source, checked, checkpoint, say
        self.objective = OBJECTIVES[plan.task](plan, source.labels)
        self.network = self._build()
        if backbone is not None:
            inherit(self.network, backbone)
        self.average = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}
        self.optimizer = torch.optim.AdamW(_groups(self.network, plan.weight_decay), lr=plan.rate)
        self.epoch = self.step = self.updates = self.seen = 0
        self.wall = self.cpu = self.loss = 0.0
        self.history: list[dict[str, float]] = []
        if checkpoint.is_file():
            self._load()

    def _build(self) -> nn.Module:
        classes, dense = self.objective.classes, self.objective.dense
        return build_network(self.plan.task, classes, dense=dense, seed=self.plan.seed)

    def run(self, *, every: float = 180.0, most: int | None = None) -> bool:
        """Train to the end of the plan, or for a number of updates.

        Args:
            every: seconds between checkpoints.
            most: updates after which to save and return.

        Returns:
            Whether the plan is done.
        """
        saved = time.monotonic()
        clocks = time.monotonic(), time.process_time()
        while self.epoch < self.plan.epochs:
            batches = self._batches()
            for batch in batches[self.step :]:
                self.loss += self.update(batch.resolution, batch.indices, self.step / len(batches))
                clocks = self._count_time(clocks)
                if most is not None:
                    most -= 1
                if most == 0 or time.monotonic() - saved > every:
                    self.save()
                    saved = time.monotonic()
                if most == 0:
                    return False
            mean = self.loss / len(batches)
            self.epoch, self.step, self.loss = self.epoch + 1, 0, 0.0
            self._report(mean)
            clocks = self._count_time(clocks)
        self.save()
        return True

    def _batches(self) -> list[Batch]:
        """Of the epoch, but for a last one of a single image: a batch norm behind a pooling has no variance there."""
        batches = self.plan.sampler.epoch(len(self.source), seed=self.plan.seed, epoch=self.epoch)
        return [batch for batch in batches if len(batch.indices) > 1]

    def update(self, resolution: int, indices: Sequence[int], progress: float) -> float:
        """One update.

        Args:
            resolution: height and width of the images.
            indices: of the samples.
            progress: share of the epoch that is done.

        Returns:
            The loss before it.
        """
        plan = self.plan
        torch.manual_seed((plan.seed * 1_000_003 + self.epoch) * 100_003 + self.step)
        samples = [
            augment(
                self.source.sample(index, self.epoch, resolution),
                resolution,
                plan.augmentation,
                np.random.default_rng((plan.seed, self.epoch, index)),
            )
            for index in indices
        ]
        rate = learning_rate((self.epoch + progress) / plan.epochs, peak=plan.rate, warm_up=plan.warm_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        loss = self.objective.loss(self.network(images(samples)), samples)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), _GRADIENT_NORM)
        self.optimizer.step()
        self.step, self.updates, self.seen = self.step + 1, self.updates + 1, self.seen + len(samples)
        self._average()
        return loss.item()

    def _average(self) -> None:
        """Move the averaged weights a little: faster at the start, where they are of no use."""
        kept = min(self.plan.averaging, (1 + self.updates) / (10 + self.updates))
        for name, tensor in self.network.state_dict().items():
            if tensor.is_floating_point():
                self.average[name].lerp_(tensor, 1 - kept)
            else:
                self.average[name].copy_(tensor)

    def evaluate(self) -> dict[str, float]:
        """Figures of the averaged weights."""
        network = self._build()
        network.load_state_dict(self.average)
        with torch.inference_mode():
            return self.objective.evaluate(network.eval(), self.checked)

    def _report(self, loss: float) -> None:
        """The line of an epoch; with figures twenty times in a training, and after its last epochs."""
        left = self.plan.epochs - self.epoch
        line = f"{self.plan.name} epoch {self.epoch}/{self.plan.epochs} loss {loss:.4f}"
        if left < 3 or self.epoch % max(1, self.plan.epochs // 20) == 0:
            figures = self.evaluate()
            self.history.append({"epoch": self.epoch, "loss": loss, **figures})
            line += "".join(f" {name} {value:.2f}" for name, value in figures.items())
        speed = self.seen / max(self.wall, 1e-9)
        self.say(
            f"{line} updates {self.updates} images/s {speed:.1f} minutes {self.wall / 60:.1f} cpu {self.cpu / 60:.1f}"
        )

    def _count_time(self, since: tuple[float, float]) -> tuple[float, float]:
        now = time.monotonic(), time.process_time()
        self.wall += now[0] - since[0]
        self.cpu += now[1] - since[1]
        return now

    def save(self) -> None:
        """Write the checkpoint; one that is there stays whole until the new one is."""
        state = {
            "plan": asdict(self.plan),
            "network": self.network.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "history": self.history,
        }
        make_folder(self.checkpoint.parent)
        with staged_file(self.checkpoint) as new:
            torch.save(state, new)

    def _load(self) -> None:
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        # What a plan could not say when the checkpoint was made is as it was then.
        plan = asdict(self.plan)
        changed = [name for name, value in state["plan"].items() if plan.get(name) != value]
        if changed:
            raise UserError(
                f"the checkpoint was made by another plan: {', '.join(changed)} differ.",
                where=str(self.checkpoint),
                advice="Move it away to train anew.",
            )
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.history = state["history"]
        for name, value in state["counters"].items():
            setattr(self, name, value)


_COUNTERS = ("epoch", "step", "updates", "seen", "loss", "wall", "cpu")


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels, which decay, and norms and biases, which do not."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
