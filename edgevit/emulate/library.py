"""What a GPU artifact ships, read from the bytes of its library without loading it.

TVM puts everything that is not machine code into one blob behind the symbol ``__tvm_ffi__library_bin``: a tree of
modules, each with its kind and its own bytes. For GPUs there are two: the virtual machine's program with the model's
constants, and the device module with the text of the kernels. Layouts: ``ProcessLibraryBin`` in apache-tvm-ffi's
``src/ffi/extra/library_module.cc``; ``SaveToBytes`` of TVM's OpenCL and Metal modules.

Every length is checked against what is there: a truncated or hostile library is an error, never a crash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from edgevit.errors import ArtifactError

if TYPE_CHECKING:
    from edgevit.artifact import Artifact

Api = Literal["opencl", "metal"]

_SYMBOL = "__tvm_ffi__library_bin"
_HOST = "_lib"
_MACHINE = "relax.VMExecutable"
_DELIMITER = "// Function: "
_ADVICE = "Compile the model again, or fetch the artifact again."
_ARCHIVE = b"!<arch>\n"
_ARCHIVE_HEADER = 60


@dataclass(frozen=True)
class Kernel:
    """One kernel of the device module.

    Attributes:
        name: in the text.
        text: OpenCL C or Metal Shading Language, as shipped.
        arguments: number of parameters that are passed: buffers, then scalars.
        tags: which further arguments of a launch say: ``blockIdx.x``, ``threadIdx.x``, …
    """

    name: str
    text: str
    arguments: int
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Shipped:
    """The parts of a library that do not depend on the processor.

    Attributes:
        api: what the kernels are written for.
        kernels: by name.
        machine: the virtual machine's program and constants, as TVM serialised them.
    """

    api: Api
    kernels: dict[str, Kernel]
    machine: bytes


def read_shipped(artifact: Artifact) -> Shipped:
    """The kernels and the program of a GPU artifact.

    Raises:
        ArtifactError: the library is damaged, or is not one that TVM made for a GPU.
    """
    return parse_blob(library_blob(artifact.library))


def library_blob(library: bytes) -> bytes:
    """The blob inside an ELF or Mach-O library, object file or archive of object files.

    Raises:
        ArtifactError: it is none of these, or there is no whole blob in it.
    """
    for member in _members(library):
        content = _content_at_symbol(member)
        if content is not None:
            break
    else:
        raise ArtifactError(f"the library has no symbol {_SYMBOL}.", advice=_ADVICE)
    if len(content) < 8:
        raise _truncated("the blob's size")
    size = struct.unpack_from("<Q", content)[0]
    if size > len(content) - 8:
        raise _truncated("the blob")
    return content[8 : 8 + size]


def parse_blob(blob: bytes) -> Shipped:
    """The modules inside a blob (without its leading size).

    Raises:
        ArtifactError: it is damaged, or does not hold one program and one device module.
    """
    stream = Stream(blob)
    starts, children = stream.numbers("the module tree"), stream.numbers("the module tree")
    count = len(starts) - 1
    if count < 0 or any(child >= count for child in children):
        raise ArtifactError("the module tree of the library is damaged.", advice=_ADVICE)
    modules: dict[str, bytes] = {}
    for _ in range(count):
        kind = stream.text("a module's kind")
        if kind == _HOST:
            continue
        if kind in modules:
            raise ArtifactError(f"the library holds two modules of kind {kind!r}.", advice=_ADVICE)
        modules[kind] = stream.block(f"the module {kind!r}")
    stream.finish()
    machine = modules.pop(_MACHINE, None)
    if machine is None:
        raise ArtifactError("the library holds no program of TVM's virtual machine.", advice=_ADVICE)
    if len(modules) != 1 or next(iter(modules)) not in ("opencl", "metal"):
        found = ", ".join(sorted(modules)) or "none"
        raise ArtifactError(
            f"the library holds no kernels for OpenCL or Metal (its device modules: {found}).",
            advice="Emulation of GPUs is for artifacts of GPU targets.",
        )
    ((api, data),) = modules.items()
    return Shipped(cast("Api", api), _kernels(cast("Api", api), data), machine)


def _kernels(api: Api, data: bytes) -> dict[str, Kernel]:
    """TVM's device module: format, one record for each kernel, then the text (Metal: texts by name)."""
    stream = Stream(data)
    stream.text("the format")
    records = {}
    for _ in range(stream.count("kernels")):
        name = stream.text("a kernel's name")
        stream.text("a kernel's name")
        arguments = stream.count("arguments")
        stream.take(4 * arguments, "argument types")
        tags = tuple(stream.text("a launch parameter") for _ in range(stream.count("launch parameters")))
        stream.take(4 * stream.count("argument tags"), "argument tags")
        if not name.isascii() or not name.isidentifier():
            raise ArtifactError(f"{name!r} is no name of a kernel.", advice=_ADVICE)
        if name in records:
            raise ArtifactError(f"the kernel {name!r} occurs twice.", advice=_ADVICE)
        records[name] = (arguments, tags)
    if api == "metal":
        texts = {stream.text("a kernel's name"): stream.text("a kernel") for _ in range(stream.count("texts"))}
    else:
        texts = dict(_split(stream.text("the kernels")))
    stream.finish()
    if missing := sorted(set(records) - set(texts)):
        raise ArtifactError(f"the library has no text of the kernel {missing[0]!r}.", advice=_ADVICE)
    return {name: Kernel(name, texts[name], *record) for name, record in records.items()}


