"""edgevit: an artifact's library on TVM's runtime, without the compiler and without TVM's Python package.

That is what an application loads: two C++ libraries and the model.
"""

import ctypes
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

_CPU, _FIRST, _POOLED_MEMORY = 1, 0, 2


class Runner:
    """A virtual machine on the artifact's folder. ``TVM_NUM_THREADS`` was set before this process began."""

    def __init__(self, config: dict[str, Any]) -> None:
        package = find_spec("tvm")
        assert package is not None
        assert package.origin is not None
        libraries = Path(package.origin).parent / "lib"
        # Sorting lies in a library of its own.
        for name in ("libtvm_runtime", "libtvm_runtime_extra"):
            for path in libraries.glob(f"{name}.*"):
                ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
        folder = Path(config["model"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.version = str(manifest["tools"]["edgevit"])
        program = manifest["resolutions"][config.get("resolution", 0)]
        self._entry = program["entry"]
        library = tvm_ffi.load_module(str(folder / manifest["library"]["file"]))
        self._machine = library["vm_load_executable"]()
        self._machine["vm_initialization"](_CPU, _FIRST, _POOLED_MEMORY)
        self._functions = {name: self._machine[name] for name in ("set_input", "invoke_stateful", "get_output")}
        self._outputs = len(program["outputs"])
        self._inputs: list[Any] = []

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        self._inputs = [tvm_ffi.from_dlpack(np.ascontiguousarray(array)) for array in arrays.values()]

    def run(self) -> list[Any]:
        """One call."""
        self._functions["set_input"](self._entry, *self._inputs)
        self._functions["invoke_stateful"](self._entry)
        if self._outputs == 1:
            return [np.from_dlpack(self._functions["get_output"](self._entry))]
        return [np.from_dlpack(self._functions["get_output"](self._entry, index)) for index in range(self._outputs)]
