"""The process that executes a GPU artifact's program: TVM's virtual machine, with kernels that this machine emulates.

It is edgevit's RPC worker with two functions more. Loading a program first tells which functions launch which kernels;
each becomes a function of TVM's registry, where the virtual machine looks for what it calls. No code that was compiled
for the artifact's own processor is touched.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevit.device import worker
from edgevit.emulate.executor import Executor, KernelFaultError, Memory, Traffic
from edgevit.emulate.plan import Launch, Plan

PREPARE = "edgevit.emulate.prepare"
REPORT = "edgevit.emulate.report"


def main() -> None:
    """Serve one session."""
    worker.main(_register)


class Launcher(Protocol):
    """What runs launches."""

    traffic: dict[str, Traffic]

    def launch(self, launch: Launch, buffers: list[Memory]) -> None:
        """Run one launch to its end, or raise."""


class _Device:
    """The state of an emulated device: its kernels, and which bytes of its memory hold something."""

    def __init__(self, plan: Plan) -> None:
        self.fault: str | None = None
        self.storage_bytes = 0
        self.workspace_bytes = 0
        self.started = 0
        self._defined: dict[int, NDArray[np.uint8]] = {}
        self._functions: dict[str, list[Launch]] = {}
        for launch in plan.launches:
            self._functions.setdefault(launch.function, []).append(launch)
        self._launcher = _launcher(plan)

    def functions(self) -> dict[str, Callable[..., None]]:
        """By name, what the program calls."""
        return {name: self._function(name) for name in self._functions}

    def _function(self, name: str) -> Callable[..., None]:
        def call(*tensors: Any) -> None:
            if self.fault is not None:
                raise RuntimeError(self.fault)
            try:
                self._call(name, tensors)
            except KernelFaultError as error:
                self.fault = str(error)
                raise

        return call

    def _call(self, name: str, tensors: tuple[Any, ...]) -> None:
        passed = [self._memory(tensor) for tensor in tensors]
        launches = self._functions[name]
        rooms = [np.zeros(size, np.uint8) for size in launches[0].workspaces]
        private = [Memory(room.ctypes.data, room.nbytes, 4, np.zeros(room.nbytes, np.uint8)) for room in rooms]
        self.workspace_bytes = max(self.workspace_bytes, sum(room.nbytes for room in rooms))
        for launch in launches:
            self._launcher.launch(launch, [passed[at] if at >= 0 else private[-1 - at] for at in launch.arguments])

    def new_tensor(self, tensor: Any) -> None:
        """Note that nothing has been written to a tensor yet, whatever lay there before."""
        address, size = _place(tensor)
        for start, defined in list(self._defined.items()):
            if start < address + size and address < start + len(defined):
                del self._defined[start]
        self._defined[address] = np.zeros(size, np.uint8)

    def _memory(self, tensor: Any) -> Memory:
        address, size = _place(tensor)
        element = max(1, np.dtype(str(tensor.dtype)).itemsize)
        for start, defined in self._defined.items():
            if start <= address and address + size <= start + len(defined):
                return Memory(address, size, element, defined[address - start : address - start + size])
        return Memory(address, size, element, constant=True)  # the program did not allocate it

    def report(self) -> dict[str, object]:
        """What ran since the program was loaded."""
        return {
            "fault": self.fault,
            "storage_bytes": self.storage_bytes,
            "workspace_bytes": self.workspace_bytes,
            "traffic": {name: asdict(traffic) for name, traffic in self._launcher.traffic.items()},
        }


def _place(tensor: Any) -> tuple[int, int]:
    size = np.dtype(str(tensor.dtype)).itemsize
    for extent in tensor.shape:
        size *= int(extent)
    return int(tensor.data_ptr()), size


def _launcher(plan: Plan) -> Launcher:
    if plan.executor == "pocl":
        from edgevit.emulate.pocl import PoclExecutor

        return PoclExecutor(plan.texts)
    return Executor(Path(plan.library), plan.limits, plan.checked)


class _Host:
    """What the client asks of this process."""

    def __init__(self, folder: Path) -> None:
        import tvm_ffi

        self._folder = folder
        self._device: _Device | None = None
        self._alloc_tensor = tvm_ffi.get_global_func("vm.builtin.alloc_tensor")
        self._alloc_storage = tvm_ffi.get_global_func("vm.builtin.alloc_storage")

    def prepare(self, name: str) -> None:
        """Make the functions of a plan, a file in this session's folder."""
        import tvm_ffi

        self._device = _Device(Plan.model_validate_json((self._folder / name).read_bytes()))
        for function, call in self._device.functions().items():
            # Names with dots are TVM's and this process's own.
            if not function.isidentifier():
                raise ValueError(f"{function!r} is no name of a compiled function")
            tvm_ffi.register_global_func(function, call, override=True)

    def load(self, name: str) -> Any:
        """The virtual machine's program in a file of this session's folder."""
        import tvm
        import tvm_ffi

        # Importing relax registers the loader of its programs.
        assert tvm.runtime is not None
        return tvm_ffi.get_global_func("ffi.Module.load_from_bytes.relax.VMExecutable")(
            (self._folder / name).read_bytes()
        )

    def alloc_tensor(self, *arguments: Any) -> Any:
        """The virtual machine's own, noting that the tensor holds nothing."""
        tensor = self._alloc_tensor(*arguments)
        if self._device is not None:
            self._device.new_tensor(tensor)
        return tensor

    def alloc_storage(self, *arguments: Any) -> Any:
        """The virtual machine's own, counting bytes."""
        if self._device is not None:
            self._device.storage_bytes += int(arguments[1][0])
        return self._alloc_storage(*arguments)

    def report(self) -> str:
        """JSON of what ran."""
        return json.dumps(self._device.report() if self._device else {})


def _register(folder: Path) -> None:
    import tvm_ffi

    host = _Host(folder)
    functions = {
        PREPARE: host.prepare,
        REPORT: host.report,
        "tvm.rpc.server.load_module": host.load,
        "vm.builtin.alloc_tensor": host.alloc_tensor,
        "vm.builtin.alloc_storage": host.alloc_storage,
    }
    for name, function in functions.items():
        tvm_ffi.register_global_func(name, function, override=True)
