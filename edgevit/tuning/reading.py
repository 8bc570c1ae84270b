"""Read logs line by line; what is no record is reported and left out, never fatal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgevit.tuning.record import MAX_LINE, NewerRecord, NotARecord, Record, parse_record

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Rejected:
    """A line that was left out.

    Attributes:
        file: that holds it.
        line: its number from 1; 0 when the file as a whole could not be read.
        why: what is wrong with it.
        newer: it is a record of a later version of edgevit, and nothing is wrong with it.
        torn: it is the last one and has no end: its writer was killed, or is writing just now.
    """

    file: Path
    line: int
    why: str
    newer: bool = False
    torn: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.why}" if self.line else f"{self.file}: {self.why}"


@dataclass(frozen=True)
class Line:
    """One line of a log.

    Attributes:
        raw: its bytes with their end; cut where longer than any record may be.
        size: its bytes in the file.
        found: the record, or why there is none.
    """

    raw: bytes
    size: int
    found: Record | Rejected


def read_lines(file: Path) -> Iterator[Line]:
    """Every line of a file that is not blank, in order; takes the memory of one line.

    Raises:
        OSError: the file cannot be read.
    """
    with file.open("rb") as stream:
        number = 0
        while raw := stream.readline(MAX_LINE + 1):
            number += 1
            size = len(raw)
            if size > MAX_LINE and not raw.endswith(b"\n"):
                size += _skip_line(stream)
            if raw.strip():
                yield Line(raw, size, _parsed(raw, size, file, number))


def read_records(file: Path) -> Iterator[Record | Rejected]:
    """Every record of a file, and in place of other lines why they are none. A file that cannot be read is reported."""
    try:
        for line in read_lines(file):
            yield line.found
    except OSError as error:
        yield Rejected(file, 0, f"cannot read: {error.strerror or error}")


def _skip_line(stream: IO[bytes]) -> int:
    """Read to the end of the line; the bytes read."""
    skipped = 0
    while block := stream.readline(_CHUNK):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped


def _parsed(raw: bytes, size: int, file: Path, number: int) -> Record | Rejected:
    try:
        if size > MAX_LINE:
            raise NotARecord(f"longer than {MAX_LINE >> 20} MiB")
        return parse_record(raw)
    except NewerRecord as error:
        return Rejected(file, number, str(error), newer=True)
    except NotARecord as error:
        torn = not raw.endswith(b"\n") and size <= MAX_LINE
        return Rejected(file, number, "the line has no end" if torn else str(error), torn=torn)
