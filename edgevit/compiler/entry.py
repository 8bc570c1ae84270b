"""Entry functions: what the outside calls, which calls the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tvm import IRModule, ir, tirx

from edgevit.compiler.program import WEIGHTS, WORKSPACE, KernelLibrary, Segment
from edgevit.link import WEIGHTS_FUNCTION
from edgevit.target_schema import Target

TIMES = "times"

_OPAQUE = 8
"""Relax's operator pattern for functions that must not be fused."""


def build_module(
    module: Any, target: Target, kernels: Mapping[Any, Any] | None = None, bodies: Mapping[str, Any] | None = None
) -> Any:
    """TVM's executable for a module.

    Args:
        module: Relax and TIR functions.
        target: to generate code for.
        kernels: private functions by the global variable that ``bodies`` call.
        bodies: what takes the place of the module's functions of these names. Kernels and their callers join after
            Relax's passes, which would make kernels public and give them other variables.
    """
    import tvm
    from tvm import relax

    @tvm.transform.module_pass(opt_level=0, name="AddKernels")  # type: ignore[untyped-decorator]
    def add_kernels(module: Any, _: Any) -> Any:
        functions = dict(module.functions_items())
        for name, function in (bodies or {}).items():
            functions[module.get_global_var(name)] = function.with_attr("global_symbol", name)
        # Adding functions one by one would give them other variables than their callers hold.
        return IRModule({**functions, **(kernels or {})}, attrs=module.attrs)

    # Storage rewriting would move register arrays out of the scope that names their device; kernels here have
    # nothing that it could improve.
    with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
        pipeline = tvm.transform.Sequential([relax.get_pipeline("default"), add_kernels])
        return tvm.compile(module, tvm.target.Target(target.tvm_target()), relax_pipeline=pipeline)


def kernel_entry(func: Any, sizes: Sequence[tuple[int, str]]) -> Any:
    """Module whose ``entry`` passes its flat tensors straight to one kernel.

    Args:
        func: kernel from :class:`edgevit.compiler.kernels.builder.KernelBuilder`.
        sizes: elements and dtype of every argument.
    """
    kernel = ir.GlobalVar("kernel")
    buffers = [tirx.decl_buffer((size,), dtype, name=f"argument{i}") for i, (size, dtype) in enumerate(sizes)]
    body = call_kernel(kernel, [address(buffer, 0) for buffer in buffers])
    entry = tirx.PrimFunc(buffers, body).with_attr("global_symbol", "entry").with_attr("tirx.noalias", True)
    return IRModule({kernel: func, "entry": entry})


def address(buffer: Any, index: int) -> Any:
    """Pointer to an element."""
    return tirx.address_of(tirx.BufferLoad(buffer, [tirx.const(index, "int32")]))


def call_kernel(kernel: Any, pointers: Sequence[Any]) -> Any:
    """Statement that calls a kernel of the same module."""
    return tirx.Evaluate(ir.Call(kernel, list(pointers), ret_ty=ir.PrimType("int32")))


def segment_entry(segment: Segment, library: KernelLibrary, clock: Any = None) -> Any:
    """Function that runs a segment's kernels.

    Its tensors are the segment's inputs and outputs, the clock's readings and the workspace, in this order; the
    workspace is absent where there is none. It finds the weights in the library that it is linked into.

    Args:
        segment: what to run.
        library: with the kernels it calls.
        clock: variable of :func:`edgevit.compiler.clock.clock_function`'s function. With it, there is an output of
            int64 nanoseconds, read before the first kernel and after each.
    """
    buffers: dict[Any, Any] = {}
    for index, tensor in enumerate(segment.inputs):
        buffers[tensor] = tirx.decl_buffer(tensor.shape, tensor.dtype, name=f"input{index}")
    for index, tensor in enumerate(segment.outputs):
        buffers[tensor] = tirx.decl_buffer(tensor.shape, tensor.dtype, name=f"output{index}")
    if clock is not None:
        buffers[TIMES] = tirx.decl_buffer((len(segment.calls) + 1,), "int64", name=TIMES)
    if segment.workspace:
        buffers[WORKSPACE] = tirx.decl_buffer((segment.workspace // 4,), "float32", name=WORKSPACE)
    parameters = list(buffers.values())
    opening = []
    if library.weights.size:
        kind = ir.PointerType(ir.PrimType("float32"))
        pointer = tirx.Var("weights_pointer", kind)
        buffers[WEIGHTS] = tirx.decl_buffer((library.weights.size // 4,), "float32", name=WEIGHTS, data=pointer)
        opening.append(tirx.Bind(pointer, tirx.call_extern(kind, WEIGHTS_FUNCTION)))
        opening.append(tirx.DeclBuffer(buffers[WEIGHTS], data=pointer))
    statements = [
        call_kernel(
            library.variables[call.function],
            [_pointer(buffers[place.buffer], place.offset) for place in call.arguments],
        )
        for call in segment.calls
    ]
    if clock is not None:
        readings = [call_kernel(clock, [address(buffers[TIMES], index)]) for index in range(len(statements) + 1)]
        statements = [readings[0], *(one for pair in zip(statements, readings[1:], strict=True) for one in pair)]
    statements = [*opening, *statements]
    body = statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
    return tirx.PrimFunc(parameters, body).with_attr("tirx.noalias", True)


def placeholder(function: Any) -> Any:
    """A function of the same signature that does nothing, for Relax's passes to look at."""
    opaque = tirx.PrimFunc(function.params, tirx.Evaluate(tirx.const(0, "int32")))
    return opaque.with_attr("op_pattern", _OPAQUE).with_attr("tirx.noalias", True)


def _pointer(buffer: Any, offset: int) -> Any:
    """Address of a byte offset: into a block of words, or a whole tensor's start."""
    if len(buffer.shape) == 1 and offset:
        return address(buffer, offset // 4)
    return tirx.address_of(tirx.BufferLoad(buffer, [tirx.const(0, "int32")] * len(buffer.shape)))
