"""The artifact: a compiled model as a folder or one ``.edgevit`` file, with its manifest and hashes.

Nothing is executed, or even handed to a loader, before every byte has been compared with the manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from edgevit.errors import ArtifactError, UserError
from edgevit.files import staged_folder, write_atomic
from edgevit.manifest import FORMAT_VERSION, FileInfo, Manifest, Resolution

MANIFEST = "manifest.json"
SUFFIX = ".edgevit"
_MAX_MANIFEST_BYTES = 8 << 20
_MAX_FILE_BYTES = 4 << 30
# The earliest time stamp a zip can hold: bytes must not depend on the day.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_ADVICE = "Compile the model again, or fetch the artifact again."


@dataclass(frozen=True)
class Artifact:
    """A compiled model in memory, verified against its manifest.

    Attributes:
        manifest: what it says of itself.
        files: content by name; exactly the names in ``manifest.files``.
        path: where it was read from or written to; None before it was saved.
        selected: index of the resolution that checks and benchmarks use.
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    path: Path | None = None
    selected: int = 0

    @property
    def library(self) -> bytes:
        """The compiled code."""
        return self.files[self.manifest.library.file]

    @property
    def resolution(self) -> Resolution:
        """Input and output shapes, and the program that runs at them."""
        return self.manifest.resolutions[self.selected]

    def resolutions(self) -> list[Artifact]:
        """The same artifact once for each set of input shapes that it serves."""
        return [replace(self, selected=index) for index in range(len(self.manifest.resolutions))]

    def at(self, shapes: Mapping[str, Sequence[int]] | Sequence[int] | None) -> Artifact:
        """The same artifact with the resolution of these input shapes selected.

        Args:
            shapes: by input name, or one shape where there is one input; None leaves it as it is.

        Raises:
            UserError: it does not serve them.
        """
        if shapes is None:
            return self
        for artifact in self.resolutions():
            own = artifact.resolution.shapes
            wanted = shapes if isinstance(shapes, Mapping) else dict.fromkeys(own, shapes) if len(own) == 1 else {}
            if own == {name: tuple(shape) for name, shape in wanted.items()}:
                return artifact
        served = ", ".join(resolution.text for resolution in self.manifest.resolutions)
        raise UserError(
            "the artifact was not compiled for these input shapes.",
            where=str(self.path) if self.path else None,
            advice=f"It serves {served}; 'edgevit compile --shape … --shape …' adds others.",
        )

    @property
    def sha256(self) -> str:
        """Identity of the artifact: hash of its manifest, which holds the hash of everything else."""
        return hashlib.sha256(_manifest_bytes(self.manifest)).hexdigest()

    def save(self, path: Path) -> Artifact:
        """Write to ``path``: one file when it ends in ``.edgevit``, else a folder.

        The file or folder appears complete or not at all.

        Raises:
            ArtifactError: a folder is there that is not an artifact.
            UserError: it cannot be written.
        """
        content = {MANIFEST: _manifest_bytes(self.manifest), **self.files}
        if path.suffix == SUFFIX:
            write_atomic(path, _zip(content))
        else:
            _refuse_foreign_folder(path)
            with staged_folder(path) as aside:
                for name, data in content.items():
                    (aside / name).write_bytes(data)
        return replace(self, path=path)


def file_info(data: bytes) -> FileInfo:
    """Size and hash of ``data``."""
    return FileInfo(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def load_artifact(path: str | Path) -> Artifact:
    """Read and verify an artifact.

    Raises:
        ArtifactError: it does not exist, is no artifact, is of another format version, or any byte, file
            or name differs from its manifest.
    """
    path = Path(path)
    if path.is_dir():
        content = _read_folder(path)
    elif path.is_file():
        content = _read_zip(path)
    else:
        raise ArtifactError("there is no such artifact.", where=str(path), advice="'edgevit compile' makes one.")
    manifest = _parse_manifest(content.pop(MANIFEST), path)
    _verify(manifest, content, path)
    return Artifact(manifest, content, path)


def _manifest_bytes(manifest: Manifest) -> bytes:
    return (json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True) + "\n").encode()


def _zip(content: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    # Stored, not deflated: weights do not compress, and deflate's output depends on the zlib build.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content[name])
    return buffer.getvalue()


def _refuse_foreign_folder(path: Path) -> None:
    if path.is_file():
        raise ArtifactError(
            "a file is there.", where=str(path), advice=f"Name a folder, or a file that ends in {SUFFIX}."
        )
    if path.is_dir() and any(path.iterdir()) and not (path / MANIFEST).is_file():
        raise ArtifactError(
            "the folder holds something that is not an artifact.",
            where=str(path),
            advice="Name a new folder, so that nothing of yours is replaced.",
        )


def _read_folder(path: Path) -> dict[str, bytes]:
    manifest = path / MANIFEST
    if not manifest.is_file():
        raise ArtifactError(
            f"the folder has no {MANIFEST}.", where=str(path), advice="'edgevit compile' makes an artifact."
        )
    content = {}
    try:
        for file in sorted(path.iterdir()):
            if file.is_symlink() or not file.is_file():
                raise ArtifactError(f"{file.name!r} is not a plain file.", where=str(path), advice=_ADVICE)
            if file.stat().st_size > _limit(file.name):
                raise ArtifactError(f"{file.name!r} is too large.", where=str(path), advice=_ADVICE)
            content[file.name] = file.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read: {error.strerror}.", where=str(path)) from error
    return content


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            if MANIFEST not in names:
                raise ArtifactError(f"it holds no {MANIFEST}.", where=str(path), advice=_ADVICE)
            if len(set(names)) != len(names):
                raise ArtifactError("a name occurs twice.", where=str(path), advice=_ADVICE)
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > _limit(entry.filename):
                    raise ArtifactError(
                        f"{entry.filename!r} is compressed or too large.", where=str(path), advice=_ADVICE
                    )
            return {entry.filename: archive.read(entry) for entry in entries}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise ArtifactError(f"it is not a whole artifact: {error}.", where=str(path), advice=_ADVICE) from error


def _limit(name: str) -> int:
    return _MAX_MANIFEST_BYTES if name == MANIFEST else _MAX_FILE_BYTES


def _parse_manifest(data: bytes, path: Path) -> Manifest:
    where = f"{path}/{MANIFEST}"
    try:
        raw = json.loads(data)
    except ValueError as error:
        raise ArtifactError(f"the manifest is not JSON: {error}.", where=where, advice=_ADVICE) from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"format version {version!r} is not {FORMAT_VERSION}.",
            where=where,
            advice="It was written by another edgevit: use that version, or compile the model again.",
        )
    try:
        # Parsed from JSON text, so that arrays may become tuples under strict rules.
        return Manifest.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{key}: {first['msg']}.", where=where, advice=_ADVICE) from error


def _verify(manifest: Manifest, content: Mapping[str, bytes], path: Path) -> None:
    named, found = set(manifest.files), set(content)
    if manifest.library.file not in named:
        raise ArtifactError("the manifest names no library.", where=str(path), advice=_ADVICE)
    if missing := sorted(named - found):
        raise ArtifactError(f"{missing[0]!r} is missing.", where=str(path), advice=_ADVICE)
    if extra := sorted(found - named):
        raise ArtifactError(
            f"{extra[0]!r} is not named in the manifest.", where=str(path), advice="Remove it: " + _ADVICE
        )
    for name, expected in manifest.files.items():
        if file_info(content[name]) != expected:
            raise ArtifactError(f"{name!r} differs from the hash in the manifest.", where=str(path), advice=_ADVICE)
