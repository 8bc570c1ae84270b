"""A second opinion on OpenCL kernels: PoCL, a full OpenCL implementation for CPUs with a compiler of its own.

It checks no accesses, but shares nothing with edgevit's executor: not the compiler's version, not the built-in
functions, not the way in which threads become loops. PoCL's released versions compute no fp16 on x86-64.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.device.server_build import cache_folder
from edgevit.emulate.executor import Memory, Traffic
from edgevit.emulate.plan import Launch
from edgevit.errors import ToolchainError
from edgevit.files import make_folder

_PLATFORM = "Portable Computing Language"
_ADVICE = "Run: pip install 'edgevit[emulate]'"


def pocl_tool() -> str:
    """PoCL's version.

    Raises:
        ToolchainError: pyopencl or PoCL is not installed.
    """
    return f"PoCL {_platform().version.split('PoCL')[-1].split()[0].partition('+')[0]}"


def pocl_missing() -> str | None:
    """Why PoCL cannot be used; None where it can."""
    try:
        _platform()
    except ToolchainError as error:
        return error.message.rstrip(".")
    return None


class PoclExecutor:
    """Kernels built by PoCL, each from its own text as TVM's runtime does on a device.

    Attributes:
        traffic: launches by kernel; PoCL counts no bytes.
    """

    def __init__(self, texts: dict[str, str]) -> None:
        import pyopencl

        folder = cache_folder() / "pocl"
        make_folder(folder)
        os.environ.setdefault("POCL_CACHE_DIR", str(folder))
        self._opencl: Any = pyopencl
        device = _platform().get_devices()[0]
        self._context = pyopencl.Context([device])
        self._queue = pyopencl.CommandQueue(self._context)
        self._texts = texts
        self._kernels: dict[str, Any] = {}
        self.traffic: dict[str, Traffic] = {}

    def launch(self, launch: Launch, buffers: Sequence[Memory]) -> None:
        """Run one launch to its end, on copies of its buffers.

        Raises:
            RuntimeError: PoCL does not take the text or the launch.
        """
        cl = self._opencl
        arrays = [_bytes_at(one) for one in buffers]
        copies: dict[int, Any] = {}
        for memory, array in zip(buffers, arrays, strict=True):
            if memory.address not in copies:
                flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
                copies[memory.address] = cl.Buffer(self._context, flags, hostbuf=array)
        kernel = self._kernel(launch.kernel)
        kernel.set_args(*(copies[memory.address] for memory in buffers))
        extent = tuple(groups * threads for groups, threads in zip(launch.grid, launch.block, strict=True))
        cl.enqueue_nd_range_kernel(self._queue, kernel, extent, launch.block)
        for memory, array in zip(buffers, arrays, strict=True):
            cl.enqueue_copy(self._queue, array, copies[memory.address])
            if memory.defined is not None:
                memory.defined[:] = 1
        self._queue.finish()
        self.traffic.setdefault(launch.kernel, Traffic()).launches += 1

    def _kernel(self, name: str) -> Any:
        if name not in self._kernels:
            program = self._opencl.Program(self._context, self._texts[name]).build(cache_dir=False)
            self._kernels[name] = self._opencl.Kernel(program, name)
        return self._kernels[name]


def _bytes_at(memory: Memory) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * memory.bytes).from_address(memory.address))


def _platform() -> Any:
    try:
        import pyopencl
    except ImportError:
        raise ToolchainError("pyopencl is not installed.", advice=_ADVICE) from None
    try:
        found = [one for one in pyopencl.get_platforms() if one.name == _PLATFORM and one.get_devices()]
    except pyopencl.Error:
        found = []
    if not found:
        raise ToolchainError("PoCL is not installed.", advice=_ADVICE)
    return found[0]
