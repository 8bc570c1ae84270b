"""A session that executes the very kernel text of a GPU artifact on this machine. Its times mean nothing."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from edgevit.device.rpc import RpcModel, RpcSession
from edgevit.device.session import LOAD_TIMEOUT, RUN_TIMEOUT, DeviceInfo, LoadedModel
from edgevit.device.spawn import connect_process
from edgevit.emulate import available
from edgevit.emulate.build import build, tool
from edgevit.emulate.library import Shipped, read_shipped
from edgevit.emulate.plan import Limits, Plan, artifact_launches, limits_of
from edgevit.emulate.worker import PREPARE, REPORT
from edgevit.errors import CheckFailed, DeviceMismatch, EdgevitError, ToolchainError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgevit.artifact import Artifact
    from edgevit.device.readings import Readings
    from edgevit.device.session import Tensors
    from edgevit.device.workbench import Workbench
    from edgevit.target_schema import Target

ExecutorName = Literal["edgevit", "pocl"]
_SHOWN_LAYERS = 3


def connect_gpu(
    target: Target,
    *,
    executor: ExecutorName = "edgevit",
    checked: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> GpuSession:
    """A session that executes artifacts of a GPU target.

    Args:
        target: with a GPU.
        executor: ``edgevit``, which checks every access to memory, or ``pocl``, another compiler and runtime.
        checked: False leaves the checks out, for speed.
        progress: told kernels compiled and kernels in all while an artifact is loaded.

    Raises:
        ToolchainError: the kernels cannot be emulated here, or PoCL is asked for and is not there.
        DeviceError: the process did not start.
    """
    if (reason := available(target)) is not None:
        raise ToolchainError(f"{reason}.", advice="Check the artifact on a device, or on a Linux machine.")
    if executor == "pocl":
        from edgevit.emulate.pocl import pocl_tool

        name = pocl_tool()
    else:
        name = tool()
    make = partial(
        GpuSession,
        target=target,
        executor=executor,
        checked=checked and executor == "edgevit",
        tool=name,
        progress=progress,
    )
    return connect_process(module="edgevit.emulate.worker", session=make)


class GpuSession(RpcSession):
    """A worker process with an emulated GPU.

    Attributes:
        tool: what compiles the kernels, with its version.
        checked: whether every access to memory is checked.
    """

    def __init__(
        self,
        *arguments: Any,
        target: Target,
        executor: ExecutorName,
        checked: bool,
        tool: str,
        progress: Callable[[int, int], None] | None,
        **more: Any,
    ) -> None:
        self._target = target
        self._executor = executor
        self.checked = checked
        self._progress = progress
        self.tool = tool
        more.update(kind="emulated", emulated=True)
        super().__init__(*arguments, **more)
        self.address = f"{target.gpu.api if target.gpu else 'GPU'} kernels on this machine, {tool}"

    def describe(self) -> DeviceInfo:
        """What executes the kernels."""
        return DeviceInfo(kind=self.kind, address=self.address, emulated=True, runtime=self.tool)

    def load(self, artifact: Artifact, *, timeout: float = LOAD_TIMEOUT) -> LoadedModel:
        """Compile the artifact's kernels for this machine and load its program.

        Raises:
            ArtifactError: the library is damaged, or its manifest does not fit it.
            DeviceMismatch: it was compiled for a CPU, or with another TVM.
            ToolchainError: a kernel does not compile here.
        """
        if self._model is not None:
            self._model.close()
        self._refuse_mismatch(artifact)
        self._model = GpuModel(self, artifact, timeout)
        return self._model

    def load_program(self, artifact: Artifact, timeout: float) -> Any:
        """TVM's module of the program, whose functions launch the artifact's kernels."""
        gpu = artifact.manifest.target.gpu
        assert gpu is not None
        shipped = read_shipped(artifact)
        plan = self._plan(shipped, limits_of(gpu)).model_copy(update={"launches": artifact_launches(artifact, shipped)})
        self._upload(plan.model_dump_json().encode(), "plan.json", timeout)
        with self.limit(timeout, "preparing kernels"):
            self.runtime_function(PREPARE)("plan.json")
        return self.load_library(shipped.machine, timeout, "program.bin")

    def report(self) -> dict[str, Any]:
        """What ran since the artifact was loaded."""
        found: dict[str, Any] = json.loads(str(self.call(REPORT)))
        return found

    def workbench(self) -> Workbench:
        """There is none."""
        raise UserError("kernels of a GPU are not tuned in emulation.", advice="Use a device.")

    def _plan(self, shipped: Shipped, limits: Limits) -> Plan:
        if self._executor == "pocl":
            texts = {name: kernel.text for name, kernel in shipped.kernels.items()}
            return Plan(executor="pocl", texts=texts, checked=False, limits=limits, launches=())
        library = build(shipped, checked=self.checked, progress=self._progress)
        return Plan(executor="edgevit", library=str(library), checked=self.checked, limits=limits, launches=())

    def _upload(self, data: bytes, name: str, timeout: float) -> None:
        with self.limit(timeout, "sending the plan of launches"):
            self.remote.upload(bytearray(data), name)

    def _refuse_mismatch(self, artifact: Artifact) -> None:
        """Unlike a device's, this session's processor does not matter."""
        import tvm

        if artifact.manifest.target.gpu is None:
            raise DeviceMismatch(
                f"the artifact was compiled for the CPU of {artifact.manifest.target.name}.",
                advice="Emulate that target instead.",
            )
        wanted = artifact.manifest.tools.get("apache-tvm")
        if wanted and wanted != tvm.__version__:
            raise DeviceMismatch(
                f"the artifact was compiled with TVM {wanted}, emulation runs {tvm.__version__}.",
                advice="Compile the model again.",
            )


class GpuModel(RpcModel):
    """An artifact's program and kernels in a worker process."""

    _session: GpuSession

    def invoke(self, *, timeout: float = RUN_TIMEOUT) -> dict[str, NDArray[np.generic]]:
        """Run once and fetch the outputs.

        Raises:
            CheckFailed: a kernel did what no kernel may do.
        """
        with self._faults():
            return super().invoke(timeout=timeout)

    def run_batch(
        self, batch: Sequence[Tensors], *, timeout: float = RUN_TIMEOUT
    ) -> list[dict[str, NDArray[np.generic]]]:
        """One inference after the other; raises as :meth:`invoke`."""
        with self._faults():
            return super().run_batch(batch, timeout=timeout)

    def time(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> list[float]:  # noqa: ARG002
        """Refused: how long emulation takes says nothing about a GPU."""
        raise _no_times()

    def profile(self, samples: int, *, timeout: float = RUN_TIMEOUT) -> Readings:  # noqa: ARG002
        """Refused, as :meth:`time`."""
        raise _no_times()

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what a kernel did wrong into a failed check; other errors pass."""
        try:
            yield
        except EdgevitError:
            fault = None
            with contextlib.suppress(EdgevitError):
                fault = self._session.report().get("fault")
            if fault is None:
                raise
            raise CheckFailed(
                f"{fault}.",
                where=self._layers(str(fault)),
                advice="The kernel is wrong, whatever a GPU makes of it: compile the model again, or report it.",
            ) from None

    def _layers(self, fault: str) -> str | None:
        """The model's nodes that the faulty kernel computes, where the manifest says."""
        resolution = self.artifact.resolution
        functions = {launch.function for launch in resolution.launches if fault.endswith(f" {launch.kernel}")}
        layers = {layer for call in resolution.program if call.kernel in functions for layer in call.layers}
        return ", ".join(sorted(layers)[:_SHOWN_LAYERS]) + (", …" if len(layers) > _SHOWN_LAYERS else "") or None

    def _load(self, timeout: float) -> None:
        from tvm import relax

        module = self._session.load_program(self.artifact, timeout)
        with self._session.limit(timeout, "loading the model"):
            self._device = self._session.device()
            try:
                self._vm = relax.VirtualMachine(module, self._device)
            except Exception as error:
                if lacking := re.search(r"Cannot find ffi::Function (\S+) in", str(error)):
                    raise CheckFailed(
                        f"the program calls {lacking[1]}, which launches no kernel.",
                        where=str(self.artifact.path) if self.artifact.path else None,
                        advice="The CPU would have to do it, on memory that is the GPU's: report it.",
                    ) from error
                raise
            del module


def _no_times() -> UserError:
    return UserError(
        "emulated kernels have no times: how long they take here says nothing about a GPU.",
        advice="Measure on a device.",
    )
