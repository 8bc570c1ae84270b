"""LiteRT with XNNPACK, its default on a CPU."""

from importlib.metadata import version
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class Runner:
    """An interpreter; inputs of a model that was converted to NHWC are transposed to fit."""

    version = version("ai-edge-litert")

    def __init__(self, config: dict[str, Any]) -> None:
        self._interpreter = Interpreter(model_path=config["model"], num_threads=config["threads"])
        self._interpreter.allocate_tensors()
        self._wanted = self._interpreter.get_input_details()
        self._results = [detail["index"] for detail in self._interpreter.get_output_details()]
        self._inputs: list[tuple[int, Any]] = []

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls, in the layout of this model."""
        if len(arrays) != len(self._wanted):
            raise ValueError(f"the .tflite file takes {len(self._wanted)} inputs, the ONNX file {len(arrays)}")
        self._inputs = [
            (detail["index"], _fitted(array, tuple(int(size) for size in detail["shape"])))
            for detail, array in zip(self._wanted, arrays.values(), strict=True)
        ]

    def run(self) -> list[Any]:
        """One call."""
        for index, array in self._inputs:
            self._interpreter.set_tensor(index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._results]


def _fitted(array: Any, shape: tuple[int, ...]) -> Any:
    if array.shape == shape:
        return array
    if array.ndim == 4 and array.transpose(0, 2, 3, 1).shape == shape:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    raise ValueError(f"the .tflite file takes an input of shape {shape}, the ONNX file {array.shape}")
