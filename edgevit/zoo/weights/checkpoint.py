"""Finds the state dict in what a training program saved."""

from __future__ import annotations

from typing import Any

from edgevit.errors import ModelError
from edgevit.zoo.weights.pickle_reader import Opaque
from edgevit.zoo.weights.torch_tensors import Tensor

NESTED = (
    "state_dict_ema",
    "ema_state_dict",
    "model_ema",
    "ema",
    "model_state_dict",
    "state_dict",
    "model",
    "module",
    "net",
)
"""Keys under which checkpoints keep a state dict. Averaged weights come first: they are what is evaluated."""

_WRAPPERS = ("module.", "_orig_mod.", "model.")
"""Prefixes that data parallel training, torch.compile and training frameworks put before every name."""

_DEPTH = 4


def state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """The tensors by name, out of the dicts a checkpoint wraps them in.

    Args:
        content: what the file holds.
        where: the file, for errors.

    Raises:
        ModelError: there is no state dict, or one of its tensors is of a kind that is not known.
    """
    for _ in range(_DEPTH):
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in NESTED if _holds_tensors(content.get(key))), None)
        if inner is None:
            break
        content = inner
    if isinstance(content, Opaque):
        raise ModelError(
            f"this file holds a whole object ({content.kind[:80]}), not its weights.",
            where=where,
            advice="Save the weights with torch.save(model.state_dict(), FILE), or as safetensors.",
        )
    if not isinstance(content, dict) or not any(isinstance(value, Tensor) for value in content.values()):
        keys = ", ".join(str(key)[:40] for key in list(content)[:8]) if isinstance(content, dict) else ""
        raise ModelError(
            f"there are no weights by name in this file{f'; its keys are {keys}' if keys else ''}.",
            where=where,
            advice="Save the weights with torch.save(model.state_dict(), FILE), or as safetensors.",
        )
    for key, value in content.items():
        if isinstance(value, Opaque) and value.kind.startswith("torch."):
            raise ModelError(
                f"{str(key)[:80]} is made by {value.kind[:80]}, which cannot be imported.",
                where=where,
                advice="Save plain tensors of float32.",
            )
    return unwrapped({str(key): value for key, value in content.items() if isinstance(value, Tensor)})


def unwrapped(tensors: dict[str, Any]) -> dict[str, Any]:
    """The same without the prefixes that a training framework has put before every name."""
    for prefix in _WRAPPERS * 2:
        if tensors and all(name.startswith(prefix) for name in tensors):
            tensors = {name[len(prefix) :]: value for name, value in tensors.items()}
    return tensors


def _holds_tensors(value: Any, depth: int = _DEPTH) -> bool:
    """Whether it is a dict with tensors, maybe under further keys of :data:`NESTED`."""
    if not isinstance(value, dict) or not depth:
        return False
    return any(isinstance(item, Tensor) for item in value.values()) or any(
        _holds_tensors(value.get(key), depth - 1) for key in NESTED
    )
