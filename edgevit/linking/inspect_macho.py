"""What Apple's loaders ask of a library, and Xcode of a static one."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from edgevit.linking.apple import LIBSYSTEM, install_name
from edgevit.linking.reading import named
from edgevit.linking.symbols import host_symbols
from edgevit.target_schema import Target

_PLATFORMS = {"macos": "MACOS", "ios": "IOS"}
_SIGNATURE = 0xFADE0CC0  # CSMAGIC_EMBEDDED_SIGNATURE, big-endian as all of a signature is
_ARCHIVE, _MEMBER_BYTES = b"!<arch>\n", 60
_EXTERNAL, _TYPE_BITS, _UNDEFINED = 0x01, 0x0E, 0x00  # of a symbol's n_type: <mach-o/nlist.h>


def macho_violations(data: bytes, target: Target, name: str) -> list[str]:
    """What is wrong with a library, each as a clause without a full stop; empty when nothing is."""
    file = _parse(data)
    if file is None:
        return ["it is not a Mach-O file for one architecture"]
    binary = file.at(0)
    return [
        *_header(binary, target, "DYLIB"),
        *_library(binary, data, name),
        # zig leaves names in the table that nothing refers to; a loader looks for those that are bound.
        *_strangers({s.name for s in binary.symbols if _is_undefined(s) and s.has_binding_info}, target),
    ]


def archive_violations(data: bytes, target: Target) -> list[str]:
    """What is wrong with a static library; empty when nothing is."""
    members = list(_members(data))
    if not members:
        return ["it is not an archive with members"]
    found: list[str] = []
    undefined: set[str] = set()
    defined: set[str] = set()
    for name, stamped, content in members:
        if stamped:
            found.append(f"its member {name} carries a time or an owner")
        file = _parse(content)
        if file is None:
            found.append(f"its member {name} is not a Mach-O file")
            continue
        binary = file.at(0)
        found += [f"in {name}, {one}" for one in _header(binary, target, "OBJECT")]
        for symbol in binary.symbols:
            if symbol.raw_type & _EXTERNAL:
                (undefined if _is_undefined(symbol) else defined).add(symbol.name)
    return [*found, *_strangers(undefined - defined, target)]


def _parse(data: bytes) -> Any:
    """The file, of one architecture, or None; whoever reads from LIEF's objects must hold what they came from."""
    import lief

    fat = lief.MachO.parse(data)
    return fat if fat is not None and fat.size == 1 else None


def _header(binary: Any, target: Target, kind: str) -> Iterator[str]:
    if named(binary.header.cpu_type) != "ARM64":
        yield f"it is for the processor {named(binary.header.cpu_type)}"
    if named(binary.header.file_type) != kind:
        yield f"its kind is {named(binary.header.file_type)}, not {kind}"
    if not binary.has_build_version:
        yield "it names no oldest version of the system (LC_BUILD_VERSION)"
        return
    platform = named(binary.build_version.platform)
    if platform != _PLATFORMS[target.system]:
        yield f"it is for {platform}"
    oldest = binary.build_version.minos[:2]
    wanted = [int(part) for part in (target.linking.minimum_os or "").split(".") if part]
    if wanted and oldest != [*wanted, 0][:2]:
        yield f"the oldest system it loads on is {oldest[0]}.{oldest[1]}, not {target.linking.minimum_os}"


def _library(binary: Any, data: bytes, name: str) -> Iterator[str]:
    names = [command.name for command in binary.commands if named(command.command) == "ID_DYLIB"]
    if names != [install_name(name)]:
        yield f"its install name is {names[0] if names else None!r}, not {install_name(name)!r}"
    loads = {command.name for command in binary.commands if named(command.command) == "LOAD_DYLIB"}
    if loads != {LIBSYSTEM}:
        yield f"it loads {', '.join(sorted(loads)) or 'nothing'} instead of {LIBSYSTEM} alone"
    if any(int(segment.init_protection) & 6 == 6 for segment in binary.segments):
        yield "a segment is writable and executable"
    if not binary.has_code_signature or not _signed(binary.code_signature.data_offset, data):
        yield "it has no signature, not even an ad-hoc one"


def _signed(offset: int, data: bytes) -> bool:
    return data[offset : offset + 4] == struct.pack(">I", _SIGNATURE)


def _is_undefined(symbol: Any) -> bool:
    # With a value, which is then a size, it is a variable that the linker makes.
    return bool(symbol.raw_type & _TYPE_BITS == _UNDEFINED and symbol.value == 0)


def _strangers(undefined: set[str], target: Target) -> Iterator[str]:
    allowed = {f"_{name}" for name in host_symbols(target).all} | {"dyld_stub_binder"}
    if strange := sorted(undefined - allowed):
        yield f"nothing provides the functions it calls: {', '.join(strange)}"


def _members(data: bytes) -> Iterator[tuple[str, bool, bytes]]:
    """Name, whether a time or owner is there, and content of an archive's members, without its table of symbols.

    The format is ``ar(5)`` with BSD's long names: ``#1/`` and the length of a name that precedes the content.
    """
    if not data.startswith(_ARCHIVE):
        return
    place = len(_ARCHIVE)
    while place + _MEMBER_BYTES <= len(data):
        fields = data[place : place + _MEMBER_BYTES].decode("ascii", errors="replace")
        name, size = fields[:16].rstrip(), int(fields[48:58])
        # Seconds since 1970, then the numbers of a user and a group.
        stamped = any(int(field.strip() or 0) for field in (fields[16:28], fields[28:34], fields[34:40]))
        content = data[place + _MEMBER_BYTES : place + _MEMBER_BYTES + size]
        if name.startswith("#1/"):
            length = int(name[3:])
            name, content = content[:length].rstrip(b"\0").decode("utf-8", errors="replace"), content[length:]
        if not name.startswith("__.SYMDEF"):
            yield name, stamped, content
        place += _MEMBER_BYTES + size + size % 2
