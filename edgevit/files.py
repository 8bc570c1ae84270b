"""Files that are whole or absent: everything is written aside, then renamed into place."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgevit.errors import UserError

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write ``data`` to ``path`` so that a reader sees the old file or the new one, never a part.

    Raises:
        UserError: the folder does not exist, is not writable, or the disk is full.
    """
    with staged_file(path) as aside:
        if isinstance(data, str):
            aside.write_text(data, encoding="utf-8")
        else:
            aside.write_bytes(data)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it to ``path`` if the block succeeds, else remove it."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        aside.chmod(0o666 & ~_umask())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise _unwritable(path, error) from error
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def staged_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; swap it into place if the block succeeds, else remove it.

    An existing folder at ``path`` is replaced only at the very end.
    """
    try:
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield aside
        aside.chmod(0o777 & ~_umask())
        if path.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.rename(old / "old")
            aside.rename(path)
            shutil.rmtree(old)
        else:
            aside.rename(path)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise _unwritable(path, error) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and its parents if they are missing.

    Raises:
        UserError: a file is in the way, or the place is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write: {error.strerror or error}.",
        where=str(path),
        advice="Choose a folder that exists, is writable and has room.",
    )
