"""Link object files into the shared library a device loads.

zig is the default because it brings every target's linker and C library stubs in one package. An installed
system compiler or Android NDK can be chosen instead. Linking is reproducible: same objects, same bytes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgevit.errors import ToolchainError, UserError
from edgevit.target_schema import Target

LINKERS = ("zig", "system", "ndk")
WEIGHTS_FUNCTION = "edgevit_weights"
"""C function without arguments, private to each library, that returns the address of its weights."""
_WEIGHTS_C = """\
#if defined(__APPLE__)
__asm__(".section __TEXT,__const\\n.p2align 6\\n_@FUNCTION@_data:\\n.incbin \\"@FILE@\\"\\n.text\\n");
#else
__asm__(".pushsection .rodata\\n.balign 64\\n.hidden @FUNCTION@_data\\n.globl @FUNCTION@_data\\n"
        "@FUNCTION@_data:\\n.incbin \\"@FILE@\\"\\n.popsection\\n");
#endif
extern const char @FUNCTION@_data[] __attribute__((visibility("hidden")));
__attribute__((visibility("hidden"))) const void *@FUNCTION@(void) { return @FUNCTION@_data; }
"""
_TIMEOUT_SECONDS = 600.0  # zig builds a C library's stubs the first time it links for a target


class Linker:
    """A way to link for one target.

    Attributes:
        description: tool and version, for the manifest.
        suffix: ``.so`` or ``.dylib``.
    """

    # TVM's export_library asks a linking callback for these two.
    output_format = "so"
    get_target_triple = None

    def __init__(self, target: Target, kind: str | None = None) -> None:
        """Choose and find a linker.

        Args:
            target: what to link for.
            kind: ``zig``, ``system`` or ``ndk``; None takes the target's own choice.

        Raises:
            UserError: an unknown kind.
            ToolchainError: the tool is not installed.
        """
        self.kind = kind or target.linking.linker
        if self.kind not in LINKERS:
            raise UserError(f"there is no linker {self.kind!r}.", advice=f"Choose one of {', '.join(LINKERS)}.")
        self.suffix = ".dylib" if target.system == "macos" else ".so"
        find = {"zig": _zig, "system": _system, "ndk": _ndk}[self.kind]
        self._command, self.description = find(target)
        self._flags = _flags(target, self.suffix)

    def __call__(self, output: str, objects: Sequence[str], options: object = None) -> None:  # noqa: ARG002
        """Link ``objects`` into ``output``; the signature TVM's ``export_library`` expects."""
        command = [*self._command, *self._flags, "-o", output, *objects]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(f"linking took more than {_TIMEOUT_SECONDS:.0f} s.", where=self.description) from error
        if done.returncode:
            last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
            raise ToolchainError(
                f"linking failed:\n{last}",
                where=self.description,
                advice="Try another linker with --linker, or run 'edgevit devices doctor'.",
            )

    def link(self, executable: object, weights: bytes = b"") -> bytes:
        """Library for a ``tvm.runtime.Executable``, as bytes.

        Args:
            executable: compiled code.
            weights: constants that the code finds through ``WEIGHTS_FUNCTION``. They become read-only data: a
                device maps them from the file, and processes share them.
        """
        with tempfile.TemporaryDirectory(prefix="edgevit-link-") as folder:
            output = Path(folder) / f"model{self.suffix}"
            source = _weights_source(Path(folder), weights) if weights else None

            def link_all(path: str, objects: Sequence[str], options: object = None) -> None:
                self(path, [*objects, *([str(source)] if source else [])], options)

            link_all.output_format = self.output_format  # type: ignore[attr-defined]
            link_all.get_target_triple = self.get_target_triple  # type: ignore[attr-defined]
            executable.export_library(str(output), fcompile=link_all)  # type: ignore[attr-defined]
            return output.read_bytes()


def _weights_source(folder: Path, weights: bytes) -> Path:
    """C file that takes the weights into the library, and offers their address."""
    data, source = folder / "weights.bin", folder / "weights.c"
    data.write_bytes(weights)
    # Compilers that cache by source text do not see the data; its hash makes the text differ when it does.
    text = _WEIGHTS_C.replace("@FILE@", str(data).replace("\\", "/")).replace("@FUNCTION@", WEIGHTS_FUNCTION)
    source.write_text(f"/* {hashlib.sha256(weights).hexdigest()} */\n{text}", encoding="utf-8")
    return source


def _flags(target: Target, suffix: str) -> list[str]:
    shared = ["-shared", "-fPIC", "-s", "-g0"]
    if target.system == "macos":
        # The runtime that loads the library provides its undefined symbols.
        return [*shared, "-Wl,-undefined,dynamic_lookup", f"-Wl,-install_name,@rpath/model{suffix}"]
    flags = [*shared, f"-Wl,-soname,model{suffix}", "-Wl,--build-id=none"]
    # 64-bit ARM kernels come with pages of 4, 16 and 64 KiB; segments aligned to the largest load on all.
    return [*flags, "-Wl,-z,max-page-size=65536"] if target.architecture == "aarch64" else flags


def _zig(target: Target) -> tuple[list[str], str]:
    try:
        from importlib.metadata import version

        label = f"zig {version('ziglang')}"
    except ImportError as error:
        raise ToolchainError(
            "zig is not installed.",
            advice="Install it with 'pip install ziglang', or choose --linker system.",
        ) from error
    return [sys.executable, "-m", "ziglang", "cc", "-target", target.linking.zig_target], label


def _system(target: Target) -> tuple[list[str], str]:
    candidates = [f"{target.triple}-gcc", f"{target.triple}-clang"]
    if target.architecture == "arm":
        candidates.append("arm-linux-gnueabihf-gcc")
    if _is_host(target):
        candidates += ["cc", "gcc", "clang"]
    for name in candidates:
        if path := shutil.which(name):
            return [path], f"{name} {_first_line([path, '--version'])}"
    raise ToolchainError(
        f"no system compiler for {target.triple} is on PATH (tried {', '.join(candidates)}).",
        advice="Install one, or leave --linker out to use zig.",
    )


def _ndk(target: Target) -> tuple[list[str], str]:
    root = os.environ.get("ANDROID_NDK_HOME")
    if not root:
        raise ToolchainError(
            "ANDROID_NDK_HOME is not set.",
            advice="Point it at an installed Android NDK, or leave --linker out to use zig.",
        )
    if "android" not in target.triple:
        raise UserError(f"the Android NDK cannot link for {target.triple}.", advice="Leave --linker out to use zig.")
    architecture = target.triple.partition("-")[0]
    found = sorted(Path(root).glob(f"toolchains/llvm/prebuilt/*/bin/{architecture}-linux-android*-clang"))
    if not found:
        raise ToolchainError(f"this NDK has no clang for {architecture}.", where=root)
    # The lowest API level runs on the most phones.
    clang = min(found, key=lambda path: int("".join(filter(str.isdigit, path.name.split("android")[1])) or 0))
    return [str(clang)], f"NDK {clang.name}"


def _is_host(target: Target) -> bool:
    import platform

    machine = {"arm64": "aarch64", "amd64": "x86_64", "armv7l": "arm"}.get(
        platform.machine().lower(), platform.machine().lower()
    )
    system = {"darwin": "macos"}.get(sys.platform, sys.platform)
    return machine == target.architecture and system == target.system


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.splitlines()[0] if done.stdout else ""
