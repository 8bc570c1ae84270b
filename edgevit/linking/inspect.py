"""Facts of a linked library that decide whether a device loads it, read by LIEF and compared with the target."""

from __future__ import annotations

from edgevit.errors import ToolchainError
from edgevit.linking.inspect_elf import elf_violations
from edgevit.linking.inspect_macho import archive_violations, macho_violations
from edgevit.linking.reading import reading
from edgevit.target_schema import Target


def inspect_library(data: bytes, target: Target, name: str, *, where: str) -> None:
    """Refuse a library that the target's system would refuse, or that asks for what nothing provides.

    Args:
        data: the library, or the static library where the name ends in ``.a``.
        target: what it was linked for.
        name: its file name, which libraries carry inside as well.
        where: the linker's description, for the error.

    Raises:
        ToolchainError: a violation, named.
    """
    try:
        with reading():
            violations = _violations(data, target, name)
    except (AttributeError, TypeError, ValueError) as error:  # names that are no text, numbers without meaning
        violations = [f"it cannot be read ({error})"]
    if violations:
        raise ToolchainError(
            f"the linked {name} is not what {target.name} loads: {'; '.join(violations)}.",
            where=where,
            advice="Try another linker with --linker, and report it.",
        )


def _violations(data: bytes, target: Target, name: str) -> list[str]:
    if name.endswith(".a"):
        return archive_violations(data, target)
    if target.os_kernel == "darwin":
        return macho_violations(data, target, name)
    return elf_violations(data, target, name)
