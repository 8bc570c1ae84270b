"""ELF libraries for Linux and Android: what they are by another reader, and that wrong ones are refused."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from edgevit.errors import ToolchainError
from edgevit.linking.inspect import inspect_library
from edgevit.targets import get_target
from tests.linking.linked import SOURCE, compiled, linked, stub, zig

ANDROID = ("android-arm64", "android-armv7", "android-x86_64")
NEEDED = ("libtvm_ffi.so", "libm.so", "libc.so")


def _section(file: ELFFile, name: str) -> Any:
    section = file.get_section_by_name(name)
    assert section is not None
    return section


def _dynamic(file: ELFFile) -> list[Any]:
    return list(_section(file, ".dynamic").iter_tags())


def _undefined(file: ELFFile) -> set[str]:
    symbols = _section(file, ".dynsym").iter_symbols()
    return {symbol.name for symbol in symbols if symbol.entry.st_shndx == "SHN_UNDEF" and symbol.name}


@pytest.mark.parametrize("target", ANDROID)
def test_an_android_library_is_what_bionic_loads(tmp_path: Path, target: str) -> None:
    with linked(tmp_path, target).open("rb") as stream:
        file = ELFFile(stream)
        dynamic = _dynamic(file)
        assert [tag.needed for tag in dynamic if tag.entry.d_tag == "DT_NEEDED"] == list(NEEDED)
        assert [tag.soname for tag in dynamic if tag.entry.d_tag == "DT_SONAME"] == ["model.so"]
        assert not [tag for tag in dynamic if tag.entry.d_tag == "DT_TEXTREL"]
        segments = list(file.iter_segments())
        loads = [segment.header for segment in segments if segment.header.p_type == "PT_LOAD"]
        assert {load.p_align for load in loads} == {16384}
        assert all(load.p_vaddr % 16384 == load.p_offset % 16384 for load in loads)
        assert not any(load.p_flags & 3 == 3 for load in loads)  # writable and executable
        stack = next(segment.header for segment in segments if segment.header.p_type == "PT_GNU_STACK")
        assert not stack.p_flags & 1
        assert any(segment.header.p_type == "PT_GNU_RELRO" for segment in segments)
        assert _undefined(file) == {"TVMFFIErrorSetRaisedFromCStr", "expf"}


def test_a_32_bit_android_library_passes_floats_in_integer_registers(tmp_path: Path) -> None:
    with linked(tmp_path, "android-armv7").open("rb") as stream:
        file = ELFFile(stream)
        assert file["e_flags"] & 0x600 == 0x200  # EF_ARM_ABI_FLOAT_SOFT without _HARD
        parts = _section(file, ".ARM.attributes").iter_subsections()
        tags = {one.tag: one.value for part in parts for sub in part.iter_subsubsections() for one in sub.attributes}
        assert tags.get("TAG_ABI_VFP_ARGS", 0) == 0


def test_the_runtimes_threads_are_asked_for_only_where_used(tmp_path: Path) -> None:
    text = "int TVMBackendParallelBarrier(int, void *); int run(void) { return TVMBackendParallelBarrier(0, 0); }"
    with linked(tmp_path, "android-arm64", text).open("rb") as stream:
        needed = [tag.needed for tag in _dynamic(ELFFile(stream)) if tag.entry.d_tag == "DT_NEEDED"]
    assert set(needed) == {*NEEDED, "libtvm_runtime.so"}


@pytest.mark.parametrize("target", ["android-armv7", "android-arm64"])
def test_helpers_of_the_compiler_are_linked_in(tmp_path: Path, target: str) -> None:
    wide = "__int128_t" if target == "android-arm64" else "long long"  # what the processor cannot divide
    text = f"{wide} run({wide} a, {wide} b) {{ return a / b; }}"
    with linked(tmp_path, target, text).open("rb") as stream:
        assert not _undefined(ELFFile(stream))


@pytest.mark.parametrize("target", [*ANDROID, "arm64-linux", "armv7-linux", "x86-64-v3"])
def test_the_same_objects_give_the_same_bytes(tmp_path: Path, target: str) -> None:
    made = []
    for name in ("first", "a-second-and-longer-folder"):
        (tmp_path / name).mkdir()
        made.append(linked(tmp_path / name, target).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize("target", ["android-arm64", "android-armv7"])
def test_a_function_that_nobody_provides_fails_the_link(tmp_path: Path, target: str) -> None:
    text = SOURCE + "int fork(void); int stray(void) { return fork(); }"
    with pytest.raises(ToolchainError, match="fork"):
        linked(tmp_path, target, text)


def test_linux_allows_undefined_symbols_when_linking_but_not_strangers(tmp_path: Path) -> None:
    text = SOURCE + "int some_stranger(void); int stray(void) { return some_stranger(); }"
    with pytest.raises(ToolchainError, match="some_stranger"):
        linked(tmp_path, "arm64-linux", text)


def _lld(folder: Path, *flags: str | Path, needed: tuple[str, ...] = NEEDED, obj: Path | None = None) -> bytes:
    """A library linked with flags of one's own beside those that are right."""
    obj = obj or compiled(folder)
    stubs = [stub(folder, name) for name in needed]
    right = ["-shared", "-soname", "model.so", "-z", "max-page-size=16384", "-z", "relro", "-z", "now"]
    zig("ld.lld", *right, *flags, obj, *stubs, "-o", folder / "model.so")
    return (folder / "model.so").read_bytes()


