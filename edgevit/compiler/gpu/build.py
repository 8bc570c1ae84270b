"""TVM's executable for a module whose kernels run on a GPU, and what it launches."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgevit.compiler.gpu.launches import KernelLaunch, host_launches
from edgevit.compiler.rest import fuse_rest
from edgevit.errors import ToolchainError
from edgevit.target_schema import Target

if TYPE_CHECKING:
    import tvm

_PIPELINE = "edgevit_gpu"
_TVM_FAMILY = "tvm"
_PASSED_OVER = frozenset({"ThreadSync", "StmtSimplify", "CommonSubexprElim"})
"""Passes that kernels of ours do without."""


@dataclass(frozen=True)
class Built:
    """A compiled module.

    Attributes:
        executable: TVM's.
        launches: of every function that the virtual machine calls, by its name.
        order: names of such functions in the order in which each program calls them, by the program's name.
        storage_bytes: device memory between kernels, by the program's name.
        rest_kernels: number of kernels that TVM's schedules wrote, under their family's name.
    """

    executable: tvm.runtime.Executable
    launches: Mapping[str, tuple[KernelLaunch, ...]]
    order: Mapping[str, tuple[str, ...]]
    storage_bytes: Mapping[str, int]
    rest_kernels: dict[str, int]

    def launches_of(self, program: str) -> tuple[tuple[str, KernelLaunch], ...]:
        """What a program launches, in order: the function called and its launch."""
        return tuple((name, launch) for name in self.order[program] for launch in self.launches[name])


def gpu_target(target: Target) -> dict[str, object]:
    """The dictionary that ``tvm.target.Target`` takes for kernels on a target's GPU."""
    gpu = target.gpu
    assert gpu is not None
    limits: dict[str, object] = {
        "kind": gpu.api,
        "max_threads_per_block": gpu.max_threads,
        "max_num_threads": gpu.max_threads,
        "max_shared_memory_per_block": gpu.local_bytes,
        "host": target.tvm_target(),
    }
    # Without warps TVM's schedules reduce in shared memory, which every OpenCL device can.
    return limits | ({"thread_warp_size": gpu.simd} if gpu.api == "metal" else {})


def build_gpu(module: Any, target: Target, bodies: Mapping[str, Any], *, pipeline: Any = None) -> Built:
    """Compile a module.

    Args:
        module: Relax functions that call placeholders, and what TVM imported.
        target: to generate code for.
        bodies: the kernels that take the placeholders' place.
        pipeline: passes that lower the Relax functions; None for those that leave scheduled functions as they are.

    Raises:
        ToolchainError: a kernel breaks the GPU's limits.
    """
    import tvm
    from tvm import relax
    from tvm.tirx import compilation_pipeline

    tvm_target = tvm.target.Target(gpu_target(target))
    imported = fuse_rest(module, target)
    if imported is not None:
        module = _schedule(imported, tvm_target)
    reader = _Reader(target)
    plan = pipeline or relax.get_pipeline("default")
    lower_host = tvm.transform.Sequential([plan, _with_bodies(bodies), reader.programs()])
    compilation_pipeline.PIPELINE_MAP[_PIPELINE] = lambda: _recording(reader, tvm_target, bodies.keys())
    with tvm.transform.PassContext(opt_level=3):
        executable = tvm.compile(module, tvm_target, relax_pipeline=lower_host, tir_pipeline=_PIPELINE)
    order = {name: tuple(calls) for name, calls in reader.order.items()}
    if idle := sorted({name for calls in order.values() for name in calls} - reader.launches.keys()):
        raise ToolchainError(
            f"{', '.join(idle)} would run on the CPU, on memory of the GPU.",
            where=f"target {target.name}",
            advice="Report it together with the model; a CPU target compiles it.",
        )
    rest = {launch.kernel for name, launches in reader.launches.items() if name not in bodies for launch in launches}
    return Built(executable, reader.launches, order, reader.storage, {_TVM_FAMILY: len(rest)} if rest else {})


def kernel_text(function: Any, target: Target) -> tuple[str, KernelLaunch]:
    """Text of one kernel, as an artifact would ship it, and its launch.

    Args:
        function: from a family's ``emit``.
        target: it was emitted for.
    """
    import tvm
    from tvm import tirx
    from tvm.tirx import compilation_pipeline

    tvm_target, reader, name = tvm.target.Target(gpu_target(target)), _Reader(target), function.attrs["global_symbol"]
    compilation_pipeline.PIPELINE_MAP[_PIPELINE] = lambda: _recording(reader, tvm_target, {name})
    module = tirx.build(tvm.IRModule({name: function}), tvm_target, pipeline=_PIPELINE)
    (device,) = (part for part in module.imports if part.kind == tvm_target.kind.name)
    (launch,) = reader.launches[name]
    return str(device.inspect_source()), launch


