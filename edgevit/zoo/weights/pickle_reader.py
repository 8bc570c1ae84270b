"""Pickles read as data: opcodes are interpreted, nothing they name is imported or called.

A pickle is a program for a small stack machine whose GLOBAL and REDUCE instructions load and call any function.
The machine here has the same stack, but knows only the few calls that state dicts are made of; every other
global, and whatever is made from it, becomes an :class:`Opaque` that does nothing.

Format: the opcode table of Python's ``pickletools``.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from edgevit.errors import ModelError

LARGEST = 64 << 20
"""Bytes of the largest pickle read; those of state dicts take some hundred kilobytes, tensors are kept elsewhere."""

_SCALARS = (str, bytes, int, float, bool, type(None))


@dataclass(frozen=True)
class Global:
    """A name that a pickle refers to, not looked up.

    Attributes:
        module: dotted name.
        name: of the class or function in it.
    """

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True)
class Opaque:
    """What a pickle wanted made by a call that is not among the known ones.

    Attributes:
        kind: the class or function it would have been made by.
    """

    kind: str


Call = Callable[..., Any]
"""Makes a value from the arguments of a REDUCE instruction."""


class _Mark:
    """Start of a group of values on the stack."""


class PickleMachine:
    """Interprets pickles.

    Args:
        calls: what may be made, by the dotted name of the pickle's global.
        persistent: turns a persistent id, which stands for something outside the pickle, into a value.
        where: the file, for errors.
    """

    def __init__(self, calls: dict[str, Call], persistent: Callable[[Any], Any], where: str) -> None:
        self._calls = calls
        self._persistent = persistent
        self._where = where
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self, source: bytes | IO[bytes]) -> Any:
        """The value of one pickle; a stream is left behind its end.

        Raises:
            ModelError: the pickle is damaged, or larger than :data:`LARGEST`.
        """
        stream = io.BytesIO(source) if isinstance(source, bytes) else source
        start = stream.tell()
        self._stack, self._memo = [], {}
        try:
            for opcode, argument, position in pickletools.genops(stream):
                if (position or 0) - start > LARGEST:
                    raise self._damaged("it is larger than any state dict's")
                if opcode.name == "STOP":
                    return self._pop()
                self._step(opcode.name, argument)
        # Damaged text can make the decoder warn, which is an exception where warnings are errors.
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, Warning) as error:
            raise self._damaged(str(error) or type(error).__name__) from error
        raise self._damaged("it ends too early")

    def _damaged(self, detail: str) -> ModelError:
        return ModelError(
            f"the pickle in this file is damaged ({detail[:200]}).",
            where=self._where,
            advice="Fetch or save the file again.",
        )

    def _step(self, name: str, argument: Any) -> None:
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, argument)
        elif name in _LITERALS:
            self._stack.append(argument)
        elif name not in _IGNORED:
            raise ValueError(f"opcode {name} has no place in a state dict")

    def _pop(self) -> Any:
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise ValueError("a group is left open")
        return value

    def _top(self) -> Any:
        return self._stack[-1]

    def _group(self) -> list[Any]:
        """The values since the last mark, which go with it."""
        for index in range(len(self._stack) - 1, -1, -1):
            if isinstance(self._stack[index], _Mark):
                group = self._stack[index + 1 :]
                del self._stack[index:]
                return group
        raise ValueError("a group has no start")

    def _remember(self, key: int) -> None:
        self._memo[key] = self._top()

    def _append(self, items: list[Any]) -> None:
        target = self._top()
        if isinstance(target, list):
            target.extend(items)

    def _set(self, items: list[Any]) -> None:
        target = self._top()
        if len(items) % 2:
            raise ValueError("a key has no value")
        if isinstance(target, dict):
            target.update(_pairs(items))

    def _call(self, function: Any, arguments: Any) -> None:
        call = self._calls.get(str(function)) if isinstance(function, Global) else None
        if call is not None and isinstance(arguments, tuple):
            self._stack.append(call(*arguments))
        else:
            self._stack.append(Opaque(kind_of(function)))

    def _reduce(self) -> None:
        arguments = self._pop()
        self._call(self._pop(), arguments)

    def _new_with_keywords(self) -> None:
        self._pop()
        self._reduce()

    def _instance(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._call(Global(module, name), tuple(self._group()))

    def _object(self) -> None:
        function, *arguments = self._group()
        self._call(function, tuple(arguments))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._stack.append(Global(module, name))

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a global's name is no text")
        self._stack.append(Global(module, name))

    def _frozen_set(self) -> None:
        self._group()
        self._stack.append(Opaque("builtins.frozenset"))

    def _take(self, count: int) -> None:
        if count > len(self._stack):
            raise ValueError("the stack is empty")
        items = tuple(self._stack[len(self._stack) - count :])
        if any(isinstance(item, _Mark) for item in items):
            raise ValueError("a group is left open")
        del self._stack[len(self._stack) - count :]
        self._stack.append(items)


def kind_of(value: Any) -> str:
    """What a value is, in words that do not depend on its size."""
    if isinstance(value, Opaque):
        return value.kind
    return str(value) if isinstance(value, Global) else type(value).__name__


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """Keys and values in turn. Keys that are not scalars, which no state dict has, are dropped with their values."""
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if isinstance(key, _SCALARS)}


_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    )
)
"""Opcodes whose argument is the value."""

_IGNORED = frozenset(("PROTO", "FRAME"))

_HANDLERS: dict[str, Callable[[PickleMachine, Any], Any]] = {
    "NONE": lambda m, _: m._stack.append(None),
    "NEWTRUE": lambda m, _: m._stack.append(True),
    "NEWFALSE": lambda m, _: m._stack.append(False),
    "MARK": lambda m, _: m._stack.append(_Mark()),
    "POP": lambda m, _: m._stack.pop(),
    "POP_MARK": lambda m, _: m._group(),
    "DUP": lambda m, _: m._stack.append(m._top()),
    "EMPTY_LIST": lambda m, _: m._stack.append([]),
    "EMPTY_DICT": lambda m, _: m._stack.append({}),
    "EMPTY_TUPLE": lambda m, _: m._stack.append(()),
    "EMPTY_SET": lambda m, _: m._stack.append(Opaque("builtins.set")),
    "LIST": lambda m, _: m._stack.append(m._group()),
    "DICT": lambda m, _: m._stack.append(_pairs(m._group())),
    "TUPLE": lambda m, _: m._stack.append(tuple(m._group())),
    "FROZENSET": lambda m, _: m._frozen_set(),
    "TUPLE1": lambda m, _: m._take(1),
    "TUPLE2": lambda m, _: m._take(2),
    "TUPLE3": lambda m, _: m._take(3),
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._group()),
    "ADDITEMS": lambda m, _: m._append(m._group()),
    "SETITEM": lambda m, _: m._set([m._pop(), m._pop()][::-1]),
    "SETITEMS": lambda m, _: m._set(m._group()),
    "PUT": lambda m, key: m._remember(key),
    "BINPUT": lambda m, key: m._remember(key),
    "LONG_BINPUT": lambda m, key: m._remember(key),
    "MEMOIZE": lambda m, _: m._remember(len(m._memo)),
    "GET": lambda m, key: m._stack.append(m._memo[key]),
    "BINGET": lambda m, key: m._stack.append(m._memo[key]),
    "LONG_BINGET": lambda m, key: m._stack.append(m._memo[key]),
    "GLOBAL": lambda m, argument: m._global(argument),
    "STACK_GLOBAL": lambda m, _: m._stack_global(),
    "REDUCE": lambda m, _: m._reduce(),
    "NEWOBJ": lambda m, _: m._reduce(),
    "NEWOBJ_EX": lambda m, _: m._new_with_keywords(),
    "INST": lambda m, argument: m._instance(argument),
    "OBJ": lambda m, _: m._object(),
    # State of an object; that of a state dict is its version numbers.
    "BUILD": lambda m, _: m._pop(),
    "PERSID": lambda m, argument: m._stack.append(m._persistent(argument)),
    "BINPERSID": lambda m, _: m._stack.append(m._persistent(m._pop())),
}