def _split(text: str) -> Iterator[tuple[str, str]]:
    """The text of each OpenCL kernel: TVM's runtime, too, builds what lies between these comments on its own."""
    for part in text.split(_DELIMITER)[1:]:
        name, _, rest = part.partition("\n")
        yield name.strip(), rest


class Stream:
    """TVM's serialisation: little-endian 64-bit lengths before everything that may vary."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        """The next bytes."""
        if count > len(self._data) - self._at:
            raise _truncated(what)
        block = self._data[self._at : self._at + count]
        self._at += count
        return block

    def number(self, what: str) -> int:
        """The next number."""
        return cast("int", struct.unpack("<Q", self.take(8, what))[0])

    def count(self, what: str) -> int:
        """A number of things that follow, each of at least a byte."""
        number = self.number(what)
        if number > len(self._data) - self._at:
            raise _truncated(what)
        return number

    def numbers(self, what: str) -> tuple[int, ...]:
        """A length, and as many numbers."""
        count = self.count(what)
        return struct.unpack(f"<{count}Q", self.take(8 * count, what))

    def block(self, what: str) -> bytes:
        """A length, and as many bytes."""
        return self.take(self.number(what), what)

    def text(self, what: str) -> str:
        """A length, and as many bytes of UTF-8."""
        try:
            return self.block(what).decode()
        except UnicodeDecodeError:
            raise ArtifactError(f"{what} in the library is not text.", advice=_ADVICE) from None

    def finish(self) -> None:
        """Refuse what is left."""
        if self._at != len(self._data):
            raise ArtifactError("the library holds more than its lengths say.", advice=_ADVICE)


def _truncated(what: str) -> ArtifactError:
    return ArtifactError(f"the library ends within {what}.", advice=_ADVICE)


def _members(library: bytes) -> Iterator[bytes]:
    """The library itself, or the files inside an archive."""
    if not library.startswith(_ARCHIVE):
        yield library
        return
    at = len(_ARCHIVE)
    while at + _ARCHIVE_HEADER <= len(library):
        header = library[at : at + _ARCHIVE_HEADER]
        field = header[48:58].strip()
        if header[58:60] != b"`\n" or not field.isdigit() or int(field) > len(library) - at - _ARCHIVE_HEADER:
            raise _truncated("a member of the archive")
        size, start = int(field), at + _ARCHIVE_HEADER
        # BSD's archives put a long name before the content.
        name = header[:16].strip()
        skip = int(name[3:]) if name.startswith(b"#1/") and name[3:].isdigit() else 0
        yield library[start + min(skip, size) : start + size]
        at = start + size + size % 2


def _content_at_symbol(data: bytes) -> bytes | None:
    """Bytes of an object or library from the blob's symbol to the end of its section; None without the symbol."""
    import lief

    lief.logging.disable()
    binary = lief.parse(data)
    if isinstance(binary, lief.ELF.Binary):
        return _elf_content(binary)
    if isinstance(binary, lief.MachO.Binary):
        return _macho_content(binary)
    return None


def _elf_content(binary: Any) -> bytes | None:
    for symbol in binary.symbols:
        if not str(symbol.name).startswith(_SYMBOL) or not symbol.shndx or symbol.section is None:
            continue
        section = symbol.section
        return bytes(section.content)[max(0, symbol.value - section.virtual_address) :]
    return None


def _macho_content(binary: Any) -> bytes | None:
    for symbol in binary.symbols:
        if not str(symbol.name).removeprefix("_").startswith(_SYMBOL):
            continue
        for section in binary.sections:
            if section.virtual_address <= symbol.value < section.virtual_address + section.size:
                return bytes(section.content)[symbol.value - section.virtual_address :]
    return None
