"""Compile choices of one kernel into one shared library.

Each choice becomes a function of its own name whose arguments are flat tensors: the kernel's arguments, outputs last.
Choices that give the same code share a function: many a space has values that a small workload cannot tell apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from edgevit.target_schema import Target
from edgevit.tuning.records import Choice

if TYPE_CHECKING:
    from edgevit.compiler.kernels import KernelFamily

Form = tuple[tuple[int, str], ...]
"""Elements and dtype of every argument of a function."""


@dataclass(frozen=True)
class Order:
    """What to compile. It can be pickled, so that it may be compiled in another process or on another machine.

    Attributes:
        family: module of the kernel family.
        workload: of the family.
        target: to generate code for.
        choices: to compile; the first is the one that others are compared with.
    """

    family: str
    workload: Any
    target: Target
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Compiled:
    """A library of candidates.

    Attributes:
        library: for the target to load.
        functions: of the order's choices; None for those that the family refused.
        forms: of every function.
        refusals: what was said of those choices, by place in the order.
    """

    library: bytes
    functions: tuple[str | None, ...]
    forms: Mapping[str, Form]
    refusals: Mapping[int, str]


def compile_order(order: Order) -> Compiled:
    """Compile and link, in this process.

    Raises:
        ToolchainError: linking failed.
        Exception: whatever the family says of the order's first choice, or TVM of them all.
    """
    import tvm

    from edgevit.compiler.entry import build_module
    from edgevit.link import Linker

    functions: dict[Any, Any] = {}
    with tvm.target.Target(order.target.tvm_target()):  # elementary functions look at the current target
        names, forms, refusals = _emit(order, functions)
        executable = build_module(tvm.IRModule(functions), order.target)
    return Compiled(Linker(order.target).link(executable), tuple(names), forms, refusals)


def _emit(order: Order, functions: dict[Any, Any]) -> tuple[list[str | None], dict[str, Form], dict[int, str]]:
    """Add kernels and their entry functions; the name of each choice's, their forms, and refusals."""
    from tvm import ir
    from tvm_ffi import structural_equal, structural_hash

    family = cast("KernelFamily", import_module(order.family))
    names: list[str | None] = []
    forms: dict[str, Form] = {}
    refusals: dict[int, str] = {}
    known: dict[int, list[tuple[Any, str]]] = {}
    for place, choice in enumerate(order.choices):
        try:
            kernel = family.emit(order.workload, order.target, choice, "kernel")
        except Exception as error:
            if place == 0:
                raise
            refusals[place] = said(error)
            names.append(None)
            continue
        alike = known.setdefault(structural_hash(kernel), [])
        name = next((name for other, name in alike if structural_equal(other, kernel)), None)
        if name is None:
            name = f"candidate_{len(forms)}"
            forms[name] = _form(kernel)
            alike.append((kernel, name))
            variable = ir.GlobalVar(f"{name}_kernel")
            functions[variable] = kernel
            functions[name] = _entry(variable, forms[name], name)
        names.append(name)
    return names, forms, refusals


def _entry(kernel: Any, form: Form, name: str) -> Any:
    """Function of flat tensors that calls a kernel of the same module."""
    from tvm import tirx

    from edgevit.compiler.entry import address, call_kernel

    buffers = [tirx.decl_buffer((size,), dtype, name=f"argument{i}") for i, (size, dtype) in enumerate(form)]
    body = call_kernel(kernel, [address(buffer, 0) for buffer in buffers])
    entry = tirx.PrimFunc(buffers, body)
    return entry.with_attr("global_symbol", name).with_attr("tirx.noalias", True)


def _form(kernel: Any) -> Form:
    """Elements and dtype of every parameter, from the buffers that kernels declare over them first of all."""
    from tvm import tirx

    body = kernel.body
    while isinstance(body, tirx.AttrStmt):
        body = body.body
    declared = [part.buffer for part in body.seq if isinstance(part, tirx.DeclBuffer)]
    buffers = declared[: len(kernel.params)]
    assert len(buffers) == len(kernel.params)
    return tuple((int(buffer.shape[0]), str(buffer.dtype)) for buffer in buffers)


def said(error: Exception) -> str:
    """Kind and last line of an error: TVM puts a traceback before it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"
