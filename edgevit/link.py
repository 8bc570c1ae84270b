"""Link object files into what a device loads.

zig is the default because it brings every target's linker and C library stubs in one package. An installed
system compiler or Android NDK can be chosen instead. Linking is reproducible: same objects, same bytes. What was
linked is read back and compared with what the target's system asks of a library.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgevit.linking.apple import find_ld64, link_ios_library, macos_flags, make_archive
from edgevit.linking.elf import android_inputs, elf_flags
from edgevit.linking.inspect import inspect_library
from edgevit.linking.tools import LINKERS, Tool, find_tool
from edgevit.linking.weights import WEIGHTS_FUNCTION, weights_source
from edgevit.target_schema import Target

__all__ = ["LINKERS", "WEIGHTS_FUNCTION", "Format", "Linker"]

Format = Literal["elf", "macho", "archive"]
_FORMATS: dict[str, tuple[Format, str]] = {
    "linux": ("elf", ".so"),
    "android": ("elf", ".so"),
    "macos": ("macho", ".dylib"),
    "ios": ("archive", ".a"),
}
_IOS_LIBRARY = "model.dylib"


class Linker:
    """A way to link for one target.

    Attributes:
        description: tool and version, for the manifest.
        format: object format of the library.
        suffix: ``.so``, ``.dylib`` or ``.a``.
        library: the library's file name.
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
        self._target = target
        self._tool = find_tool(target, kind)
        self.kind, self.description = self._tool.kind, self._tool.description
        self.format, self.suffix = _FORMATS[target.system]
        self.library = f"model{self.suffix}"

    def __call__(self, output: str, objects: Sequence[str], options: object = None) -> None:  # noqa: ARG002
        """Link ``objects`` into ``output``; the signature TVM's ``export_library`` expects.

        Raises:
            ToolchainError: the linker failed, or the target's system would refuse the result.
        """
        path = Path(output)
        with tempfile.TemporaryDirectory(prefix="edgevit-parts-") as parts:
            if self.format == "archive":
                make_archive(path, self._compiled(Path(parts), objects), self.description)
            else:
                before, after = _flags(self._target, self._tool, self.library, Path(parts))
                self._tool.run([*before, "-o", output, *objects, *after])
        inspect_library(path.read_bytes(), self._target, self.library, where=self.description)

    def link(self, executable: object, weights: bytes = b"") -> bytes:
        """Library for a ``tvm.runtime.Executable``, as bytes.

        Args:
            executable: compiled code.
            weights: constants that the code finds through ``WEIGHTS_FUNCTION``. They become read-only data: a
                device maps them from the file, and processes share them.

        Raises:
            ToolchainError: the linker failed, or the target's system would refuse the result.
        """
        return self._link(executable, weights, extras=False)[self.library]

    def link_all(self, executable: object, weights: bytes = b"") -> dict[str, bytes]:
        """The library and what else a program for the target may load instead, by file name.

        For iOS that is a static library for Xcode, and a dynamic one where ``ld64.lld`` is on PATH.

        Args:
            executable: compiled code.
            weights: as for :meth:`link`.

        Raises:
            ToolchainError: the linker failed, or the target's system would refuse the result.
        """
        return self._link(executable, weights, extras=True)

    def _link(self, executable: object, weights: bytes, *, extras: bool) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="edgevit-link-") as name:
            folder = Path(name)
            sources = [str(weights_source(folder, weights))] if weights else []

            def link_objects(path: str, objects: Sequence[str], options: object = None) -> None:
                self(path, [*objects, *sources], options)
                if extras:
                    self._link_extras(folder, [*objects, *sources])

            link_objects.output_format = self.output_format  # type: ignore[attr-defined]
            link_objects.get_target_triple = self.get_target_triple  # type: ignore[attr-defined]
            executable.export_library(str(folder / self.library), fcompile=link_objects)  # type: ignore[attr-defined]
            made = [self.library, *([_IOS_LIBRARY] if (folder / _IOS_LIBRARY).exists() else [])]
            return {one: (folder / one).read_bytes() for one in dict.fromkeys(made)}

    def _link_extras(self, folder: Path, objects: Sequence[str]) -> None:
        ld64 = find_ld64() if self._target.system == "ios" else None
        if ld64 is None:
            return
        path = folder / _IOS_LIBRARY
        link_ios_library(path, self._compiled(folder, objects), self._target, ld64)
        inspect_library(path.read_bytes(), self._target, path.name, where=Path(ld64).name)

    def _compiled(self, folder: Path, objects: Sequence[str]) -> list[str]:
        """Object files of all ``objects``, some of which are sources."""
        compiled = []
        for one in objects:
            path = Path(one)
            if path.suffix != ".o":
                path = folder / f"{path.stem}.o"
                self._tool.run(["-c", "-g0", "-fPIC", one, "-o", str(path)])
            compiled.append(str(path))
        return compiled


def _flags(target: Target, tool: Tool, name: str, folder: Path) -> tuple[list[str], list[str]]:
    """Arguments before and after the object files."""
    if target.os_kernel == "darwin":
        return macos_flags(target, tool, name), []
    return elf_flags(target, name), android_inputs(folder, tool, target) if target.system == "android" else []
