"""Small GPU kernels, written in TIR, compiled by TVM, and read back from the library that it exports."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevit.emulate.build import build
from edgevit.emulate.executor import Executor, Memory, Traffic
from edgevit.emulate.library import Kernel, Shipped, library_blob, parse_blob
from edgevit.emulate.plan import Launch, Limits

GROUPS, THREADS, LANES = 4, 64, 4
SIZE = GROUPS * THREADS * LANES
LIMITS = Limits(max_threads=256, local_bytes=32768, simd=32)

Array = NDArray[Any]


@dataclass(frozen=True)
class Made:
    """A kernel ``turn_kernel`` with two buffers, and how it is launched."""

    shipped: Shipped
    launch: Launch

    @property
    def text(self) -> str:
        return self.shipped.kernels["turn_kernel"].text

    def edited(self, old: str, new: str) -> Made:
        """The same with another text; ``old`` must be there."""
        assert old in self.text, f"{old!r} is not in\n{self.text}"
        return self.with_text(self.text.replace(old, new))

    def with_text(self, text: str) -> Made:
        kernel = replace(self.shipped.kernels["turn_kernel"], text=text)
        return replace(self, shipped=replace(self.shipped, kernels={"turn_kernel": kernel}))

    def run(
        self,
        source: Array,
        *,
        out: Array | None = None,
        limits: Limits = LIMITS,
        defined: Array | None = None,
        checked: bool = True,
    ) -> tuple[Array, Traffic]:
        """What the second buffer holds afterwards, and what was counted."""
        out = np.zeros_like(source) if out is None else out
        executor = Executor(build(self.shipped, checked=checked), limits, checked)
        executor.launch(self.launch, [memory(source, defined), memory(out, np.zeros(out.nbytes, np.uint8))])
        return out, executor.traffic["turn_kernel"]


def memory(array: Array, defined: Array | None = None) -> Memory:
    return Memory(array.ctypes.data, array.nbytes, array.itemsize, defined)


def library(api: str, dtype: str) -> bytes:
    """A library for x86-64 Linux as TVM exports it; its program calls ``turn`` three times in a row."""
    import tvm
    from tvm import relax, tirx

    target: dict[str, Any] = {
        "kind": api,
        "max_threads_per_block": LIMITS.max_threads,
        "max_shared_memory_per_block": LIMITS.local_bytes,
        "host": {"kind": "llvm", "mtriple": "x86_64-linux-gnu"},
    }
    if api == "metal":
        target["thread_warp_size"] = LIMITS.simd
    builder = relax.BlockBuilder()
    stub = tirx.PrimFunc(_turn(dtype).params, tirx.Evaluate(tirx.const(0, "int32")))
    turn = builder.add_func(stub.with_attr("op_pattern", 8).with_attr("tirx.noalias", True), "turn")
    kind = relax.TensorType((SIZE,), dtype)
    value = relax.Var("x", kind)
    with builder.function("main", [value]):
        with builder.dataflow():
            once = builder.emit(relax.call_tir(turn, [value], kind))
            twice = builder.emit(relax.call_tir(turn, [once], kind))
            result = builder.emit_output(relax.call_tir(turn, [twice], kind))
        builder.emit_func_output(result)

    @tvm.transform.module_pass(opt_level=0, name="Add")
    def add(module: Any, _: Any) -> Any:
        functions = dict(module.functions_items())
        functions[module.get_global_var("turn")] = _turn(dtype).with_attr("global_symbol", "turn")
        return tvm.IRModule(functions, attrs=module.attrs)

    pipeline = tvm.transform.Sequential([relax.get_pipeline("default"), add])
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        executable = tvm.compile(builder.get(), tvm.target.Target(target), relax_pipeline=pipeline)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.so"
        executable.export_library(str(path))
        return path.read_bytes()


@cache
def made(api: str, dtype: str) -> Made:
    """Reverses the vectors of four inside each group and stores twice their exponentials."""
    shipped = parse_blob(library_blob(library(api, dtype)))
    launch = Launch(function="turn", kernel="turn_kernel", grid=(GROUPS, 1, 1), block=(THREADS, 1, 1), arguments=(0, 1))
    return Made(shipped, launch)


def expected(source: Array) -> Array:
    """What ``made`` computes, by numpy in float32."""
    turned = source.astype(np.float32).reshape(GROUPS, THREADS, LANES)[:, ::-1]
    return np.asarray(2 * np.exp(turned)).reshape(-1)


def written(api: str, text: str, arguments: int, *, grid: int = 1, block: int = THREADS) -> Made:
    """A kernel ``turn_kernel`` from a text by hand."""
    shipped = Shipped(api, {"turn_kernel": Kernel("turn_kernel", text, arguments, ())}, b"")  # type: ignore[arg-type]
    launch = Launch(
        function="turn",
        kernel="turn_kernel",
        grid=(grid, 1, 1),
        block=(block, 1, 1),
        arguments=tuple(range(arguments)),
    )
    return Made(shipped, launch)


def _turn(dtype: str) -> Any:
    from tvm import tirx

    source = tirx.decl_buffer((SIZE,), dtype, name="A")
    result = tirx.decl_buffer((SIZE,), dtype, name="B")
    shared = tirx.decl_buffer((THREADS * LANES,), "float32", name="s", scope="shared")
    group = tirx.IterVar(None, tirx.Var("bx", "int32"), 1, "blockIdx.x")
    thread = tirx.IterVar(None, tirx.Var("tx", "int32"), 1, "threadIdx.x")
    at = tirx.Ramp((group.var * THREADS + thread.var) * LANES, 1, LANES)
    turned = tirx.BufferLoad(shared, [tirx.Ramp((THREADS - 1 - thread.var) * LANES, 1, LANES)])
    value = tirx.exp(turned) * tirx.Broadcast(tirx.const(2.0, "float32"), LANES)
    wide = tirx.Cast(f"float32x{LANES}", tirx.BufferLoad(source, [at]))
    body = tirx.SeqStmt(
        [
            tirx.AllocBuffer(shared),
            tirx.BufferStore(shared, wide, [tirx.Ramp(thread.var * LANES, 1, LANES)]),
            tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared")),
            tirx.BufferStore(result, tirx.Cast(f"{dtype}x{LANES}", value), [at]),
        ]
    )
    for axis, extent in ((thread, THREADS), (group, GROUPS)):
        body = tirx.AttrStmt(axis, "thread_extent", tirx.const(extent, "int32"), body)
    return tirx.PrimFunc([source, result], body).with_attr("tirx.noalias", True).with_attr("op_pattern", 8)
