"""Compile one kernel for this machine and run it on numpy arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgevit.compiler.entry import build_module, kernel_entry
from edgevit.target_schema import Target
from edgevit.targets import get_target


def run_kernel(
    func: Any,
    arrays: Sequence[np.ndarray],
    output_shape: tuple[int, ...],
    dtype: str = "float32",
    target: Target | None = None,
    repeats: int = 2,
) -> np.ndarray:
    """Output of a kernel after ``repeats`` calls on one output buffer that starts as NaN (or garbage)."""
    import tvm

    target = target or get_target("host")
    sizes = [(max(array.size, 1), str(array.dtype)) for array in arrays]
    size = int(np.prod(output_shape))
    module = kernel_entry(func, [*sizes, (size, dtype)])
    executable = build_module(module, target)
    garbage = np.full(size, np.nan if np.issubdtype(np.dtype(dtype), np.floating) else 77).astype(dtype)
    tensors = [tvm.runtime.tensor(np.ascontiguousarray(array).reshape(-1)) for array in arrays]
    output = tvm.runtime.tensor(garbage)
    for _ in range(repeats):
        executable["entry"](*tensors, output)
    return output.numpy().reshape(output_shape)
