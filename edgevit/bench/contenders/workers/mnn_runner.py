"""MNN on the CPU in high precision: fp32."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import MNN
import numpy as np

_CAFFE = MNN.Tensor_DimensionType_Caffe  # row-major, in the order of the ONNX file's dimensions


def convert(config: dict[str, Any]) -> str:
    """Convert ONNX to MNN's format.

    Not with ``MNN.tools``: importing that installs a package and reports each conversion over the network.
    """
    import _tools

    target = str(Path(config["folder"]) / "model.mnn")
    arguments = ["-f", "ONNX", "--modelFile", config["model"], "--MNNModel", target, "--bizCode", "model"]
    _tools.mnnconvert(["mnnconvert", *arguments])
    if not Path(target).is_file():
        raise RuntimeError("MNN's converter wrote nothing")
    return target


class Runner:
    """A session, with host tensors that are copied in and out."""

    version = version("MNN")

    def __init__(self, config: dict[str, Any]) -> None:
        self._interpreter = MNN.Interpreter(config["model"])
        options = {"backend": "CPU", "numThread": config["threads"], "precision": "high"}
        self._session = self._interpreter.createSession(options)
        tensors = self._interpreter.getSessionInputAll(self._session)
        for name, shape in config["shapes"].items():
            self._interpreter.resizeTensor(tensors[name], tuple(shape))
        self._interpreter.resizeSession(self._session)
        self._tensors = self._interpreter.getSessionInputAll(self._session)
        results = self._interpreter.getSessionOutputAll(self._session)
        self._results = [(results[name], _host_tensor(results[name])) for name in config["outputs"]]
        self._inputs: list[tuple[Any, Any]] = []

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        self._inputs = []
        for name, array in arrays.items():
            tensor = self._tensors[name]
            host = MNN.Tensor(array.shape, tensor.getDataType(), np.ascontiguousarray(array), _CAFFE)
            self._inputs.append((tensor, host))

    def run(self) -> list[Any]:
        """One call."""
        for tensor, host in self._inputs:
            tensor.copyFrom(host)
        self._interpreter.runSession(self._session)
        outputs = []
        for tensor, host in self._results:
            tensor.copyToHostTensor(host)
            # A copy: MNN's array looks into the host tensor, which the next call overwrites.
            outputs.append(host.getNumpyData().reshape(tensor.getShape()).copy())
        return outputs


def _host_tensor(tensor: Any) -> Any:
    shape = tensor.getShape()
    return MNN.Tensor(shape, tensor.getDataType(), np.zeros(shape, np.float32), _CAFFE)
