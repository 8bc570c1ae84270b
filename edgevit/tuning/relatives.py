"""Which targets may borrow each other's tuning records, and who is asked first.

The order is of processors, not of names, so that ``host``, a preset and a file of one's own with the same processor
share their records:

0. the same target: processor, features, vector registers are equal;
1. the same processor with other features, such as a virtual machine that hides some;
2. the same features and vector registers on another processor;
3. the same architecture and vector registers.

Within a level fewer differing features are nearer, then the name decides. Other architectures are no relatives, and
neither are targets with other vector registers: what fits 32 registers of 512 bits was up to 2.5 times as slow as the
default on 16 of 256 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from edgevit.target_schema import Target
from edgevit.tuning.record import TargetFacts


class Nearness(IntEnum):
    """How near one target is to another, nearest first."""

    SAME = 0
    PROCESSOR = 1
    FEATURES = 2
    VECTORS = 3


def nearness(one: TargetFacts, other: TargetFacts) -> Nearness | None:
    """How near two targets are; None when they are no relatives. Symmetric."""
    if one.architecture != other.architecture:
        return None
    if one.identity == other.identity:
        return Nearness.SAME
    if (one.vector_bits, one.registers) != (other.vector_bits, other.registers):
        return None
    # "generic" and the x86-64 levels name no processor.
    if one.cpu == other.cpu and one.cpu != "generic" and not one.cpu.startswith("x86-64"):
        return Nearness.PROCESSOR
    return Nearness.FEATURES if one.features == other.features else Nearness.VECTORS


def distance(one: TargetFacts, other: TargetFacts) -> tuple[int, int] | None:
    """Level of nearness, then the number of features that only one of the two has; None for no relatives."""
    level = nearness(one, other)
    return None if level is None else (level, len(set(one.features) ^ set(other.features)))


def relatives(target: Target, known: Iterable[Target] | None = None) -> list[Target]:
    """Targets whose records may serve ``target``, nearest first; those that are the same as it come first.

    Args:
        target: that borrows.
        known: targets to choose from; None for the shipped presets.
    """
    if known is None:
        from edgevit.targets import list_targets

        known = (candidate for candidate in list_targets() if candidate.name != "host")
    own = TargetFacts.of(target)
    found = [(distance(own, TargetFacts.of(other)), other) for other in known if other.name != target.name]
    near = [(steps, other.name, other) for steps, other in found if steps is not None]
    return [other for _, _, other in sorted(near, key=lambda entry: entry[:2])]
