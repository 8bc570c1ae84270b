"""Batches of choices, and what was built of them, in short."""

from __future__ import annotations

from edgevit.tuning.building.build import Built


def ways(*numbers: int) -> list[dict[str, int]]:
    return [{"way": number} for number in numbers]


def functions(built: Built) -> tuple[list[dict[int, str]], list[int]]:
    """Functions of each library's choices, and choices that failed."""
    libraries, failures = built
    names = [{choice["way"]: name for choice, name in library.functions} for library in libraries]
    return names, [failure.choice["way"] for failure in failures]
