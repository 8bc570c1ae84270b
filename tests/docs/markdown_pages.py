"""Fenced blocks of the documentation, and how a ``console`` block says what a command prints.

``console`` blocks hold ``$ command`` lines with the expected output beneath each. ``…`` in a line stands for
any text, a line that is only ``…`` for any number of lines. Blank lines and the width of space do not count. A
command must succeed unless its expected output has a line that begins with ``error:``. ``python`` blocks must
run. Other blocks (``sh``: needs a device or the network) are only read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_NEEDS = re.compile(r"<!-- needs: (\w+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: the word after the fence.
        line: number of its first line in the page.
        text: what is between the fences.
        needs: named in a comment right above it: a fixture without which it cannot run.
    """

    language: str
    line: int
    text: str
    needs: str | None


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block and what it should print."""

    text: str
    expected: tuple[str, ...]

    @property
    def fails(self) -> bool:
        """Whether the page shows it failing."""
        return any(line.startswith("error:") for line in self.expected)


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, in order."""
    found: list[Block] = []
    language: str | None = None
    needs: str | None = None
    begin, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.startswith("```"):
            if language is not None:
                lines.append(line)
            elif line.strip():
                marker = _NEEDS.fullmatch(line.strip())
                needs = marker.group(1) if marker else None
        elif language is None:
            language, begin, lines = line.removeprefix("```"), number + 1, []
        else:
            found.append(Block(language, begin, "\n".join(lines), needs))
            language = needs = None
    assert language is None, f"{page.name}: the fence before line {begin} is not closed"
    return found


def commands(block: Block) -> list[Command]:
    """The commands of a ``console`` block."""
    found: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        else:
            found[-1][1].append(line)
    return [Command(text, tuple(expected)) for text, expected in found]


def matches(expected: tuple[str, ...], actual: str) -> bool:
    """Whether ``actual`` is what the page shows."""
    pattern = "".join(
        r"(?:.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\n" for line in _plain(expected)
    )
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _plain(actual.splitlines()))) is not None


def _plain(lines: Iterable[str]) -> list[str]:
    return [" ".join(line.split()) for line in lines if line.strip()]
