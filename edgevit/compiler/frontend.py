"""Import a validated ONNX model as a Relax module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgevit.errors import ModelError
from edgevit.model import Model

if TYPE_CHECKING:
    import tvm

ENTRY = "main"
"""Name of the function that computes the model."""


def to_relax(model: Model) -> tvm.IRModule:
    """Relax module whose ``main`` takes the model's inputs in order and returns its outputs.

    Raises:
        ModelError: TVM's importer refuses the model; the audit in :mod:`edgevit.model` normally says so
            first, by node.
    """
    from tvm.relax.frontend.onnx import from_onnx

    try:
        mod: tvm.IRModule = from_onnx(model.proto, keep_params_in_input=False, sanitize_input_names=True)
    except Exception as error:  # the importer raises whatever its operator converters raise
        raise ModelError(
            f"TVM cannot import this model: {_first_line(error)}.",
            where=str(model.source) if model.source else None,
            advice="Run 'edgevit info' on it; exporting with a lower opset or simpler operators often helps.",
        ) from error
    return mod


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
