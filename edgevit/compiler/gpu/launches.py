"""What a compiled module launches: read off the host code that TVM lowered, not off what the kernels' authors meant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from edgevit.errors import ToolchainError

_AXES = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")


@dataclass(frozen=True)
class KernelLaunch:
    """One launch by a host function.

    Attributes:
        kernel: its name in the kernel text.
        grid: groups along x, y and z.
        block: threads of a group along x, y and z.
        arguments: for every buffer of the kernel, the position of the host function's parameter that it is; -1 for
            the first of the function's own workspaces, -2 for the second, and so on.
        workspaces: bytes of the function's own device memory, alike for all its launches.
        bytes: of the kernel's buffers, each counted once.
    """

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[int, ...]
    workspaces: tuple[int, ...] = ()
    bytes: int = 0


def host_launches(module: Any) -> dict[str, tuple[KernelLaunch, ...]]:
    """The launches of every host function of a lowered module, in the order in which it makes them.

    Args:
        module: TIR functions after host and device code were parted.

    Returns:
        By the name under which the function is called.

    Raises:
        ToolchainError: a function launches conditionally, in a loop, or over a number of threads that is not known
            before it runs.
    """
    found = {}
    for _, function in module.functions_items():
        name = function.attrs.get("global_symbol") if function.attrs else None
        if name is None or "tirx.is_global_func" in function.attrs:
            continue
        reader = _HostReader(function)
        launches = reader.launches()
        if launches:
            found[str(name).removeprefix("__tvm_ffi_")] = launches
    return found


class _HostReader:
    """Follows one host function's variables back to its parameters."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._definitions: dict[Any, Any] = {}
        self._sizes: dict[Any, int] = {}
        self._workspaces: list[tuple[Any, int]] = []
        self._calls: list[Any] = []

    def launches(self) -> tuple[KernelLaunch, ...]:
        self._statement(self._function.body, once=True)
        sizes = tuple(size for _, size in self._workspaces)
        return tuple(self._launch(call, sizes) for call in self._calls)

    def _statement(self, statement: Any, *, once: bool) -> None:
        """Note what a statement defines, allocates and calls; ``once`` if it certainly runs, and only once."""
        if isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                self._statement(part, once=once)
        elif isinstance(statement, tirx.Bind):
            self._definitions[statement.var] = statement.value
        elif isinstance(statement, tirx.DeclBuffer):
            self._definitions[statement.buffer] = statement.data
            self._sizes[statement.buffer] = _bytes(statement.buffer)
        elif isinstance(statement, tirx.AllocBuffer):
            self._workspaces.append((statement.buffer, _bytes(statement.buffer)))
            self._sizes[statement.buffer] = _bytes(statement.buffer)
        elif isinstance(statement, tirx.Evaluate):
            self._call(statement.value, once=once)
        elif isinstance(statement, tirx.IfThenElse):
            self._statement(statement.then_case, once=False)
            if statement.else_case is not None:
                self._statement(statement.else_case, once=False)
        elif isinstance(statement, (tirx.For, tirx.AttrStmt)):
            self._statement(statement.body, once=once and isinstance(statement, tirx.AttrStmt))

    def _call(self, expression: Any, *, once: bool) -> None:
        if _operator(expression) != "tirx.call_ffi_kernel":
            return
        if not once:
            raise ToolchainError(f"kernel {expression.args[0].value} is launched conditionally or in a loop.")
        self._calls.append(expression)

    def _launch(self, call: Any, workspaces: tuple[int, ...]) -> KernelLaunch:
        tags = [str(tag) for tag in call.attrs["launch_params"]]
        name, *rest = call.args
        buffers, extents = rest[: len(rest) - len(tags)], rest[len(rest) - len(tags) :]
        shape = dict.fromkeys(_AXES, 1) | {
            t: self._extent(e, str(name.value)) for t, e in zip(tags, extents, strict=True)
        }
        sizes = [shape[axis] for axis in _AXES]
        return KernelLaunch(
            str(name.value),
            (sizes[0], sizes[1], sizes[2]),
            (sizes[3], sizes[4], sizes[5]),
            tuple(self._position(buffer, str(name.value)) for buffer in buffers),
            workspaces,
            sum(self._sizes[buffer.args[0]] for buffer in buffers),
        )

    def _extent(self, extent: Any, kernel: str) -> int:
        if not isinstance(extent, tirx.IntImm):
            raise ToolchainError(f"the number of threads of kernel {kernel} is not known before it runs.")
        return int(extent.value)

    def _position(self, expression: Any, kernel: str) -> int:
        """Position of the parameter that an argument comes from, or the number of a workspace."""
        found = self._origins(expression)
        if len(found) != 1:
            raise ToolchainError(f"an argument of kernel {kernel} is not one of its host function's.")
        return found.pop()

    def _origins(self, expression: Any) -> set[int]:
        """Positions of the packed arguments, and numbers of the workspaces, that an expression is computed from."""
        for index, (buffer, _) in enumerate(self._workspaces):
            if buffer.same_as(expression):
                return {-1 - index}
        if expression in self._definitions:
            return self._origins(self._definitions[expression])
        if _operator(expression) == "tirx.tvm_struct_get" and expression.args[0].same_as(self._function.params[1]):
            return {int(expression.args[1].value)}
        return {found for part in getattr(expression, "args", ()) for found in self._origins(part)}


def _operator(expression: Any) -> str:
    return str(getattr(getattr(expression, "op", None), "name", ""))


def _bytes(buffer: Any) -> int:
    scalar, _, lanes = str(buffer.dtype).partition("x")
    size = np.dtype(scalar).itemsize * int(lanes or 1)
    for extent in buffer.shape:
        size *= int(extent)
    return size
