"""A program of TVM's virtual machine, read from the bytes that an artifact ships.

Layouts: ``VMExecutable::LoadFromBytes`` in TVM's ``src/runtime/vm/executable.cc``, ``SaveDLTensor`` in
``include/tvm/runtime/tensor.h``, ``Instruction`` in ``include/tvm/runtime/vm/bytecode.h``. Every length is checked
against what is there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

from edgevit.emulate.library import Stream
from edgevit.errors import ArtifactError

VOID = 1 << 54
"""The register that takes results nobody wants."""
MACHINE = VOID + 1
"""The register that holds the virtual machine itself."""

_MAGIC, _MAGIC_WITH_SCOPES = 0xD225DE2F4214151D, 0xD225DE2F4214151E
_VERSION = "0.14"
_TENSOR_MAGIC = 0xDD5E40F096B4A13F
_VALUE_BITS = 56
_CPU = 1
_ADVICE = "Compile the model again, or fetch the artifact again."
_DTYPES = {0: "int", 1: "uint", 2: "float", 6: "bool"}


@dataclass(frozen=True)
class DType:
    """A scalar type by numpy's name."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Weights:
    """A constant tensor.

    Attributes:
        shape: its dimensions.
        dtype: of its elements.
        data: its bytes, little-endian.
    """

    shape: tuple[int, ...]
    dtype: DType
    data: bytes


Constant = Weights | tuple[int, ...] | DType | str | int | float

ArgumentKind = Literal["register", "immediate", "constant", "function"]
_KINDS: tuple[ArgumentKind, ...] = ("register", "immediate", "constant", "function")


@dataclass(frozen=True)
class Argument:
    """What a call passes: the number of a register, constant or function, or a number itself."""

    kind: ArgumentKind
    value: int


@dataclass(frozen=True)
class Call:
    """An instruction that calls a function by its number."""

    result: int
    function: int
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Return:
    """The instruction that ends a function."""

    result: int


@dataclass(frozen=True)
class Branch:
    """An instruction that goes elsewhere."""


Instruction = Call | Return | Branch


@dataclass(frozen=True)
class Function:
    """An entry of the function table.

    Attributes:
        name: others call it by.
        instructions: first and one past the last; of functions outside the program, an empty range.
        arguments: their number.
    """

    name: str
    instructions: range
    arguments: int


@dataclass(frozen=True)
class Executable:
    """A program: functions, constants, instructions."""

    functions: tuple[Function, ...]
    constants: tuple[Constant, ...]
    instructions: tuple[Instruction, ...]


def read_executable(data: bytes) -> Executable:
    """Read a serialised program.

    Raises:
        ArtifactError: it is damaged, or was written by another version of TVM.
    """
    stream = Stream(data)
    magic = stream.number("the program's header")
    if magic not in (_MAGIC, _MAGIC_WITH_SCOPES) or stream.text("the program's version") != _VERSION:
        raise ArtifactError("the library's program is not of the version that edgevit reads.", advice=_ADVICE)
    functions = [_function(stream) for _ in range(stream.count("functions"))]
    if magic == _MAGIC_WITH_SCOPES and stream.number("memory scopes"):
        raise ArtifactError("the library's program places constants in special memory.", advice=_ADVICE)
    constants = tuple(_constant(stream) for _ in range(stream.count("constants")))
    instructions = _instructions(_words(stream), _words(stream))
    stream.finish()
    for function in functions:
        if not 0 <= function.instructions.start <= function.instructions.stop <= len(instructions):
            raise _damaged(f"the function {function.name!r} lies outside of the code")
    return Executable(tuple(functions), constants, instructions)


def _function(stream: Stream) -> Function:
    stream.take(4, "a function's kind")
    name = stream.text("a function's name")
    start, end, arguments, _ = struct.unpack("<4q", stream.take(32, "a function"))
    for _ in range(stream.count("parameter names")):
        stream.text("a parameter's name")
    return Function(name, range(start, end), arguments)


def _constant(stream: Stream) -> Constant:
    kind = struct.unpack("<i", stream.take(4, "a constant"))[0]
    if kind == 1:
        return cast("int", struct.unpack("<q", stream.take(8, "a constant"))[0])
    if kind == 3:
        return cast("float", struct.unpack("<d", stream.take(8, "a constant"))[0])
    if kind == 5:
        return _dtype(stream)
    if kind == 65:
        return stream.text("a constant")
    if kind == 69:
        count = stream.count("a shape")
        return struct.unpack(f"<{count}q", stream.take(8 * count, "a shape"))
    if kind == 70:
        return _tensor(stream)
    raise _damaged(f"a constant is of an unknown kind ({kind})")


def _dtype(stream: Stream) -> DType:
    code, bits, lanes = struct.unpack("<BBH", stream.take(4, "an element type"))
    if code not in _DTYPES or bits not in (1, 8, 16, 32, 64) or lanes != 1:
        # Of what is no tensor, such as the type of a missing value; whoever uses it finds no size.
        return DType("opaque", 0)
    name = "bool" if _DTYPES[code] == "bool" or bits == 1 else f"{_DTYPES[code]}{bits}"
    return DType(name, (bits + 7) // 8)


def _tensor(stream: Stream) -> Weights:
    magic, _, device, _, axes = struct.unpack("<QQiii", stream.take(28, "a constant tensor"))
    if magic != _TENSOR_MAGIC or device != _CPU or not 0 <= axes <= 64:
        raise _damaged("a constant tensor has no valid header")
    dtype = _dtype(stream)
    shape = struct.unpack(f"<{axes}q", stream.take(8 * axes, "a constant tensor's shape"))
    size = stream.number("a constant tensor's size")
    elements = 1
    for extent in shape:
        elements *= extent
    if min(shape, default=0) < 0 or size != elements * dtype.bytes:
        raise _damaged("a constant tensor has another size than its shape says")
    return Weights(shape, dtype, stream.take(size, "a constant tensor"))


def _words(stream: Stream) -> tuple[int, ...]:
    count = stream.count("the code")
    return struct.unpack(f"<{count}q", stream.take(8 * count, "the code"))


def _instructions(offsets: tuple[int, ...], words: tuple[int, ...]) -> tuple[Instruction, ...]:
    return tuple(_instruction(offset, words) for offset in offsets)


def _instruction(at: int, words: tuple[int, ...]) -> Instruction:
    if not 0 <= at < len(words) - 1:
        raise _damaged("an instruction lies outside of the code")
    if words[at] == 2:
        return Return(words[at + 1])
    if words[at] in (3, 4):
        return Branch()
    if words[at] != 1 or at + 4 > len(words):
        raise _damaged("an instruction is none of TVM's")
    result, function, count = words[at + 1 : at + 4]
    if not 0 <= count <= len(words) - at - 4:
        raise _damaged("an instruction ends outside of the code")
    return Call(result, function, tuple(_argument(word) for word in words[at + 4 : at + 4 + count]))


def _argument(word: int) -> Argument:
    kind = word >> _VALUE_BITS & 0xFF
    if kind >= len(_KINDS):
        raise _damaged("an argument is of an unknown kind")
    value = word & ((1 << _VALUE_BITS) - 1)
    # Sign extension.
    return Argument(_KINDS[kind], value - (1 << _VALUE_BITS) if value >> (_VALUE_BITS - 1) else value)


def _damaged(what: str) -> ArtifactError:
    return ArtifactError(f"the library's program is damaged: {what}.", advice=_ADVICE)
