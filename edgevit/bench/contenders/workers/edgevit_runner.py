"""edgevit: an artifact's library on TVM's runtime, without the compiler, as an application would run it."""

import ctypes
import json
import os
from pathlib import Path
from typing import Any

os.environ["TVM_USE_RUNTIME_LIB"] = "1"

import tvm
from tvm.runtime.vm import VirtualMachine


class Runner:
    """A virtual machine on the artifact's folder. ``TVM_NUM_THREADS`` was set before this process began."""

    def __init__(self, config: dict[str, Any]) -> None:
        # Sorting lies in a library of its own, which only the compiler loads by itself.
        for extra in (Path(tvm.__file__).parent / "lib").glob("libtvm_runtime_extra.*"):
            ctypes.CDLL(str(extra))
        folder = Path(config["model"])
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.version = str(manifest["tools"]["edgevit"])
        self._entry = manifest["library"]["entry"]
        library = tvm.runtime.load_module(str(folder / manifest["library"]["file"]))
        self._machine = VirtualMachine(library, tvm.cpu(0))
        self._inputs: list[Any] = []

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """Inputs of the next calls."""
        self._inputs = [tvm.runtime.tensor(array) for array in arrays.values()]

    def run(self) -> list[Any]:
        """One call."""
        self._machine.set_input(self._entry, *self._inputs)
        self._machine.invoke_stateful(self._entry)
        results = self._machine.get_outputs(self._entry)
        results = [results] if hasattr(results, "numpy") else list(results)
        return [result.numpy() for result in results]
