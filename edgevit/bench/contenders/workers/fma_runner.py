"""The machine's FMA peak: a kernel that does nothing but multiply and add in registers."""

import os
from typing import Any

os.environ["TVM_USE_RUNTIME_LIB"] = "1"

import numpy as np
import tvm


class Runner:
    """The kernel of ``edgevit.bench.contenders.fma``, from its library."""

    version = str(tvm.__version__)

    def __init__(self, config: dict[str, Any]) -> None:
        self._function = tvm.runtime.load_module(config["model"])["entry"]
        # Products this small keep the sums far from infinity, and exact.
        operands = np.repeat(np.array([2.0**-10, 1.0], np.float32), config["lanes"])
        self._operands = tvm.runtime.tensor(operands)
        self._sums = tvm.runtime.tensor(np.zeros(config["sums"], np.float32))

    def set_inputs(self, arrays: dict[str, Any]) -> None:
        """It has none."""

    def run(self) -> list[Any]:
        """One call."""
        self._function(self._operands, self._sums)
        return [self._sums.numpy()]
