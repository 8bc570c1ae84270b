"""Append records to a log that others append to, that may lie on a full disk, and whose writer may be killed.

A record is one ``write`` of one whole line on a descriptor opened for appending, under an exclusive ``flock`` on the
log. A kill tears at most the line that is being written; whoever appends next sees that the last line has no end and
sets it aside first. The kernel has a written record at once, so a kill loses none; the disk has it five seconds later
or when the log is closed, so a power cut may cost the last five seconds.

Whoever replaces a log (repairs, ``prune``) renames the new file into place while it holds the old one's lock. A
writer that waited for that lock finds another file at the path, and opens and locks that.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from edgevit.errors import EdgevitError, EnvironmentFailure, UserError
from edgevit.files import make_folder, staged_file
from edgevit.tuning.reading import Line, Rejected, read_lines
from edgevit.tuning.record import MAX_LINE, NotARecord, Record, parse_record

if TYPE_CHECKING:
    from typing_extensions import Self

SYNC_SECONDS = 5.0
_LOCK_SECONDS = 60.0
_RETRY_SECONDS = 0.002
_SHOWN_BYTES = 4096
_BLOCK = 1 << 16
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR)


def rejected_path(log: Path) -> Path:
    """Where lines of a log that are no records are set aside: ``NAME.rejected.jsonl`` beside it."""
    return log.with_name(f"{log.stem}.rejected.jsonl")


class LogWriter:
    """A log opened for appending; a context manager. Threads may share it, processes open their own.

    Attributes:
        path: of the log.
        set_aside: lines that opening or appending moved to :func:`rejected_path`.
    """

    def __init__(self, path: Path) -> None:
        """Open a log, make it if there is none, and set aside what is no record.

        Lines of a later version of edgevit stay where they are.

        Raises:
            UserError: it cannot be written.
            EnvironmentFailure: the disk is full, or another process holds the log.
        """
        self.path = path
        self.set_aside: list[Rejected] = []
        self._mutex = threading.RLock()
        self._depth = 0
        self._dirty = False
        self._synced = time.monotonic()
        make_folder(path.parent)
        self._descriptor = self._open()
        try:
            with self.exclusive():
                self._repair()
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Write a record. It survives a kill of this process once this returns.

        Raises:
            EnvironmentFailure: the disk is full; the log is as it was before.
            UserError: the log cannot be written any more.
        """
        line = record.line()
        if len(line) > MAX_LINE:
            raise UserError(
                f"the record is longer than {MAX_LINE >> 20} MiB.", where=record.workload, advice="Leave it out."
            )
        with self.exclusive():
            self._mend_tail()
            self._write(line)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync()

    def replace(self, choose: Callable[[Iterator[Line]], Iterable[bytes]]) -> None:
        """Replace the log by what ``choose`` makes of its lines; nobody appends meanwhile.

        Raises:
            UserError: it cannot be written, or the disk is full; the log is as it was before.
        """
        with self.exclusive():
            # A link to a log stays a link.
            with staged_file(self.path.resolve()) as aside, aside.open("wb") as stream:
                stream.writelines(choose(read_lines(self.path)))
                stream.flush()
                os.fsync(stream.fileno())
            self._reopen()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the log's lock; nested use is free."""
        with self._mutex:
            if self._depth == 0:
                self._lock()
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                if self._depth == 0 and self._descriptor >= 0:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the log, on disk; safe to call twice."""
        with self._mutex:
            if self._descriptor < 0:
                return
            try:
                if self._dirty:
                    self._sync()
            finally:
                os.close(self._descriptor)
                self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def _reopen(self) -> None:
        fresh = self._open()
        os.close(self._descriptor)
        self._descriptor = fresh

    def _lock(self) -> None:
        """Lock the file that the path names, whichever that is once the lock is had."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise EnvironmentFailure(
                        f"another process has held this log for {_LOCK_SECONDS:.0f} seconds.",
                        where=str(self.path),
                        advice="End it, or let it go on, and run the same command again.",
                    ) from None
                time.sleep(_RETRY_SECONDS)
                continue
            except OSError as error:
                raise _unwritable(self.path, error) from error
            if self._is_at_path():
                return
            self._reopen()

    def _is_at_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:
            return False

    def _write(self, data: bytes) -> None:
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, data)
            if written < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, before)
            raise _unwritable(self.path, error) from error
        self._dirty = True

    def _sync(self) -> None:
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._dirty, self._synced = False, time.monotonic()

    def _repair(self) -> None:
        self._mend_tail()
        strangers = [line.found for line in read_lines(self.path) if _is_stranger(line)]
        if strangers:
            self.replace(self._without_strangers)

    def _without_strangers(self, lines: Iterator[Line]) -> Iterator[bytes]:
        for line in lines:
            if _is_stranger(line):
                assert isinstance(line.found, Rejected)
                self._put_aside(line.found, line.raw, line.size)
            else:
                yield line.raw

    def _mend_tail(self) -> None:
        """Give a last line that has no end its end if it is a record, else set it aside."""
        size = os.fstat(self._descriptor).st_size
        if size == 0 or os.pread(self._descriptor, 1, size - 1) == b"\n":
            return
        begin = self._last_line(size)
        tail = os.pread(self._descriptor, MAX_LINE + 1, begin)
        with contextlib.suppress(NotARecord):
            parse_record(tail)
            self._write(b"\n")
            return
        self._put_aside(Rejected(self.path, 0, "the line has no end", torn=True), tail, size - begin)
        os.ftruncate(self._descriptor, begin)

    def _last_line(self, size: int) -> int:
        """Offset of the first byte after the last end of line."""
        end = size
        while end > 0:
            begin = max(0, end - _BLOCK)
            found = os.pread(self._descriptor, end - begin, begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
        return 0

    def _put_aside(self, why: Rejected, raw: bytes, size: int) -> None:
        kept = raw if size <= MAX_LINE else raw[:_SHOWN_BYTES]
        entry = {"bytes": size, "line": why.line, "text": kept.decode(errors="backslashreplace"), "why": why.why}
        path = rejected_path(self.path)
        try:
            with path.open("ab") as stream:
                stream.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        except OSError as error:
            raise _unwritable(path, error) from error
        self.set_aside.append(why)


def _is_stranger(line: Line) -> bool:
    return isinstance(line.found, Rejected) and not line.found.newer


def _unwritable(path: Path, error: OSError) -> EdgevitError:
    if error.errno in _FULL:
        return EnvironmentFailure(
            "the disk is full: this record was not written, all before it are whole.",
            where=str(path),
            advice="Make room and run the same command again.",
        )
    kind = UserError if error.errno in _FORBIDDEN else EnvironmentFailure
    return kind(
        f"cannot write the tuning log: {error.strerror or error}.",
        where=str(path),
        advice="Choose a folder that is writable, with EDGEVIT_TUNING_DIR or on the command line.",
    )
