"""A file that remembers what a long check has done, so that one that was killed goes on where it ended.

The first line says what is checked, each further one what came of one image, in the data set's order. Lines are only
ever appended: a kill leaves at most a torn last line, which is cut off.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from edgevit.errors import UserError
from edgevit.files import make_folder

if TYPE_CHECKING:
    from typing_extensions import Self

VERSION = 1
_HEAD = b'{"edgevit check":'
_SYNC_SECONDS = 5.0

Key = Mapping[str, Any]
"""What a result depends on, as JSON: a journal of another key is of another check."""

Line = dict[str, Any]


def default_path(key: Key) -> Path:
    """Where the journal of a check is kept if nobody says: in edgevit's cache folder, by the hash of its key."""
    from edgevit.sources import cache_folder

    digest = hashlib.sha256(_text(key).encode()).hexdigest()
    return cache_folder() / "checks" / f"{digest[:16]}.jsonl"


def has_lines(path: Path) -> bool:
    """Whether a journal knows of an image."""
    try:
        with path.open("rb") as stream:
            return len(stream.readline()) > 0 and stream.readline().endswith(b"\n")
    except OSError:
        return False


class Journal:
    """What is known of the first images; a context manager that holds the file alone.

    Attributes:
        path: of the file.
        lines: what an earlier run left.
    """

    def __init__(self, path: Path, key: Key, *, resume: bool) -> None:
        """Open it.

        Args:
            path: of the file; made with its folder if it does not exist.
            key: of the check.
            resume: read what is there; else begin anew.

        Raises:
            UserError: it cannot be written, another check holds it, it is of another check, or it is no journal, which
                is left as it is.
        """
        self.path = path
        self.lines: list[Line] = []
        make_folder(path.parent)
        try:
            # Opened for appending, so that nothing is lost before the lock is had; without a buffer, which would be
            # written again on closing where the disk is full.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise _unusable(path, f"cannot write: {error.strerror or error}") from error
        try:
            self._lock()
            self._begin(key, resume)
            self._count = len(self.lines)
        except OSError as error:
            self._file.close()
            raise _unusable(path, f"it is no file to write to: {error.strerror or error}") from error
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def append(self, *lines: Line) -> None:
        """Add what came of the next images, all at once. It survives a kill at once, a power cut after a few seconds.

        Raises:
            UserError: the disk is full.
        """
        self._write(*({"image": self._count + place, **line} for place, line in enumerate(lines)))
        self._count += len(lines)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise _unusable(self.path, f"cannot write: {error.strerror or error}") from error
            self._synced = time.monotonic()

    def close(self) -> None:
        """Let go of the file; safe to call twice."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                "another check is writing this journal.",
                where=str(self.path),
                advice="Wait until it ends, or give --journal another file.",
            ) from error

    def _begin(self, key: Key, resume: bool) -> None:
        with self.path.open("rb") as stream:
            head = stream.read(len(_HEAD))
            if not _HEAD.startswith(head):
                raise _unusable(self.path, "there is another file of that name, which is no journal")
            stream.seek(0)
            good = self._read(stream, key) if resume else 0
        self._file.truncate(good)
        if not good:
            self._write({"edgevit check": VERSION, "key": key})

    def _read(self, stream: IO[bytes], key: Key) -> int:
        """Take in the lines that are whole and in order; the bytes they fill."""
        head = stream.readline()
        if not head.endswith(b"\n"):
            return 0
        first = _parsed(head)
        if first is None or first.get("edgevit check") != VERSION or not isinstance(first.get("key"), dict):
            raise _unusable(self.path, "it is no journal of this version of edgevit check")
        if first.get("key") != json.loads(_text(key)):
            different = sorted(name for name in key if first["key"].get(name) != json.loads(_text(key))[name])
            raise UserError(
                f"the journal is of another check: {', '.join(different)} differ.",
                where=str(self.path),
                advice="Begin anew without --resume, or give --journal another file.",
            )
        good = len(head)
        for raw in stream:
            line = _parsed(raw) if raw.endswith(b"\n") else None
            if line is None or line.pop("image", None) != len(self.lines):
                break
            self.lines.append(line)
            good += len(raw)
        return good

    def _write(self, *lines: Line) -> None:
        rest = memoryview(b"".join(_text(line).encode() + b"\n" for line in lines))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            raise _unusable(self.path, f"cannot write: {error.strerror or error}") from error


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _parsed(raw: bytes) -> Line | None:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _unusable(path: Path, what: str) -> UserError:
    return UserError(f"{what}.", where=str(path), advice="Give --journal a file in a folder that is writable.")
