"""Which choices of a task to try next.

A small space is tried whole. Of a large one come first the default's neighbours and what is best elsewhere: for this
workload on a relative of the target, and for other workloads of the family here. Later ones are neighbours of the best
so far, mixtures of them, and some drawn at random, so that no corner is out of reach.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from edgevit.tuning.records import Choice, ChoiceKey, choice_key
from edgevit.tuning.space import Space

SMALL = 64
"""Points of a space that is tried whole."""
PARENTS = 4
"""Best choices whose neighbours and mixtures come next."""
_ENUMERATED = 50_000
_DRAWS = 200


def propose(
    space: Space,
    results: Mapping[ChoiceKey, float],
    tried: Collection[ChoiceKey],
    count: int,
    *,
    seeds: Iterable[Choice] = (),
    seed: str = "",
) -> list[Choice]:
    """Choices that were not tried, most promising first; fewer than ``count`` where no more are left.

    Args:
        space: of the task.
        results: seconds of choices measured so far.
        tried: choices that need no further trial, failures among them.
        count: to propose.
        seeds: choices that are good elsewhere.
        seed: of what is drawn; the same gives the same.
    """
    draw = random.Random(seed)  # noqa: S311 - a search, no secret
    best = sorted((key for key in results if dict(key) in space), key=lambda key: (results[key], key))[:PARENTS]
    parents = [dict(key) for key in best] or [dict(space.default)]
    if space.size <= SMALL:
        sources = [iter([*seeds]), iter(space)]
    elif not results:
        sources = [iter([space.default, *seeds, *space.neighbours(space.default)]), _random(space, tried, draw)]
    else:
        sources = [iter([*seeds]), _around(space, parents, draw, count), _random(space, tried, draw)]
    found: dict[ChoiceKey, Choice] = {}
    for source in sources:
        for choice in source:
            key = choice_key(choice)
            if len(found) < count and key not in tried and choice in space:
                found.setdefault(key, choice)
            if len(found) == count:
                return list(found.values())
    return list(found.values())


def _around(space: Space, parents: Sequence[Choice], draw: random.Random, count: int) -> Iterator[Choice]:
    """Neighbours of the best, mixtures, and random points in turns; ends, so that strangers have their turn too."""
    near = [choice for parent in parents for choice in space.neighbours(parent)]
    for place, choice in enumerate(near):
        yield choice
        if place % 2:
            yield {name: draw.choice(parents)[name] for name in space.axes}
        if place % 4 == 3:
            yield space.combination(draw.randrange(space.combinations))
    for _ in range(4 * count):
        mixture = {name: draw.choice(parents)[name] for name in space.axes}
        name = draw.choice(list(space.axes))
        yield {**mixture, name: draw.choice(space.axes[name])}


def _random(space: Space, tried: Collection[ChoiceKey], draw: random.Random) -> Iterator[Choice]:
    """Points that were not tried, in random order: all of them, unless they are too many to list."""
    if space.size <= _ENUMERATED:
        left = [choice for choice in space if choice_key(choice) not in tried]
        yield from draw.sample(left, len(left))
    else:
        yield from (space.combination(draw.randrange(space.combinations)) for _ in range(_DRAWS))
