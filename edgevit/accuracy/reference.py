"""The reference: ONNX Runtime on the user's own file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgevit.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from edgevit.model import Model

    Array = npt.NDArray[Any]


class OnnxRuntimeReference:
    """ONNX Runtime, one thread, so that its sums have one order.

    It runs the file as the user wrote it, not edgevit's simplified copy, so that a fault of the
    simplification shows. Only where training-mode nodes were stripped, whose results are random, or where
    the model never was a file, does the simplified graph take its place.
    """

    def __init__(self, model: Model) -> None:
        """Load the model into ONNX Runtime.

        Raises:
            ModelError: ONNX Runtime refuses it.
        """
        import onnxruntime as ort

        self.name = f"onnxruntime {ort.__version__}"
        self._output_names = [spec.name for spec in model.outputs]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        stripped = any(note.startswith("stripped") for note in model.notes)
        untouched = model.source is not None and not stripped
        source = str(model.source) if untouched else model.proto.SerializeToString()
        try:
            self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise _refusal(error, model) from error
        self._model = model

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            ModelError: ONNX Runtime fails on these inputs.
        """
        try:
            results: Sequence[Array] = self._session.run(self._output_names, dict(inputs))
        except Exception as error:
            raise _refusal(error, self._model) from error
        return dict(zip(self._output_names, results, strict=True))


def _refusal(error: Exception, model: Model) -> ModelError:
    lines = str(error).strip().splitlines()
    return ModelError(
        f"ONNX Runtime, the reference, refuses this model: {lines[-1] if lines else type(error).__name__}",
        where=str(model.source) if model.source else None,
        advice="A model without a working reference cannot be checked; compile with --no-verify at your own risk.",
    )
