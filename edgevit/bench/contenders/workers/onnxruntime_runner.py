"""ONNX Runtime, with the settings a user gets who sets nothing but the threads."""

from typing import Any

import onnxruntime as ort


class Runner:
    """A session; its threads keep their default spinning."""

    version = str(ort.__version__)

    def __init__(self, config: dict[str, Any]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = config["threads"]
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = ort.InferenceSession(config["model"], options, providers=["CPUExecutionProvider"])
        self._inputs: dict[str, Any] = {}

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        self._inputs = arrays

    def run(self) -> list[Any]:
        """One call."""
        return list(self._session.run(None, self._inputs))
