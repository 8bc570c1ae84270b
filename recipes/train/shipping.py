"""Trained weights as a small file that ``edgevit.zoo`` builds a model from, and the facts of their training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import safetensors.numpy
import torch
from torch import Tensor, nn

from edgevit.errors import ModelError
from edgevit.files import write_atomic
from edgevit.zoo import build
from edgevit.zoo.about import BACKGROUND
from edgevit.zoo.ssd import anchor_boxes, detection
from recipes.train.network import build_network
from recipes.train.plans import Plan
from recipes.train.ssd import decode
from recipes.train.trainer import Trainer

TOLERANCE = 1e-4
"""Largest difference between PyTorch and ONNX Runtime, of outputs of about 1 to 10."""
_LEFT_OUT = ("num_batches_tracked", "auxiliary.block.conv.weight", "auxiliary.block.conv.bias")
"""Endings of what only training needs."""

Array = np.ndarray[Any, Any]


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """Kernels and matrices in float16; norms and biases, which are few and whose range is wide, in float32.

    Raises:
        ModelError: a number is not finite, or too large for float16.
    """
    arrays = {}
    for name, tensor in tensors.items():
        if name.endswith(_LEFT_OUT):
            continue
        # What overflows is refused below.
        with np.errstate(over="ignore"):
            array = tensor.numpy().astype(np.float16 if tensor.ndim > 1 else np.float32)
        if not np.isfinite(array).all():
            raise ModelError(f"{name} has numbers that float16 cannot hold.", advice="Train with a lower rate.")
        arrays[name] = np.ascontiguousarray(array)
    return arrays


def write_weights(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
    """Write a safetensors file.

    Args:
        path: of the file.
        tensors: parameters and statistics by their names in the reference code.
        about: what the file says of itself.
    """
    write_atomic(path, safetensors.numpy.save(compact(tensors), dict(about)))


def read_network(path: Path, task: str, classes: int) -> nn.Module:
    """The network that a file's weights are of, in evaluation mode."""
    network = build_network(task, classes)
    tensors = {name: torch.from_numpy(a.astype(np.float32)) for name, a in safetensors.numpy.load_file(path).items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    if unexpected or any(not name.endswith(_LEFT_OUT) for name in missing):
        raise ModelError("the weights are another network's.", where=str(path), advice="Name the plan that made them.")
    return network.eval()


def difference(path: Path, task: str, labels: Sequence[str], image_size: int) -> float:
    """Largest difference between the network and the zoo's model with the same weights, on a random image.

    Args:
        path: of the weights.
        task: ``cls``, ``det`` or ``seg``.
        labels: of all classes, the background counted.
        image_size: pixels of the image's sides.
    """
    proto = build("mobilevit-xxs", task=task, image_size=image_size, weights=path, labels=labels)
    image = np.random.default_rng(0).random((1, 3, image_size, image_size), np.float32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, {"pixel_values": image})
    with torch.inference_mode():
        raw = read_network(path, task, len(labels))(torch.from_numpy(image))
    expected = [raw.numpy()]
    if task == "det":
        coding = detection((image_size, image_size))
        boxes = decode(raw[0, :, :4].double().numpy(), anchor_boxes(coding.anchors), coding)
        expected = [boxes[None], raw[..., 4:].softmax(-1).numpy()]
    return max(float(np.abs(a - b).max()) for a, b in zip(outputs, expected, strict=True))


def all_labels(plan: Plan, labels: Sequence[str]) -> tuple[str, ...]:
    """Names of the network's classes, the background's first where there is one."""
    return tuple(labels) if plan.task == "cls" else (BACKGROUND, *labels)


def ship(trainer: Trainer, folder: Path, *, threads: int) -> Path:
    """Write the averaged weights of a training, ``NAME.safetensors``, and ``NAME.json`` with its facts.

    Returns:
        The file of the weights.

    Raises:
        ModelError: the zoo's model does not compute what the network does.
    """
    plan = trainer.plan
    labels = all_labels(plan, trainer.source.labels)
    path = folder / f"{plan.name}.safetensors"
    write_weights(path, trainer.average, {"plan": plan.name, "labels": json.dumps(labels)})
    apart = difference(path, plan.task, labels, plan.image_size)
    if apart > TOLERANCE:
        raise ModelError(f"the zoo's model is {apart:.2g} away from the trained one.", where=str(path))
    with torch.inference_mode():
        figures = trainer.objective.evaluate(read_network(path, plan.task, len(labels)), trainer.checked)
    facts = {
        "model": "mobilevit-xxs",
        "task": plan.task,
        "image_size": plan.image_size,
        "labels": labels,
        "channel_order": "BGR",
        "figures": {name: round(value, 2) for name, value in figures.items()},
        "checked_images": len(trainer.checked),
        "seed": plan.seed,
        "done_epochs": trainer.epoch,
        "updates": trainer.updates,
        "images_seen": trainer.seen,
        "hours": round(trainer.wall / 3600, 2),
        "cpu_hours": round(trainer.cpu / 3600, 2),
        "threads": threads,
        "torch": torch.__version__,
        "data_edition": _edition() if plan.data == "scenes" else None,
        "plan": asdict(plan),
        "history": [{name: round(value, 4) for name, value in entry.items()} for entry in trainer.history],
    }
    write_atomic(folder / f"{plan.name}.json", json.dumps(facts, indent=1) + "\n")
    return path


def _edition() -> int:
    from edgevit.data.scenes import EDITION

    return EDITION
