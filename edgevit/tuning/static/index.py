"""Index arithmetic of a kernel: sums of loop counters, with values where it is anything else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod
from typing import Any

import numpy as np

_SAMPLES = 4096
"""Points at which an expectation over loop counters is taken; more are thinned out evenly."""


@dataclass(eq=False)
class Counter:
    """A loop's counter: 0, 1, … up to its extent.

    Attributes:
        extent: iterations; their mean where it depends on outer loops.
    """

    extent: float

    @property
    def count(self) -> int:
        """Whole iterations."""
        return max(1, round(self.extent))

    @property
    def counters(self) -> frozenset[Counter]:
        """What its value depends on."""
        return frozenset((self,))

    def at(self, values: Mapping[Counter, Any]) -> Any:
        """Its value, where those of some counters are given; the others are 0."""
        return values.get(self, 0)


@dataclass(eq=False)
class Mixed:
    """A function of indices that is no sum of counters: a quotient, a remainder, a comparison.

    Attributes:
        function: of numbers or arrays.
        operands: what it is applied to.
    """

    function: Callable[..., Any]
    operands: tuple[Index, ...]
    _swept: dict[Counter, Any] = field(default_factory=dict, repr=False)

    @property
    def counters(self) -> frozenset[Counter]:
        """What its value depends on."""
        return frozenset().union(*(operand.counters for operand in self.operands))

    def at(self, values: Mapping[Counter, Any]) -> Any:
        """Its value, where those of some counters are given; the others are 0."""
        return self.function(*(operand.at(values) for operand in self.operands))

    def sweep(self, counter: Counter) -> Any:
        """Its values while one counter runs and the others stand at 0."""
        if counter not in self._swept:
            self._swept[counter] = self.at({counter: np.arange(counter.count)})
        return self._swept[counter]


@dataclass(frozen=True, eq=False)
class Index:
    """A constant and multiples of counters and mixed terms.

    Attributes:
        constant: to begin with.
        terms: factors.
    """

    constant: int = 0
    terms: Mapping[Counter | Mixed, int] = field(default_factory=dict)

    def __add__(self, other: Index) -> Index:
        terms = dict(self.terms)
        for term, factor in other.terms.items():
            terms[term] = terms.get(term, 0) + factor
        return Index(self.constant + other.constant, {term: factor for term, factor in terms.items() if factor})

    def times(self, factor: int) -> Index:
        """A multiple."""
        return Index(self.constant * factor, {term: each * factor for term, each in self.terms.items() if factor})

    @property
    def counters(self) -> frozenset[Counter]:
        """What its value depends on."""
        return frozenset().union(*(term.counters for term in self.terms))

    def at(self, values: Mapping[Counter, Any]) -> Any:
        """Its value, where those of some counters are given; the others are 0."""
        return self.constant + sum(factor * term.at(values) for term, factor in self.terms.items())

    def mean(self, clip: int | None = None) -> float:
        """Mean over all values of the counters that it depends on, negative ones counted as ``clip`` where given."""
        counters = sorted(self.counters, key=lambda counter: -counter.count)
        if not counters:
            values = np.asarray(self.constant)
        else:
            each = max(2, int(_SAMPLES ** (1 / len(counters))))
            axes = [_thinned(counter.count, each) for counter in counters]
            assert prod(len(axis) for axis in axes) <= max(_SAMPLES, 2 ** len(axes))
            points = np.array(list(product(*axes)))
            values = np.asarray(self.at({counter: points[:, place] for place, counter in enumerate(counters)}))
        return float(np.mean(values if clip is None else np.maximum(values, clip)))

    def step(self, counter: Counter) -> tuple[int, float]:
        """How many values it has while one counter runs, and how far they lie apart."""
        own = self.terms.get(counter, 0)
        mixed = [(term, factor) for term, factor in self.terms.items() if isinstance(term, Mixed)]
        mixed = [(term, factor) for term, factor in mixed if counter in term.counters]
        if not mixed:
            return (counter.count, float(abs(own))) if own and counter.count > 1 else (1, 0.0)
        values = own * np.arange(counter.count) + sum(factor * term.sweep(counter) for term, factor in mixed)
        distinct = np.unique(values)
        if len(distinct) < 2:
            return 1, 0.0
        return len(distinct), float(distinct[-1] - distinct[0]) / (len(distinct) - 1)


def _thinned(count: int, most: int) -> Any:
    return np.arange(count) if count <= most else np.unique(np.linspace(0, count - 1, most).astype(np.int64))
