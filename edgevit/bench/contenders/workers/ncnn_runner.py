"""ncnn on the CPU in fp32."""

import importlib.util
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ncnn
import numpy as np


def convert(config: dict[str, Any]) -> str:
    """Convert ONNX to ncnn's format with the program in pnnx's package, whose Python part would want PyTorch."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("pnnx is not installed")
    program = Path(spec.submodule_search_locations[0]) / "pnnx"
    folder = Path(config["folder"])
    shapes = ",".join(str(list(shape)).replace(" ", "") for shape in config["shapes"].values())
    files = {f"{kind}{end}": f"{kind}.{end}" for kind in ("ncnn", "pnnx") for end in ("param", "bin", "py")}
    files["pnnxonnx"] = "pnnx.onnx"
    options = [f"{option}={folder / name}" for option, name in files.items()]
    command = [str(program), config["model"], f"inputshape={shapes}", "fp16=0", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / "ncnn.param").is_file():
        words = (done.stderr or done.stdout).strip().splitlines()
        raise RuntimeError(f"pnnx failed: {words[-1] if words else done.returncode}")
    return str(folder / "ncnn.param")


class Runner:
    """A network; ncnn has no batch dimension, so a first dimension of 1 goes in and comes back here."""

    version = version("ncnn")

    def __init__(self, config: dict[str, Any]) -> None:
        self._net = ncnn.Net()
        options = self._net.opt
        options.num_threads = config["threads"]
        options.use_vulkan_compute = False
        for name in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage"):
            setattr(options, f"use_{name}", False)
        model = Path(config["model"])
        if self._net.load_param(str(model)) or self._net.load_model(str(model.with_suffix(".bin"))):
            raise RuntimeError("ncnn refuses the converted model")
        self._names = self._net.input_names()
        self._results = self._net.output_names()
        self._inputs: list[tuple[str, Any]] = []

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        if any(array.shape[0] != 1 for array in arrays.values()):
            raise ValueError("ncnn takes one item a batch")
        self._inputs = [
            (name, np.ascontiguousarray(array[0])) for name, array in zip(self._names, arrays.values(), strict=True)
        ]

    def run(self) -> list[Any]:
        """One call."""
        extractor = self._net.create_extractor()
        for name, array in self._inputs:
            extractor.input(name, ncnn.Mat(array))
        outputs = []
        for name in self._results:
            status, result = extractor.extract(name)
            if status:
                raise RuntimeError(f"ncnn failed with status {status}")
            outputs.append(np.array(result)[None])
        return outputs
