"""Run in this process: the quickest way, and the least isolated."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgevit.device.session import (
    LOAD_TIMEOUT,
    RUN_TIMEOUT,
    DeviceInfo,
    DeviceUsage,
    LoadedModel,
    Session,
    device_errors,
)
from edgevit.device.usage import claim_all_cores, machine_facts, process_usage
from edgevit.device.vm import as_list, dismantle, load_error, no_gpu
from edgevit.device.workbench import THREADS_BIG_CORES, Workbench
from edgevit.errors import DeviceMismatch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgevit.artifact import Artifact
    from edgevit.device.readings import Readings
    from edgevit.device.session import Tensors

_HERE = "this process"


class LocalSession(Session):
    """This process. A call that hangs hangs the caller: nothing here can be interrupted."""

    kind = "in-process"

    def __init__(self) -> None:
        claim_all_cores()
        self._model: LocalModel | None = None
        self._workbench: Workbench | None = None

    def describe(self) -> DeviceInfo:
        """This machine."""
        import tvm

        facts = machine_facts()
        return DeviceInfo(
            kind=self.kind,
            runtime=f"TVM {tvm.__version__}",
            architecture=facts["arch"],
            system=facts["os"],
            cpu=facts["cpu"],
            cores=facts["cores"],
            memory_bytes=facts["memory_bytes"],
        )

    def load(self, artifact: Artifact, *, timeout: float = LOAD_TIMEOUT) -> LoadedModel:  # noqa: ARG002
        """Load the library into this process."""
        facts, target = machine_facts(), artifact.manifest.target
        if (facts["arch"], facts["os"]) != (target.architecture, target.system):
            raise DeviceMismatch(
                f"the artifact is for {target.architecture} {target.system}, this machine is "
                f"{facts['arch']} {facts['os']}.",
                advice="Use --emulate or a device, or compile with --target host.",
            )
        if self._model is not None:
            self._model.close()
        self._model = LocalModel(artifact)
        return self._model

    def workbench(self) -> Workbench:
        """Functions in this process."""
        if self._workbench is not None:
            self._workbench.close()
        self._workbench = Workbench(_LocalGround())
        return self._workbench

    def close(self) -> None:
        """Unload what was loaded."""
        if self._model is not None:
            self._model.close()
            self._model = None
        if self._workbench is not None:
            self._workbench.close()
            self._workbench = None


class _LocalGround:
    """This process, as a workbench needs it."""

    address = _HERE

    def limit(self, seconds: float, doing: str) -> contextlib.AbstractContextManager[None]:  # noqa: ARG002
        return contextlib.nullcontext()

    def runtime_function(self, name: str) -> Callable[..., Any]:
        import tvm_ffi

        function: Callable[..., Any] = tvm_ffi.get_global_func(name)
        return function

    def device(self) -> Any:
        import tvm

        return tvm.cpu(0)

    def load_library(self, library: bytes, timeout: float) -> Any:  # noqa: ARG002
        return _load_module(library, "functions.so")


def _load_module(library: bytes, name: str) -> Any:
    import tvm

    # The loader maps the file; once mapped, the name may go.
    with tempfile.TemporaryDirectory(prefix="edgevit-") as folder:
        path = Path(folder) / name
        path.write_bytes(library)
        return tvm.runtime.load_module(str(path))


class LocalModel(LoadedModel):
    """A library loaded in this process."""

    def __init__(self, artifact: Artifact) -> None:
        import tvm
        from tvm import relax

        super().__init__(artifact)
        gpu = artifact.manifest.target.gpu
        self._device = tvm.device(gpu.api if gpu else "cpu", 0)
        if gpu and not self._device.exist:
            raise no_gpu(gpu.api, _HERE)
        self._vm: Any = None
        self._arguments: list[Any] = []
        try:
            module = _load_module(artifact.library, artifact.manifest.library.file)
            self._vm = relax.VirtualMachine(module, self._device)
        except Exception as error:
            raise load_error(error, _HERE) from error

    def set_inputs(self, inputs: Tensors, *, timeout: float = RUN_TIMEOUT) -> None:  # noqa: ARG002
        """Hand the inputs to the virtual machine."""
        import tvm

        arrays = self.ordered(inputs)
        self._refuse_closed(self._vm)
        with device_errors("setting inputs", _HERE):
            self._arguments = [tvm.runtime.tensor(array, self._device) for array in arrays]
            self._vm.set_input(self._entry, *self._arguments)

    def invoke(self, *, timeout: float = RUN_TIMEOUT) -> dict[str, NDArray[np.generic]]:  # noqa: ARG002
        """Run once and copy the outputs."""
        self._refuse_unready(self._vm, self._arguments)
        with device_errors("running the model", _HERE):
            self._vm.invoke_stateful(self._entry)
            results = as_list(self._vm.get_outputs(self._entry))
            return {info.name: out.numpy() for info, out in zip(self.outputs, results, strict=True)}

    def time(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> list[float]:  # noqa: ARG002
        """Seconds of each call."""
        self._refuse_count("samples", samples)
        self._refuse_unready(self._vm, self._arguments)
        with device_errors("measuring", _HERE):
            evaluate = self._vm.time_evaluator("invoke_stateful", self._device, number=1, repeat=samples)
            return [float(seconds) for seconds in evaluate(self._entry).results]

    def profile(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> Readings:  # noqa: ARG002
        """Clock readings around every kernel call."""
        from edgevit.device.readings import take_readings

        entry = self._profile_entry()
        self._refuse_count("samples", samples)
        self._refuse_unready(self._vm, self._arguments)
        with device_errors("profiling", _HERE):
            names = [info.name for info in self.outputs]
            return take_readings(self._vm, self._device, entry, self._arguments, names, samples)

    def set_threads(self, count: int) -> int:
        """Restrict TVM's pool, which this whole process shares."""
        import tvm_ffi

        self._refuse_count("threads", count)
        with device_errors("setting threads", _HERE):
            tvm_ffi.get_global_func("runtime.config_threadpool")(THREADS_BIG_CORES, count)
            return int(tvm_ffi.get_global_func("runtime.NumThreads")())

    def usage(self) -> DeviceUsage:
        """This process."""
        import tvm_ffi

        facts = process_usage()
        return DeviceUsage(
            cpu_seconds=facts["cpu_seconds"],
            peak_rss_bytes=facts["peak_rss_bytes"],
            load_average=facts["load_average_1m"],
            threads=int(tvm_ffi.get_global_func("runtime.NumThreads")()),
        )

    def close(self) -> None:
        """Unload."""
        self._arguments = []
        dismantle(self._vm)
        self._vm = None
