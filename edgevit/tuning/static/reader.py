"""Read a kernel's TIR function as a loop nest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate
from math import ceil
from typing import Any

import numpy as np

from edgevit.target_schema import Target
from edgevit.tuning.static.index import Counter, Index, Mixed
from edgevit.tuning.static.nest import Access, Loop, Stretch

_FREE_CALLS = frozenset(("tirx.reinterpret", "tirx.likely", "tirx.bitcast", "tirx.ret"))
_MIXED: dict[str, Callable[..., Any]] = {
    # Operands of quotients are never negative in kernels' index arithmetic, nor is a divisor zero.
    "FloorDiv": np.floor_divide,
    "FloorMod": np.mod,
    "Div": np.floor_divide,
    "Mod": np.mod,
    "Min": np.minimum,
    "Max": np.maximum,
    "EQ": np.equal,
    "NE": np.not_equal,
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Not": np.logical_not,
    "Select": np.where,
}
_COMPARISONS = ("EQ", "NE", "LT", "LE", "GT", "GE", "And", "Or", "Not")


def read_nest(function: Any, target: Target) -> Loop:
    """The nest of a kernel that a family emitted; the root stands for the call.

    Args:
        function: TIR function.
        target: whose vector registers instructions are counted in.
    """
    root, reader = Loop(None, 1.0), _Reader(target)
    reader.read(function.body, root)
    reader.settle()
    return root


@dataclass
class _Live:
    """Values of one stretch that take registers: first and last statement, and how many registers.

    Attributes:
        spans: by name of the value.
        stores: of each accumulator that depend on its own value.
        statement: number of the statement that is read.
        uses: how often a value was used, after its definition.
    """

    spans: dict[object, list[int]] = field(default_factory=dict)
    stores: dict[object, int] = field(default_factory=lambda: defaultdict(int))
    statement: int = 0
    uses: dict[object, int] = field(default_factory=lambda: defaultdict(int))


class _Reader:
    """Walks statements; one reader a function."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._bits = target.vector.bits
        self._x86 = target.architecture == "x86_64"
        self._indices: dict[Any, Index] = {}
        self._loads: dict[Any, bool] = {}
        self._arrays: dict[str, tuple[int, int]] = {}
        self._registers: set[str] = set()
        self._stretch = Stretch()
        self._live = _Live()
        self._repeated = False

    def read(self, statement: Any, into: Loop) -> None:
        """Append a statement to a loop's body."""
        kind = type(statement).__name__
        if kind == "SeqStmt":
            for each in statement.seq:
                self.read(each, into)
        elif kind == "AttrStmt":
            self.read(statement.body, into)
        elif kind == "For":
            self._loop(statement, into)
        elif kind == "IfThenElse":
            self._branch(statement, into)
        elif kind in ("AllocBuffer", "DeclBuffer"):
            self._declare(statement.buffer)
        else:
            self._simple(kind, statement, into)

    # Statements

    def _simple(self, kind: str, statement: Any, into: Loop) -> None:
        if not into.parts or into.parts[-1] is not self._stretch:
            self.settle()
            self._stretch, self._live, self._repeated = Stretch(), _Live(), into.counter is not None
            into.parts.append(self._stretch)
        self._live.statement += 1
        if kind == "Bind":
            self._bind(statement.var, statement.value)
        elif kind == "BufferStore":
            self._store(statement)
        elif kind == "Evaluate":
            self._value(statement.value)

    def settle(self) -> None:
        """Note what the last stretch's values need, once all of its statements are read."""
        live, repeated = self._live, self._repeated
        change: dict[int, int] = defaultdict(int)
        for first, last, count, accumulates in live.spans.values():
            # In a loop an accumulator is in use throughout.
            change[0 if repeated and accumulates else first] += count
            change[live.statement + 1 if repeated and accumulates else last + 1] -= count
        self._stretch.pressure = max(accumulate(change[moment] for moment in sorted(change)), default=0)
        self._stretch.chain = max(live.stores.values(), default=0)

    def _loop(self, statement: Any, into: Loop) -> None:
        extent = self._index(statement.extent)
        times = extent.mean(clip=0)
        counter = Counter(times)
        self._indices[statement.loop_var] = self._index(statement.min) + Index(0, {counter: 1})
        loop = Loop(counter, times, parallel=int(statement.kind) == 1)
        self.read(statement.body, loop)
        self._finish(loop, into)

    def _branch(self, statement: Any, into: Loop) -> None:
        share = min(1.0, max(0.0, self._index(statement.condition).mean()))
        for part, body in ((share, statement.then_case), (1.0 - share, statement.else_case)):
            if body is not None:
                branch = Loop(None, part)
                self.read(body, branch)
                self._finish(branch, into)

    def _finish(self, loop: Loop, into: Loop) -> None:
        if loop.parts and loop.times > 0:
            into.parts.append(loop)

    def _declare(self, buffer: Any) -> None:
        # A builder's names are all different.
        item = np.dtype(str(buffer.dtype)).itemsize
        self._arrays[buffer.name] = (item * int(buffer.shape[0]), item)
        if buffer.scope() == "local":
            self._registers.add(buffer.name)

    def _bind(self, variable: Any, value: Any) -> None:
        if self._is_index(value):
            self._indices[variable] = self._index(value)
            return
        loaded = self._value(value)
        self._loads[variable] = loaded
        width = self._width(value)
        if type(value).__name__ not in ("Var", "Broadcast", "FloatImm"):
            self._live.spans[variable] = [self._live.statement, self._live.statement, width, False]
        if loaded and self._x86:
            # Taken back when it is used a second time.
            self._stretch.work.folded += width

    def _store(self, statement: Any) -> None:
        buffer, place = statement.buffer, statement.indices[0]
        index, lanes = self._place(place)
        if buffer.name in self._registers:
            name = (buffer.name, index.constant)
            before = self._live.uses[name]
            self._value(statement.value)
            if self._live.uses[name] > before:
                self._live.stores[name] += 1
            self._keep(name, self._width(statement.value), reads=False)
            return
        self._value(statement.value)
        self._access(buffer.name, index, lanes, writes=True)
        self._stretch.work.stores += self._width(statement.value)

    # Values

    def _value(self, value: Any) -> bool:
        """Count what computes a value; whether it is loaded from memory as it is."""
        kind = type(value).__name__
        if kind == "Var":
            self._use(value)
            return self._loads.get(value, False)
        if kind in ("IntImm", "FloatImm", "StringImm"):
            return False
        if kind == "Broadcast":
            return self._value(value.value)
        if kind == "TensorLoad":
            return self._load(value)
        if kind == "Let":
            self._bind(value.var, value.value)
            return self._value(value.body)
        if kind == "Shuffle":
            self._shuffle(value)
            return False
        if kind == "Call":
            self._call(value)
            return False
        self._operate(kind, value)
        return False

    def _operate(self, kind: str, value: Any) -> None:
        if self._is_index(value):
            return
        work, width = self._stretch.work, self._width(value)
        operands = [
            getattr(value, name)
            for name in ("a", "b", "value", "condition", "true_value", "false_value")
            if getattr(value, name, None) is not None
        ]
        if kind in ("Add", "Sub") and self._target.fma and _floating(value):
            product = next((operand for operand in operands if type(operand).__name__ == "Mul"), None)
            if product is not None:
                work.multiply_adds += width
                work.flops += 2 * _lanes(value)
                for operand in (product.a, product.b, *(each for each in operands if each is not product)):
                    self._value(operand)
                return
        if kind == "Div" and _floating(value):
            work.divisions += width
        elif kind != "Broadcast":
            work.arithmetic += width
        for operand in operands:
            self._value(operand)

    def _shuffle(self, value: Any) -> None:
        for vector in value.vectors:
            self._value(vector)
        sources, picked = len(value.vectors), len(value.indices)
        # ARM's multiply-adds take a scalar from a lane; the low half of a register is a register of its own.
        if picked == 1 and not self._x86:
            return
        if sources == 1 and int(value.indices[0]) == 0 and picked > 1:
            return
        self._stretch.work.shuffles += self._width(value) * max(1, sources - 1)

    def _call(self, value: Any) -> None:
        name = str(getattr(value.op, "name", value.op))
        arguments = list(value.args)
        if name.startswith("tirx.call_llvm"):
            name, arguments = "intrinsic", arguments[1:]
        for argument in arguments:
            if not self._is_index(argument):
                self._value(argument)
        width, work = self._width(value), self._stretch.work
        if name in _FREE_CALLS or self._is_index(value):
            return
        if name in ("tirx.sqrt", "tirx.rsqrt"):
            work.divisions += width
        elif name in ("tirx.exp", "tirx.exp2", "tirx.log", "tirx.tanh", "tirx.erf", "tirx.pow", "tirx.sin", "tirx.cos"):
            work.calls += _lanes(value)
        else:
            work.arithmetic += width

    def _load(self, value: Any) -> bool:
        index, lanes = self._place(value.indices[0])
        array = value.source.name
        if array in self._registers:
            name = (array, index.constant)
            self._live.uses[name] += 1
            self._keep(name, self._width(value), reads=True)
            return False
        self._access(array, index, lanes, writes=False)
        self._stretch.work.loads += self._width(value)
        return True

    def _access(self, array: str, index: Index, lanes: int, *, writes: bool) -> None:
        size, item = self._arrays[array]
        self._stretch.accesses.append(Access(array, size, item, index, lanes, writes))

    def _use(self, variable: Any) -> None:
        span = self._live.spans.get(variable)
        if span is None:
            return
        span[1] = self._live.statement
        self._live.uses[variable] += 1
        if self._live.uses[variable] == 2 and self._loads.get(variable) and self._x86:
            self._stretch.work.folded -= span[2]

    def _keep(self, name: object, width: int, *, reads: bool) -> None:
        """Note that an accumulator is in a register; from the start on if it is read first."""
        span = self._live.spans.setdefault(name, [0 if reads else self._live.statement, 0, width, True])
        span[1] = self._live.statement

    def _width(self, value: Any) -> int:
        """Registers that a value takes."""
        dtype = value.ty.dtype
        return max(1, ceil(int(dtype.lanes) * int(dtype.bits) / self._bits))

    # Indices

    def _is_index(self, value: Any) -> bool:
        dtype = value.ty.dtype
        return bool(dtype.lanes == 1 and not _floating(value))

    def _place(self, place: Any) -> tuple[Index, int]:
        if type(place).__name__ == "Ramp":
            return self._index(place.base), int(place.lanes)
        return self._index(place), 1

    def _index(self, value: Any) -> Index:
        kind = type(value).__name__
        if kind == "IntImm":
            return Index(int(value.value))
        if kind == "Var":
            return self._indices.get(value, _UNKNOWN)
        if kind == "Add":
            return self._index(value.a) + self._index(value.b)
        if kind == "Sub":
            return self._index(value.a) + self._index(value.b).times(-1)
        if kind == "Mul":
            return _product(self._index(value.a), self._index(value.b))
        if kind == "Cast":
            return self._index(value.value) if self._is_index(value.value) else _UNKNOWN
        if kind in _MIXED:
            names = ("condition", "true_value", "false_value") if kind == "Select" else ("a", "b")
            operands = [getattr(value, name) for name in names if getattr(value, name, None) is not None]
            if all(self._is_index(operand) for operand in operands):
                return _mixed(kind, tuple(self._index(operand) for operand in operands))
        return _UNKNOWN  # read from memory, or computed from what is


_UNKNOWN = Index()
"""What only the running kernel knows counts as 0."""


def _product(one: Index, other: Index) -> Index:
    if not one.terms:
        return other.times(one.constant)
    if not other.terms:
        return one.times(other.constant)
    return _mixed("Mul", (one, other))


def _mixed(kind: str, operands: tuple[Index, ...]) -> Index:
    function = np.multiply if kind == "Mul" else _MIXED[kind]
    if kind in _COMPARISONS:
        compare = function
        function = lambda *values: np.asarray(compare(*values)).astype(np.int64)  # noqa: E731
    term = Mixed(function, operands)
    if not term.counters:
        return Index(int(term.at({})))
    return Index(0, {term: 1})


def _floating(value: Any) -> bool:
    return str(value.ty.dtype).startswith(("float", "bfloat"))


def _lanes(value: Any) -> int:
    return int(value.ty.dtype.lanes)
