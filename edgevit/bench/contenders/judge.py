"""Right or wrong: every contender's outputs against ONNX Runtime with its optimisations switched off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgevit.accuracy.inputs import seeded_inputs
from edgevit.errors import ModelError

if TYPE_CHECKING:
    from edgevit.model import Model

Array = npt.NDArray[Any]

PEER_TOLERANCE = 1e-3
OWN_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Case:
    """Inputs with the outputs they should give.

    Attributes:
        inputs: ``.npy`` file by input name, in the model's order.
        outputs: in the model's order.
    """

    inputs: Mapping[str, Path]
    outputs: Sequence[Array]


def make_cases(model: Model, folder: Path, seeds: Iterable[int]) -> list[Case]:
    """Draw inputs and compute what is right, from the user's own file.

    Args:
        model: loaded from a file.
        folder: for the inputs.
        seeds: one a case.

    Raises:
        ModelError: ONNX Runtime refuses the model, or its outputs are not finite.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(model.source), options, providers=["CPUExecutionProvider"])
        return [_case(session, seeded_inputs(model.inputs, seed), folder, seed) for seed in seeds]
    except ModelError:
        raise
    except Exception as error:  # ONNX Runtime's own errors share no other base
        raise ModelError(
            f"ONNX Runtime, the reference, refuses this model: {error}",
            where=str(model.source),
            advice="Contenders cannot be judged without it: leave this model out.",
        ) from error


def _case(session: Any, inputs: dict[str, Array], folder: Path, seed: int) -> Case:
    outputs = [np.asarray(output) for output in session.run(None, inputs)]
    if not all(np.isfinite(output).all() for output in outputs):
        raise ModelError("the reference's outputs are not finite.", advice="Leave this model out.")
    files = {}
    for position, (name, array) in enumerate(inputs.items()):
        files[name] = folder / f"input-{seed}-{position}.npy"
        np.save(files[name], array)
    return Case(files, outputs)


def normalised_error(outputs: Sequence[Array], case: Case) -> float:
    """Largest max abs error over max |reference| of any output; infinite for NaN, or a wrong number or shape.

    An output of rank 4 may have its channels last.
    """
    if len(outputs) != len(case.outputs):
        return math.inf
    return max((_error(*pair) for pair in zip(outputs, case.outputs, strict=True)), default=math.inf)


def _error(output: Array, reference: Array) -> float:
    if output.shape != reference.shape and output.ndim == 4:
        output = output.transpose(0, 3, 1, 2)
    if output.shape != reference.shape or not np.isfinite(output).all():
        return math.inf
    if not reference.size:
        return 0.0
    wanted = reference.astype(np.float64)
    scale = float(np.abs(wanted).max())
    error = float(np.abs(output.astype(np.float64) - wanted).max())
    return error / scale if scale else (0.0 if error == 0 else math.inf)
