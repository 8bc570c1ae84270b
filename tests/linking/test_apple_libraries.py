"""Libraries for macOS and iOS: their load commands by another reader, and that wrong ones are refused."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import pytest

from edgevit.compiler.compile import compile_model
from edgevit.errors import ToolchainError
from edgevit.link import Linker
from edgevit.linking.apple import find_ld64, link_ios_library
from edgevit.linking.inspect import inspect_library
from edgevit.linking.metal import build_metallib
from edgevit.model import from_proto
from edgevit.targets import get_target
from tests.conftest import missing
from tests.linking.linked import SOURCE, compiled, linked, load_commands, name_in, zig
from tests.models import small_proto

# <mach-o/loader.h>
ID_DYLIB, LOAD_DYLIB, CODE_SIGNATURE, BUILD_VERSION = 0xD, 0xC, 0x1D, 0x32
MACOS, IOS = 1, 2
AD_HOC = 0x2  # <kern/cs_blobs.h>: CS_ADHOC of a code directory's flags


def _build_version(data: bytes) -> tuple[int, int, int]:
    """Platform, and major and minor version of the oldest system."""
    (command,) = load_commands(data)[BUILD_VERSION]
    platform, oldest = struct.unpack_from("<2I", command, 8)
    return platform, oldest >> 16, oldest >> 8 & 0xFF


def _signature_flags(data: bytes) -> int:
    """Flags of the code directory, the first blob of the embedded signature."""
    (command,) = load_commands(data)[CODE_SIGNATURE]
    start, size = struct.unpack_from("<2I", command, 8)
    magic, _, _, kind, offset = struct.unpack_from(">5I", data, start)
    assert (magic, kind) == (0xFADE0CC0, 0)
    assert start + size == len(data)
    magic, _, _, flags = struct.unpack_from(">4I", data, start + offset)
    assert magic == 0xFADE0C02
    return int(flags)


@pytest.mark.parametrize("target", ["apple-silicon", "metal-macos"])
def test_a_macos_library_is_signed_and_names_its_oldest_system(tmp_path: Path, target: str) -> None:
    data = linked(tmp_path, target).read_bytes()
    assert _build_version(data) == (MACOS, 11, 0)
    commands = load_commands(data)
    assert [name_in(command) for command in commands[ID_DYLIB]] == ["@rpath/model.dylib"]
    assert [name_in(command) for command in commands[LOAD_DYLIB]] == ["/usr/lib/libSystem.B.dylib"]
    assert _signature_flags(data) & AD_HOC


def test_an_ios_archive_holds_objects_for_ios_without_times(tmp_path: Path) -> None:
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        made.append(linked(folder, "metal-ios").read_bytes())
        time.sleep(1.1)  # archives count time in seconds
    assert made[0] == made[1]
    assert made[0].startswith(b"!<arch>\n")
    place = made[0].index(b"\xcf\xfa\xed\xfe")
    assert _build_version(made[0][place:]) == (IOS, 15, 0)


def test_weights_travel_in_the_archive(tmp_path: Path) -> None:
    class Executable:
        def export_library(self, path: str, fcompile: Linker) -> None:
            fcompile(path, [str(compiled(tmp_path, "aarch64-ios.15.0"))])

    files = Linker(get_target("metal-ios")).link_all(Executable(), b"weights of a model" * 100)
    assert b"weights of a model" in files["model.a"]
    assert set(files) == {"model.a", *(["model.dylib"] if find_ld64() else [])}


@pytest.fixture(scope="session")
def ld64() -> str:
    found = find_ld64()
    if found is None:
        missing("ld64.lld is not installed")
    return str(found)


def _ios_library(folder: Path, ld64: str, text: str = SOURCE) -> bytes:
    path = folder / "model.dylib"
    link_ios_library(path, [str(compiled(folder, "aarch64-ios.15.0", text))], get_target("metal-ios"), ld64)
    return path.read_bytes()


def test_an_ios_library_is_signed_and_names_its_oldest_system(tmp_path: Path, ld64: str) -> None:
    data = _ios_library(tmp_path, ld64)
    inspect_library(data, get_target("metal-ios"), "model.dylib", where="lld")
    assert _build_version(data) == (IOS, 15, 0)
    commands = load_commands(data)
    assert [name_in(command) for command in commands[ID_DYLIB]] == ["@rpath/model.dylib"]
    assert [name_in(command) for command in commands[LOAD_DYLIB]] == ["/usr/lib/libSystem.B.dylib"]
    assert _signature_flags(data) & AD_HOC


def _refused(data: bytes, match: str, target: str = "apple-silicon", name: str = "model.dylib") -> None:
    with pytest.raises(ToolchainError, match=match):
        inspect_library(data, get_target(target), name, where="zig")


def test_a_function_that_nobody_provides_fails_the_link(tmp_path: Path) -> None:
    text = SOURCE + "int some_stranger(void); int stray(void) { return some_stranger(); }"
    for target in ("apple-silicon", "metal-ios"):
        with pytest.raises(ToolchainError, match="nothing provides the functions it calls: _some_stranger"):
            linked(tmp_path, target, text)


def test_a_stranger_in_an_ios_library_is_refused(tmp_path: Path, ld64: str) -> None:
    data = _ios_library(tmp_path, ld64, SOURCE + "int some_stranger(void); int stray(void) { return some_stranger(); }")
    _refused(data, "_some_stranger", "metal-ios")


@pytest.mark.parametrize(
    ("zig_target", "flags", "match"),
    [
        ("aarch64-macos.12.0", ["-Wl,-install_name,@rpath/model.dylib"], "oldest system it loads on is 12.0, not 11.0"),
        ("aarch64-macos.11.0", ["-Wl,-install_name,/opt/model.dylib"], "its install name is '/opt/model.dylib'"),
        ("x86_64-macos.11.0", ["-Wl,-install_name,@rpath/model.dylib"], "for the processor X86_64"),
    ],
)
def test_a_wrong_header_is_named(tmp_path: Path, zig_target: str, flags: list[str], match: str) -> None:
    path = tmp_path / "model.dylib"
    obj = compiled(tmp_path, zig_target)
    zig("cc", "-target", zig_target, "-shared", "-Wl,-undefined,dynamic_lookup", *flags, obj, "-o", path)
    _refused(path.read_bytes(), match)


def test_a_library_for_another_system_is_refused(tmp_path: Path) -> None:
    _refused(linked(tmp_path, "apple-silicon").read_bytes(), "it is for MACOS", "metal-ios")


def test_a_library_without_a_signature_is_refused(tmp_path: Path) -> None:
    data = linked(tmp_path, "apple-silicon").read_bytes()
    (command,) = load_commands(data)[CODE_SIGNATURE]
    start, size = struct.unpack_from("<2I", command, 8)
    _refused(data[:start] + bytes(size), "no signature, not even an ad-hoc one")


def test_what_is_no_library_is_said_so(tmp_path: Path) -> None:
    _refused(b"\xcf\xfa\xed\xfe", "not a Mach-O file")
    _refused(compiled(tmp_path, "aarch64-macos.11.0").read_bytes(), "its kind is OBJECT, not DYLIB")
    _refused(b"!<arch>\n", "not an archive with members", "metal-ios", "model.a")


def test_an_archive_with_times_or_objects_for_another_system_is_refused(tmp_path: Path) -> None:
    obj, path = compiled(tmp_path, "aarch64-macos.11.0"), tmp_path / "model.a"
    zig("ar", "--format=darwin", "rcsU", path, obj)
    _refused(path.read_bytes(), "code.o carries a time or an owner; in code.o, it is for MACOS", "metal-ios", "model.a")


FAKE_XCRUN = """\
#!/bin/sh
echo "$@" >> "$XCRUN_LOG"
for word; do last=$word; done
case "$*" in
  *" metal "*) grep -q "kernel void" "$7" || { echo "error: no kernel"; exit 1; }; cp "$7" "$last" ;;
  *" metallib "*) echo MTLB > "$last" ;;
