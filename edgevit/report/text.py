"""Text from elsewhere, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with whatever is no visible character or space written as an escape, such as ``\\x1b``.

    Names of files and contents of data sets may hold what moves the cursor, starts a new line, or is no Unicode.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