def _schedule(module: Any, target: Any) -> Any:
    """Give what TVM imported the schedules that TVM has for GPUs."""
    from tvm.s_tir import dlight

    rules = dlight.gpu
    every = (rules.Matmul(), rules.GEMV(), rules.Reduction(), rules.GeneralReduction(), rules.Fallback())
    try:
        with target:
            return dlight.ApplyDefaultSchedule(*every)(module)
    except Exception as error:  # rules are Python that raises whatever it runs into
        last = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise ToolchainError(
            f"TVM has no schedule for GPUs for an operator that edgevit leaves to it: {last}",
            where=f"target {target.kind.name}",
            advice="'edgevit info' lists the model's operators; a CPU target compiles them.",
        ) from error


def _with_bodies(bodies: Mapping[str, Any]) -> Any:
    import tvm

    @tvm.transform.module_pass(opt_level=0, name="AddKernels")  # type: ignore[untyped-decorator]
    def add(module: Any, _: Any) -> Any:
        functions = dict(module.functions_items())
        for name, body in bodies.items():
            functions[module.get_global_var(name)] = body
        return tvm.IRModule(functions, attrs=module.attrs)

    return add


def _recording(reader: _Reader, target: Any, own: Collection[str]) -> Any:
    """TVM's pipeline for the target, with a look at what comes out.

    Kernels of ours are left as they were written: values that have a name keep it, and barriers are where they have
    to be. TVM's own planner of barriers takes a thread's reading of what it wrote itself for another's.
    """
    import tvm
    from tvm import tirx

    lower, finish_host, finish_device = tirx.get_default_tir_pipeline(target)

    @tvm.transform.module_pass(opt_level=0, name="RecordLaunches")  # type: ignore[untyped-decorator]
    def record(module: Any, _: Any) -> Any:
        ours: dict[Any, Any] = {}
        rest: dict[Any, Any] = {}
        for variable, function in module.functions_items():
            (ours if variable.name_hint in own else rest)[variable] = function
        with tvm.transform.PassContext(opt_level=3, instruments=[_as_written()]):
            lowered = dict(lower(tvm.IRModule(ours, attrs=module.attrs)).functions_items())
        if rest:
            lowered |= dict(lower(tvm.IRModule(rest, attrs=module.attrs)).functions_items())
        result = tvm.IRModule(lowered, attrs=module.attrs)
        reader.read(result)
        return result

    return record, finish_host, finish_device


def _as_written() -> Any:
    import tvm

    @tvm.instrument.pass_instrument
    class AsWritten:
        def should_run(self, _: Any, info: Any) -> bool:
            return str(info.name).rpartition(".")[2] not in _PASSED_OVER

    return AsWritten()


class _Reader:
    """Notes what passes by while a module is compiled."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.launches: dict[str, tuple[KernelLaunch, ...]] = {}
        self.order: dict[str, list[str]] = {}
        self.storage: dict[str, int] = {}

    def programs(self) -> Any:
        """Pass that notes which functions the programs call, and the memory they ask for."""
        import tvm
        from tvm import relax

        @tvm.transform.module_pass(opt_level=0, name="RecordPrograms")  # type: ignore[untyped-decorator]
        def look(module: Any, _: Any) -> Any:
            for variable, function in module.functions_items():
                if isinstance(function, relax.Function):
                    self._program(variable.name_hint, function)
            return module

        return look

    def _program(self, name: str, function: Any) -> None:
        from tvm import ir

        self.order[name], self.storage[name] = [], 0
        for block in function.body.blocks:
            for binding in block.bindings:
                value = getattr(binding, "value", None)
                operator = getattr(value, "op", None)
                if isinstance(operator, ir.GlobalVar):
                    self.order[name].append(operator.name_hint)
                elif value is not None and str(getattr(operator, "name", "")) == "relax.vm.alloc_storage":
                    self.storage[name] += int(value.args[0].values[0].value)

    def read(self, module: Any) -> None:
        """Note the launches of a lowered module, and check its kernels.

        Raises:
            ToolchainError: a kernel breaks the GPU's limits.
        """
        from tvm.s_tir import analysis

        gpu = self._target.gpu
        assert gpu is not None
        limits = {
            "max_threads_per_block": gpu.max_threads,
            "max_shared_memory_per_block": gpu.local_bytes,
            "max_thread_x": gpu.max_threads,
            "max_thread_y": gpu.max_threads,
            "max_thread_z": gpu.max_threads,
        }
        for variable, function in module.functions_items():
            if "tirx.is_global_func" in function.attrs and not analysis.verify_gpu_code(function, limits):
                raise ToolchainError(
                    f"kernel {variable.name_hint} breaks the limits of the GPU.",
                    where=f"target {self._target.name}",
                    advice="Report it together with the model; a larger [gpu] max_threads or local_bytes may do.",
                )
        self.launches |= host_launches(module)
