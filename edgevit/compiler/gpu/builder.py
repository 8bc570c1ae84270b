"""Write a GPU kernel as one thread's work: flat buffers, vectors, groups of threads that share memory.

The text that TVM prints for OpenCL and Metal follows the statements written here one by one. Arithmetic is
float32 throughout: what is stored as float16 is widened as it is read and rounded once as it is written, so a
kernel does not care how its tensors are stored.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx

from edgevit.compiler.gpu.literals import exact_literals
from edgevit.compiler.kernels.builder import Expr, KernelBuilder

_AXES = "xyz"
_HALF, _FLOAT = "float16", "float32"
_BOOL, _BYTE = "bool", "uint8"


@dataclass(frozen=True)
class Launch:
    """Threads that run a kernel.

    Attributes:
        grid: groups along x, y and z.
        block: threads of a group along x, y and z.
    """

    grid: tuple[int, int, int]
    block: tuple[int, int, int]

    @property
    def threads(self) -> int:
        """Threads of a group."""
        return self.block[0] * self.block[1] * self.block[2]


class ThreadBuilder(KernelBuilder):
    """Collects the statements of one thread of a kernel.

    Arguments become buffer parameters in the order of their declaration.

    Args:
        name: of the function that launches the kernel.
        launch: threads that run it.
        storage: how each argument that is declared as float32 is stored, in the order of declaration; ``float16`` or
            ``float32``.
    """

    def __init__(self, name: str, launch: Launch, storage: Sequence[str]) -> None:
        super().__init__(name)
        self.launch = launch
        self._storage = list(storage)
        self._buffers: list[Any] = []
        self._truths: list[Any] = []
        self._axes = [_axis(f"blockIdx.{a}") for a in _AXES] + [_axis(f"threadIdx.{a}") for a in _AXES]

    def argument(self, name: str, size: int, dtype: str = _FLOAT) -> Any:
        """Buffer parameter of ``size`` elements."""
        stored = self._storage[len(self._buffers)]
        buffer = tirx.decl_buffer((size,), stored if dtype == _FLOAT else dtype, name=name)
        self._buffers.append(buffer)
        if dtype != _BOOL:
            return buffer
        # Neither language has vectors of truth values in memory.
        view = tirx.decl_buffer((size,), _BYTE, name=f"{name}_bytes", data=buffer.data)
        self._add(tirx.DeclBuffer(view, data=buffer.data))
        self._truths.append(view)
        return view

    def group(self, axis: int) -> Expr:
        """Index of the thread's group along an axis: 0 for x, 1 for y, 2 for z."""
        return self._axes[axis].var if self.launch.grid[axis] > 1 else tirx.const(0, "int32")

    def thread(self, axis: int) -> Expr:
        """Index of the thread within its group along an axis."""
        return self._axes[3 + axis].var if self.launch.block[axis] > 1 else tirx.const(0, "int32")

    def shared(self, size: int, name: str = "shared") -> Any:
        """Array of floats that the threads of a group share."""
        buffer = tirx.decl_buffer((size,), _FLOAT, name=self._fresh(name), scope="shared")
        self._add(tirx.AllocBuffer(buffer))
        return buffer

    def barrier(self) -> None:
        """Wait until every thread of the group is here and sees what the others wrote to shared memory."""
        self._add(tirx.Evaluate(tirx.call_intrin("int32", "tirx.tvm_storage_sync", "shared")))

    def load(self, buffer: Any, index: Expr, lanes: int = 1) -> Expr:
        """``lanes`` consecutive elements from ``index``; float16 is widened, bytes of a bool argument become bool."""
        value = super().load(buffer, index, lanes)
        if self._holds_truths(buffer):
            return tirx.NE(value, tirx.const(0, str(value.ty)))
        if str(buffer.dtype) != _HALF:
            return value
        return tirx.Cast(_FLOAT if lanes == 1 else f"{_FLOAT}x{lanes}", value)

    def store(self, buffer: Any, index: Expr, value: Expr, lanes: int = 1) -> None:
        """Write ``lanes`` consecutive elements from ``index``, rounded to the buffer's type."""
        if str(buffer.dtype) == _HALF:
            value = tirx.Cast(_HALF if lanes == 1 else f"{_HALF}x{lanes}", value)
        if self._holds_truths(buffer):
            byte = _BYTE if lanes == 1 else f"{_BYTE}x{lanes}"
            value = tirx.Select(value, tirx.const(1, byte), tirx.const(0, byte))
        super().store(buffer, index, value, lanes)

    def _holds_truths(self, buffer: Any) -> bool:
        return any(buffer.same_as(view) for view in self._truths)

    def lane(self, vector: Expr, index: int, lanes: int) -> Expr:
        """One element of a vector."""
        return vector if lanes == 1 else tirx.Shuffle([vector], [tirx.const(index, "int32")])

    @contextlib.contextmanager
    def unless(self, condition: Expr) -> Iterator[None]:
        """Statements that run only if ``condition`` does not hold."""
        with self.when(tirx.Not(condition)):
            yield

    @contextlib.contextmanager
    def inside(self, condition: Expr | None) -> Iterator[None]:
        """Statements that run only if ``condition`` holds; None always does."""
        if condition is None:
            yield
        else:
            with self.when(condition):
                yield

    def finish(self) -> Any:
        """The function: it launches the kernel over all threads."""
        if len(self._blocks) != 1:
            raise AssertionError(f"{self.name}: a loop is still open")
        body = self._blocks[0][0] if len(self._blocks[0]) == 1 else tirx.SeqStmt(self._blocks[0])
        extents = (*self.launch.grid, *self.launch.block)
        # Kernels always have all x axes: a kernel without any would run on the host.
        for place in reversed(range(6)):
            if extents[place] > 1 or place in (0, 3):
                body = tirx.AttrStmt(self._axes[place], "thread_extent", tirx.const(extents[place], "int32"), body)
        function = tirx.PrimFunc(self._buffers, exact_literals(body))
        return function.with_attr("tirx.noalias", True).with_attr("global_symbol", self.name)


def cover(extent: int, block: int) -> int:
    """Groups of ``block`` that cover ``extent``."""
    return -(-extent // block)


def div(index: Expr, divisor: int) -> Expr:
    """Quotient of an index, which is never negative."""
    return index if divisor == 1 else tirx.truncdiv(index, divisor)


def mod(index: Expr, divisor: int) -> Expr:
    """Remainder of an index, which is never negative."""
    return tirx.const(0, "int32") if divisor == 1 else tirx.truncmod(index, divisor)


def within(*limits: tuple[Expr, int, int]) -> Expr | None:
    """Whether every (index, extent, indices there are) is below its extent; None where all are anyway."""
    checks = [index < extent for index, extent, covered in limits if covered > extent]
    return None if not checks else functools.reduce(tirx.And, checks)


def _axis(tag: str) -> Any:
    return tirx.IterVar(None, tirx.Var(tag.replace(".", "_"), "int32"), 1, tag)