esac
"""


@pytest.fixture
def xcrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that takes what Apple's takes; its log is returned."""
    program = tmp_path / "bin" / "xcrun"
    program.parent.mkdir()
    program.write_text(FAKE_XCRUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XCRUN_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


@pytest.mark.parametrize(
    ("target", "sdk", "flags"),
    [
        ("metal-ios", "iphoneos", "-std=ios-metal2.3 -mios-version-min=15.0"),
        ("metal-macos", "macosx", "-std=macos-metal2.3 -mmacosx-version-min=11.0"),
    ],
)
def test_kernels_become_one_metallib(xcrun: Path, target: str, sdk: str, flags: str) -> None:
    sources = {"b_kernel": "kernel void b() {}", "a_kernel": "kernel void a() {}"}
    assert build_metallib(sources, get_target(target)) == b"MTLB\n"
    calls = xcrun.read_text().splitlines()
    assert len(calls) == 3
    assert all(call.startswith(f"-sdk {sdk} metal {flags} -c ") for call in calls[:2])
    assert calls[2].startswith(f"-sdk {sdk} metallib ")


@pytest.mark.usefixtures("xcrun")
def test_a_refused_kernel_is_named() -> None:
    with pytest.raises(ToolchainError, match="bad_kernel: compiling failed"):
        build_metallib({"bad_kernel": "no text of Metal"}, get_target("metal-ios"))


def test_no_metallib_without_xcode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert build_metallib({"a": "kernel void a() {}"}, get_target("metal-ios")) is None


@pytest.mark.usefixtures("xcrun")
def test_with_xcode_an_artifact_holds_compiled_kernels_too() -> None:
    model = from_proto(small_proto())
    assert compile_model(model, "metal-ios", verify=False).files["model.metallib"] == b"MTLB\n"
    assert "model.metallib" not in compile_model(model, "android-opencl-mali", verify=False).files
