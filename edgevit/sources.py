"""Find the ONNX file an artifact was compiled from: an artifact carries its hash, not its weights twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.errors import ArtifactError, EdgevitError
from edgevit.files import write_atomic

if TYPE_CHECKING:
    from edgevit.artifact import Artifact
    from edgevit.manifest import Manifest
    from edgevit.model import Model


def cache_folder() -> Path:
    """Where edgevit keeps what can be made again: ``EDGEVIT_CACHE_DIR``, else the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("EDGEVIT_CACHE_DIR")
    return Path(chosen) if chosen else user_cache_path("edgevit")


def remember(model: Model) -> None:
    """Note where a model's file lies, so that a later check finds it by hash. Failing to is no error."""
    if model.source is None:
        return
    with contextlib.suppress(OSError, EdgevitError):
        folder = cache_folder() / "sources"
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / model.sha256, str(model.source.resolve()))


def load_source(artifact: Artifact, reference: Path | None, *, near: Path) -> Model:
    """The model an artifact was compiled from, with the input shapes of the selected resolution.

    Looked for in this order: ``reference``; the file of the recorded name beside the artifact or in the
    current folder; where it lay when it was compiled on this machine.

    Args:
        artifact: compiled from it.
        reference: what the user says; nothing else is tried then.
        near: the artifact's folder.

    Raises:
        ArtifactError: it is nowhere, or ``reference`` is another model.
        ModelError, UserError: ``reference``, or the only file that may be it, cannot be used.
    """
    from edgevit.model import load

    manifest, shapes = artifact.manifest, artifact.resolution.shapes
    wanted = manifest.model.sha256
    if reference is not None:
        model = load(reference, shapes=shapes)
        if model.sha256 != wanted:
            raise ArtifactError(
                f"this is not the model the artifact was compiled from ({manifest.model.name}, SHA-256 "
                f"{wanted[:12]}…).",
                where=str(reference),
                advice="Give the original file, or compile this one.",
            )
        return model
    unusable: EdgevitError | None = None
    for candidate in _candidates(manifest, near):
        try:
            model = load(candidate, shapes=shapes)
        except EdgevitError as error:
            unusable = unusable or error
            continue
        if model.sha256 == wanted:
            return model
    if unusable:
        raise unusable
    raise ArtifactError(
        f"the model it was compiled from, {manifest.model.name}, is not beside it or where it was.",
        where=str(near),
        advice="Give the file with --reference.",
    )


def _candidates(manifest: Manifest, near: Path) -> Iterator[Path]:
    for folder in (near, Path()):
        candidate = folder / manifest.model.name
        if candidate.is_file():
            yield candidate
    with contextlib.suppress(OSError):
        remembered = Path((cache_folder() / "sources" / manifest.model.sha256).read_text(encoding="utf-8"))
        if remembered.is_file():
            yield remembered
