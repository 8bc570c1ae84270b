"""Bytes that a loop nest moves between a cache and what lies behind it.

Of every loop the bytes that one iteration touches are known. What fits the cache with everything else that its loop
touches is fetched once; what does not is fetched again in every iteration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgevit.tuning.static.index import Counter
from edgevit.tuning.static.nest import Access, Loop, Stretch

LINE = 64
"""Bytes of a cache line, on every target."""

Footprint = Mapping[str, float]
"""Bytes by array."""


@dataclass(frozen=True, eq=False)
class _Pattern:
    """Accesses of one stretch to one array that differ by constants only.

    Attributes:
        array: name.
        size: bytes of the whole.
        item: bytes of an element.
        run: consecutive elements of each piece.
        pieces: runs.
        gap: elements from one piece to the next.
        steps: values and distance of the index, by the counter that runs.
    """

    array: str
    size: int
    item: int
    run: float
    pieces: int
    gap: float
    steps: Mapping[Counter, tuple[int, float]]

    def bytes(self, loops: Sequence[Counter]) -> tuple[object, float]:
        """What the pattern touches while some counters run, and a key that is the same for the same region."""
        found = [self.steps[counter] for counter in loops if self.steps.get(counter, (1, 0.0))[0] > 1]
        dims = sorted([*found, (self.pieces, self.gap)], key=lambda dim: dim[1])
        run, pieces = self.run, 1.0
        line = LINE / self.item
        for count, gap in dims:
            if count <= 1:
                continue
            if gap <= run or (pieces == 1.0 and gap < line):
                run += gap * (count - 1)
            else:
                pieces *= count
        whole = -(-run // line) * line if pieces > 1 else run
        return (tuple(sorted(found)), self.run, self.pieces), min(float(self.size), pieces * whole * self.item)


class Traffic:
    """The memory side of a loop nest."""

    def __init__(self, root: Loop) -> None:
        self._root = root
        self._patterns: dict[int, list[_Pattern]] = {}
        self._written: set[str] = set()
        for stretch, path in root.stretches():
            counters = [loop.counter for loop in path if loop.counter is not None]
            self._patterns[id(stretch)] = _patterns(stretch, counters)
            self._written |= {access.array for access in stretch.accesses if access.writes}
        self._known: dict[int, Footprint] = {}

    @property
    def working_set(self) -> float:
        """Bytes that a call touches."""
        return sum(self._whole(self._root).values())

    def beyond(self, capacity: float) -> float:
        """Bytes that a call moves between a cache of so many bytes, which a call before has warmed, and what is behind.

        What is written counts twice: it is fetched before and put back after.
        """
        if self.working_set <= capacity:
            return 0.0
        fetched = self._fetched(self._root, capacity)
        return sum(count * (2.0 if array in self._written else 1.0) for array, count in fetched.items())

    def _fetched(self, loop: Loop, capacity: float) -> Footprint:
        """Bytes by array that one run of a loop fetches into a cold cache."""
        whole = self._whole(loop)
        if sum(whole.values()) <= capacity:
            return whole
        if loop.counter is not None and sum(self._union(loop, ()).values()) <= capacity:
            # The cache holds an iteration: what the next one shares with it stays.
            return whole
        total: dict[str, float] = defaultdict(float)
        for part in loop.parts:
            fetched = self._fetched(part, capacity) if isinstance(part, Loop) else self._once(part)
            for array, count in fetched.items():
                total[array] += count * loop.times
        return total

    def _whole(self, loop: Loop) -> Footprint:
        """Bytes by array that all iterations touch."""
        if id(loop) not in self._known:
            self._known[id(loop)] = self._union(loop, (loop.counter,) if loop.counter else ())
        return self._known[id(loop)]

    def _union(self, loop: Loop, outer: tuple[Counter, ...]) -> Footprint:
        """Bytes by array that a loop's body touches, while ``outer`` counters run too."""
        regions: dict[str, dict[object, float]] = defaultdict(dict)
        sizes: dict[str, float] = {}
        for stretch, path in loop.stretches():
            counters = [*outer, *(inner.counter for inner in path[1:] if inner.counter is not None)]
            for pattern in self._patterns[id(stretch)]:
                region, count = pattern.bytes(counters)
                known = regions[pattern.array]
                known[region] = max(known.get(region, 0.0), count)
                sizes[pattern.array] = float(pattern.size)
        return {array: min(sizes[array], sum(found.values())) for array, found in regions.items()}

    def _once(self, stretch: Stretch) -> Footprint:
        found: dict[str, float] = defaultdict(float)
        for pattern in self._patterns[id(stretch)]:
            found[pattern.array] += pattern.bytes(())[1]
        return found


def _patterns(stretch: Stretch, counters: Sequence[Counter]) -> list[_Pattern]:
    groups: dict[tuple[object, ...], list[Access]] = defaultdict(list)
    for access in stretch.accesses:
        terms = tuple(sorted((id(term), factor) for term, factor in access.index.terms.items()))
        groups[access.array, terms].append(access)
    return [_pattern(group, counters) for group in groups.values()]


def _pattern(group: Sequence[Access], counters: Sequence[Counter]) -> _Pattern:
    first = group[0]
    line = LINE / first.item
    spans = sorted({(access.index.constant, access.lanes) for access in group})
    starts, ends = [spans[0][0]], [sum(spans[0])]
    for start, lanes in spans[1:]:
        if start - ends[-1] < line:
            ends[-1] = max(ends[-1], start + lanes)
        else:
            starts.append(start)
            ends.append(start + lanes)
    pieces = len(starts)
    run = sum(end - start for start, end in zip(starts, ends, strict=True)) / pieces
    gap = (starts[-1] - starts[0]) / (pieces - 1) if pieces > 1 else 0.0
    steps = {counter: first.index.step(counter) for counter in counters}
    return _Pattern(first.array, first.size, first.item, run, pieces, gap, steps)
