"""The points of a kernel family's space: numbered, and with neighbours."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from edgevit.tuning.records import Choice


@dataclass(frozen=True)
class Space:
    """All valid choices of a workload: every combination of the axes' values, and the default.

    The order is the same wherever the family offers the same values: the default first, then the combinations, of which
    the last axis changes fastest. A default may lie outside the axes; it is a point all the same.

    Attributes:
        axes: values of each choice by its name, ascending.
        default: the family's own choice.
        accept: tells which combinations are points; None for all of them.
    """

    axes: Mapping[str, tuple[int, ...]]
    default: Choice
    accept: Callable[[Choice], bool] | None = None

    @classmethod
    def of(
        cls,
        offered: Mapping[str, tuple[int, ...]],
        default: Choice,
        pinned: Mapping[str, int],
        accept: Callable[[Choice], bool] | None = None,
    ) -> Space:
        """The space that a family offers, where some choices may be made already."""
        axes = {name: (pinned[name],) if name in pinned else tuple(sorted(values)) for name, values in offered.items()}
        return cls(axes, default, accept)

    @cached_property
    def size(self) -> int:
        """Number of points."""
        if self.accept is None:
            return self.combinations + (not self._on_axes(self.default))
        return sum(1 for _ in self)

    @property
    def combinations(self) -> int:
        """Number of combinations of the axes' values."""
        return prod(len(values) for values in self.axes.values())

    def __contains__(self, choice: object) -> bool:
        if not isinstance(choice, dict):
            return False
        return choice == self.default or (self._on_axes(choice) and self._accepts(choice))

    def __iter__(self) -> Iterator[Choice]:
        yield dict(self.default)
        for number in range(self.combinations):
            choice = self.combination(number)
            if choice != self.default and self._accepts(choice):
                yield choice

    def combination(self, number: int) -> Choice:
        """A combination of the axes' values by its number; numbers wrap around."""
        choice: Choice = {}
        for name, values in reversed(self._each()):
            number, place = divmod(number, len(values))
            choice[name] = values[place]
        return {name: choice[name] for name in self.axes}

    def neighbours(self, choice: Mapping[str, int]) -> list[Choice]:
        """Points that differ from a choice in one value, by one step; of a default off the axes also the nearest."""
        base = {
            name: min(values, key=lambda value: (abs(value - choice[name]), value)) for name, values in self._each()
        }
        found = [base]
        for name, values in self._each():
            place = bisect_left(values, base[name])
            found += [{**base, name: values[step]} for step in (place - 1, place + 1) if 0 <= step < len(values)]
        return [near for near in found if near != choice and self._accepts(near)]

    def _accepts(self, choice: Choice) -> bool:
        return self.accept is None or self.accept(choice)

    def _each(self) -> list[tuple[str, tuple[int, ...]]]:
        return list(self.axes.items())

    def _on_axes(self, choice: Mapping[str, int]) -> bool:
        return choice.keys() == self.axes.keys() and all(choice[name] in values for name, values in self._each())
