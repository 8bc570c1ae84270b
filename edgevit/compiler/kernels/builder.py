"""Write a kernel as loops over flat buffers, vectors and registers.

Kernels here are not derived from a tensor expression by a scheduler; a family writes the loop nest it wants,
with its register tile unrolled, and LLVM keeps what it should in registers. Every buffer is one-dimensional:
index arithmetic stays in sight, and one function serves tensors of any rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from tvm import ir, tirx

Expr = Any
"""A TIR expression (TVM's Python classes carry no types), or a Python number where TVM accepts one."""


class KernelBuilder:
    """Collects the statements of one kernel.

    Arguments become pointer parameters in the order of their declaration. Kernels return 0: TVM's parallel
    loops leave the function early with another value when a thread fails.

    Args:
        name: of the function, as profiles show it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._pointers: list[Any] = []
        self._declarations: list[Any] = []
        self._blocks: list[list[Any]] = [[]]
        self._names = 0

    def argument(self, name: str, size: int, dtype: str = "float32") -> Any:
        """Buffer parameter of ``size`` elements."""
        pointer = tirx.Var(f"{name}_pointer", ir.PointerType(ir.PrimType(dtype)))
        buffer = tirx.decl_buffer((size,), dtype, name=name, data=pointer)
        self._pointers.append(pointer)
        self._declarations.append(tirx.DeclBuffer(buffer, data=pointer))
        return buffer

    def registers(self, size: int, dtype: str = "float32", name: str = "registers") -> Any:
        """Local array for constant indices only; LLVM turns it into registers."""
        # Without the annotation, arrays of more than 1 KiB would move to the runtime's workspace, in memory.
        return self._allocate(size, dtype, name, "local", {"disable_lower_builtin": tirx.const(1, "int32")})

    def scratch(self, size: int, dtype: str = "float32", name: str = "scratch") -> Any:
        """Array in the thread's own workspace, which the runtime keeps from run to run."""
        return self._allocate(size, dtype, name, "global")

    def _allocate(self, size: int, dtype: str, name: str, scope: str, annotations: dict[str, Any] | None = None) -> Any:
        buffer = tirx.decl_buffer((size,), dtype, name=self._fresh(name), scope=scope)
        self._add(tirx.AllocBuffer(buffer, annotations=annotations or {}))
        return buffer

    def load(self, buffer: Any, index: Expr, lanes: int = 1) -> Expr:
        """``lanes`` consecutive elements from ``index``, as a scalar when there is one."""
        return tirx.BufferLoad(buffer, [_span(index, lanes)])

    def splat(self, value: Expr, lanes: int) -> Expr:
        """``value`` in every lane."""
        return value if lanes == 1 else tirx.Broadcast(value, lanes)

    def constant(self, value: float, dtype: str = "float32", lanes: int = 1) -> Expr:
        """A number in every lane."""
        return self.splat(tirx.const(value, dtype), lanes)

    def store(self, buffer: Any, index: Expr, value: Expr, lanes: int = 1) -> None:
        """Write ``lanes`` consecutive elements from ``index``."""
        self._add(tirx.BufferStore(buffer, value, [_span(index, lanes)]))

    def store_first(self, buffer: Any, index: Expr, value: Expr, lanes: int, count: int) -> None:
        """Write the first ``count`` of ``value``'s ``lanes`` elements, in as few stores as powers of two allow."""
        if count == lanes:
            self.store(buffer, index, value, lanes)
            return
        value = self.bind(value)
        done = 0
        for width in powers_of_two(count):
            part = tirx.Shuffle([value], [tirx.const(done + lane, "int32") for lane in range(width)])
            self.store(buffer, index + done, part, width)
            done += width

    def flatten(self, value: Expr) -> Expr:
        """The value, with the names inside it turned into statements.

        TVM's simplifier trips over names within a named expression.
        """
        while isinstance(value, tirx.Let):
            self._add(tirx.Bind(value.var, value.value))
            value = value.body
        return value

    def bind(self, value: Expr, name: str = "value") -> Expr:
        """Name for a value that is used more than once, so that it is computed once."""
        value = self.flatten(value)
        variable = tirx.Var(self._fresh(name), value.ty)
        self._add(tirx.Bind(variable, value))
        return variable

    @contextlib.contextmanager
    def loop(self, extent: Expr, name: str = "i", start: Expr = 0) -> Iterator[Expr]:
        """Serial loop; an extent of one leaves no loop behind."""
        if extent == 1:
            yield _integer(start)
            return
        with self._for(start, extent, name, tirx.ForKind.SERIAL) as variable:
            yield variable

    @contextlib.contextmanager
    def parallel(self, extent: int, name: str = "task") -> Iterator[Expr]:
        """Loop whose iterations are spread evenly over the threads; never inside another one."""
        if extent == 1:
            yield _integer(0)
            return
        with self._for(0, extent, name, tirx.ForKind.PARALLEL) as variable:
            yield variable

    @contextlib.contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements that run only if ``condition`` holds."""
        self._blocks.append([])
        yield
        self._add(tirx.IfThenElse(condition, _sequence(self._blocks.pop()), None))

    def finish(self) -> Any:
        """The function, private to its module; it returns 0."""
        if len(self._blocks) != 1:
            raise AssertionError(f"{self.name}: a loop is still open")
        leave = tirx.Return(tirx.const(0, "int32"))
        body = _sequence([*self._declarations, *self._blocks[0], leave])
        # Lowering of allocations asks for the device a function runs on: entry functions get it from their packed
        # arguments, private ones have to say it.
        for key, value in (("device_type", 1), ("device_id", 0)):
            body = tirx.AttrStmt("default", key, tirx.const(value, "int32"), body)
        return tirx.PrimFunc(self._pointers, body, ret_type=ir.PrimType("int32"))

    @contextlib.contextmanager
    def _for(self, start: Expr, extent: Expr, name: str, kind: Any) -> Iterator[Expr]:
        variable = tirx.Var(self._fresh(name), "int32")
        self._blocks.append([])
        yield variable
        body = _sequence(self._blocks.pop())
        self._add(tirx.For(variable, _integer(start), _integer(extent), kind, body))

    def _add(self, statement: Any) -> None:
        self._blocks[-1].append(statement)

    def _fresh(self, name: str) -> str:
        self._names += 1
        return f"{name}{self._names}"


def powers_of_two(count: int) -> list[int]:
    """Descending powers of two that add up to ``count``: 21 is 16 + 4 + 1."""
    return [1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1]


def minimum(first: Expr, second: Expr) -> Expr:
    """The smaller of two index expressions."""
    return tirx.min(first, second)


def _integer(value: Expr) -> Expr:
    return tirx.const(value, "int32") if isinstance(value, int) else value


def _span(index: Expr, lanes: int) -> Expr:
    return _integer(index) if lanes == 1 else tirx.Ramp(_integer(index), 1, lanes)


def _sequence(statements: Sequence[Any]) -> Any:
    if not statements:
        return tirx.Evaluate(tirx.const(0, "int32"))
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(list(statements))
