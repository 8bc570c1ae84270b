"""OpenVINO on the CPU, told to keep fp32: by default it may compute in bf16 where the CPU can."""

from importlib.metadata import version
from typing import Any

import openvino as ov


class Runner:
    """A compiled model with one stream, whose inputs and outputs are shared and not copied."""

    version = version("openvino")

    def __init__(self, config: dict[str, Any]) -> None:
        core = ov.Core()
        model = core.read_model(config["model"])
        model.reshape(config["shapes"])
        options = {
            "INFERENCE_NUM_THREADS": config["threads"],
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(model, "CPU", options)
        self._request = compiled.create_infer_request()
        self._results = compiled.outputs
        self._inputs: dict[str, Any] = {}

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        self._inputs = arrays

    def run(self) -> list[Any]:
        """One call."""
        results = self._request.infer(self._inputs, share_inputs=True, share_outputs=True)
        return [results[output] for output in self._results]
