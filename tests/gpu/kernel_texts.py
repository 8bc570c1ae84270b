"""Text of a GPU kernel, and PoCL to run it on this machine's processor."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgevit.compiler.gpu import GpuFamily
from edgevit.compiler.gpu.build import kernel_text
from edgevit.compiler.gpu.launches import KernelLaunch
from edgevit.compiler.graph import Node
from edgevit.target_schema import Target
from edgevit.targets import get_target


PHONES = ("android-opencl-adreno", "android-opencl-mali", "metal-ios")
"""Targets with local memory on chip, without it, and Apple's."""


def run_node(family: GpuFamily, node: Node, arrays: Sequence[np.ndarray], target: str = PHONES[0]) -> np.ndarray:
    """The node's output by PoCL, with floats stored as float32; the other languages' texts are printed as well."""
    workload = family.claim(node)
    assert workload is not None
    count = len(arrays) + 1
    for name in PHONES:
        other = get_target(name)
        printed, _ = kernel_text(family.emit(workload, other, "kernel", ["float16"] * count), other)
        assert_in_language(printed, other)
    text, launch = kernel_text(family.emit(workload, get_target(target), "kernel", ["float32"] * count), get_target(target))
    return run_text(text, launch, arrays, node.output.shape, node.output.dtype)


def assert_in_language(text: str, target: Target) -> None:
    """Nothing that TVM prints, and the language lacks."""
    lacking = ["erf", "nearbyint", "tanh", "double", "llvm"]
    assert target.gpu is not None
    if target.gpu.api == "opencl":
        # Vectors of several values: a constructor that OpenCL C does not have.
        lacking += [f" {kind}{lanes}(" for kind in ("float", "int", "uchar") for lanes in (2, 4)]
    assert not [word for word in lacking if word in text.partition("{")[2]]


def run_text(
    text: str, launch: KernelLaunch, arrays: Sequence[np.ndarray], shape: tuple[int, ...], dtype: str = "float32"
) -> np.ndarray:
    """Output of an OpenCL kernel; what it does not write stays NaN (or 77)."""
    import pyopencl

    context, queue = _pocl()
    size = int(np.prod(shape))
    output = np.full(size, np.nan if dtype.startswith("float") else 77).astype(dtype)
    flags = pyopencl.mem_flags.READ_WRITE | pyopencl.mem_flags.COPY_HOST_PTR
    buffers = [
        pyopencl.Buffer(context, flags, hostbuf=np.ascontiguousarray(array).reshape(-1)) for array in (*arrays, output)
    ]
    program = pyopencl.Program(context, text).build()
    threads = [groups * block for groups, block in zip(launch.grid, launch.block, strict=True)]
    getattr(program, launch.kernel)(queue, threads, list(launch.block), *(buffers[i] for i in launch.arguments))
    pyopencl.enqueue_copy(queue, output, buffers[-1])
    return output.reshape(shape)


@functools.cache
def _pocl() -> tuple[Any, Any]:
    import pyopencl

    device = next(d for p in pyopencl.get_platforms() if "Portable" in p.name for d in p.get_devices())
    context = pyopencl.Context([device])
    return context, pyopencl.CommandQueue(context)