def _refused(data: bytes, match: str, target: str = "android-arm64") -> None:
    with pytest.raises(ToolchainError, match=match) as caught:
        inspect_library(data, get_target(target), "model.so", where="zig")
    assert caught.value.exit_code == 3


def test_the_right_flags_pass(tmp_path: Path) -> None:
    inspect_library(_lld(tmp_path), get_target("android-arm64"), "model.so", where="zig")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        (("-z", "max-page-size=4096"), "aligned to 4096 bytes, not to pages of 16384"),
        (("-z", "execstack"), "executable stack"),
        (("-z", "norelro"), "RELRO"),
        (("-soname", "libother.so"), "its name inside .SONAME. is 'libother.so', not 'model.so'"),
    ],
)
def test_a_wrong_flag_is_named(tmp_path: Path, flags: tuple[str, ...], match: str) -> None:
    _refused(_lld(tmp_path, *flags), match)


def test_relocations_in_code_are_refused(tmp_path: Path) -> None:
    text = SOURCE + '__asm__(".text\\n.xword used_later\\n");'
    obj = compiled(tmp_path, text=text)
    _refused(_lld(tmp_path, "-z", "notext", obj=obj), "text relocations")


def test_an_unwanted_library_is_refused(tmp_path: Path) -> None:
    _refused(_lld(tmp_path, needed=(*NEEDED, "libstrange.so")), "would load .DT_NEEDED. libstrange.so")


def test_a_library_that_does_not_name_the_runtime_is_refused(tmp_path: Path) -> None:
    _refused(_lld(tmp_path, needed=("libc.so", "libm.so")), "does not name what it loads .DT_NEEDED.: libtvm_ffi.so")


def test_a_stray_undefined_symbol_is_refused(tmp_path: Path) -> None:
    obj = compiled(tmp_path, text=SOURCE + "int system(const char *); int f(void) { return system(0); }")
    _refused(_lld(tmp_path, obj=obj), "nothing provides the functions it calls: system")


def test_thread_local_storage_is_refused(tmp_path: Path) -> None:
    text = SOURCE + "__thread int mine; int *f(void) { return &mine; }"
    _refused(_lld(tmp_path, obj=compiled(tmp_path, "aarch64-linux-musl", text)), "thread-local")


def test_another_machine_or_float_convention_is_refused(tmp_path: Path) -> None:
    data = _lld(tmp_path)
    _refused(data, "machine AARCH64", "android-x86_64")
    folder = tmp_path / "hard"
    folder.mkdir()
    obj = compiled(folder, "arm-linux-musleabihf", SOURCE, "-fPIC", "-mcpu=cortex_a7")
    zig(
        "ld.lld", "-shared", "-soname", "model.so", "-z", "max-page-size=16384", "-z", "now", obj, "-o", folder / "x.so"
    )
    _refused((folder / "x.so").read_bytes(), "floats are passed the other way", "android-armv7")


def test_what_is_no_elf_file_is_said_so() -> None:
    _refused(b"\x7fELF but no more than that", "not an ELF file")
    _refused(b"", "not an ELF file")


def test_damage_is_a_clear_error_at_worst(tmp_path: Path) -> None:
    data = linked(tmp_path, "android-arm64").read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(20):
            damaged[draw.randrange(2048)] = draw.randrange(256)
        with contextlib.suppress(ToolchainError):
            inspect_library(bytes(damaged), get_target("android-arm64"), "model.so", where="zig")
