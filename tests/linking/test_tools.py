"""Which program links, and an Android NDK in zig's clothes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from edgevit.errors import ToolchainError, UserError
from edgevit.link import Linker
from edgevit.targets import get_target
from tests.linking.linked import linked, stub

# An NDK's clang finds Android's C library by itself; zig must be told of the stand-ins.
CLANG = """\
#!{python}
import subprocess, sys
arguments = ["-l:libm.so" if one == "-lm" else one for one in sys.argv[1:]]
if "-nostdlib" not in arguments:
    arguments += ["-L{libraries}", "-l:libc.so", "-nostdlib"]
sys.exit(subprocess.call([sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-android", *arguments]))
"""


@pytest.fixture
def ndk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An NDK with clang for three API levels."""
    programs = tmp_path / "ndk" / "toolchains" / "llvm" / "prebuilt" / "linux-x86_64" / "bin"
    programs.mkdir(parents=True)
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    stub(libraries, "libc.so", "memcpy")
    stub(libraries, "libm.so", "expf")
    for level in (21, 29, 35):
        program = programs / f"aarch64-linux-android{level}-clang"
        program.write_text(CLANG.format(python=sys.executable, libraries=libraries))
        program.chmod(0o755)
    monkeypatch.setenv("ANDROID_NDK_HOME", str(tmp_path / "ndk"))
    return tmp_path


def test_an_ndk_links_with_the_oldest_level_that_will_do(ndk: Path) -> None:
    assert Linker(get_target("android-arm64"), "ndk").description == "NDK aarch64-linux-android29-clang"
    with linked(ndk, "android-arm64", kind="ndk").open("rb") as stream:
        section: Any = ELFFile(stream).get_section_by_name(".dynamic")
        needed = [tag.needed for tag in section.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]
    assert sorted(needed) == ["libc.so", "libm.so", "libtvm_ffi.so"]


@pytest.mark.usefixtures("ndk")
def test_an_ndk_is_refused_where_it_does_not_fit() -> None:
    with pytest.raises(ToolchainError, match="no clang for armv7a-linux-androideabi at API level 26"):
        Linker(get_target("android-armv7"), "ndk")
    with pytest.raises(UserError, match="cannot link for aarch64-linux-gnu"):
        Linker(get_target("rpi5"), "ndk")


@pytest.mark.parametrize(
    ("target", "name", "form"),
    [
        ("rpi5", "model.so", "elf"),
        ("pixel-8-gpu", "model.so", "elf"),
        ("metal-macos", "model.dylib", "macho"),
        ("iphone-15", "model.a", "archive"),
    ],
)
def test_the_system_decides_the_librarys_form(target: str, name: str, form: str) -> None:
    linker = Linker(get_target(target))
    assert (linker.library, linker.format) == (name, form)
    assert name.endswith(linker.suffix)


def test_an_unknown_linker_is_refused() -> None:
    with pytest.raises(UserError, match="no linker 'gold'"):
        Linker(get_target("rpi5"), "gold")
