"""Take times in turns: every contender in every round, each round in another order."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edgevit.bench.contenders.worker import Turn
from edgevit.errors import EdgevitError

_MAX_EXTENSION = 20
"""How many times as many rounds as asked may be run to reach the minimum seconds."""


class Timed(Protocol):
    """Something that takes turns."""

    def time(self, calls: int) -> Turn:
        """Time ``calls`` calls."""
        ...


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        rounds: at least.
        calls: of each contender in each round, counted ones.
        minimum_seconds: of counted calls of each contender, at least.
        pause_seconds: between turns, so that one contender's spinning threads rest before the next begins.
    """

    rounds: int = 20
    calls: int = 5
    minimum_seconds: float = 1.0
    pause_seconds: float = 0.05


@dataclass
class Samples:
    """A contender's turns.

    Attributes:
        turns: one a round.
        failure: why it dropped out; None if it did not.
    """

    turns: list[Turn] = field(default_factory=list)
    failure: str | None = None

    @property
    def seconds(self) -> float:
        """Sum of the counted calls."""
        return sum(sum(turn.seconds) for turn in self.turns)


def order(names: Sequence[str], number: int) -> list[str]:
    """Who comes when in round ``number``: everyone comes first, last and after a rest equally often."""
    start = number % len(names) if names else 0
    return [*names[start:], *names[:start]]


def take_rounds(
    contenders: Mapping[str, Timed],
    plan: Plan,
    *,
    yardsticks: Collection[str] = (),
    progress: Callable[[float], None] = lambda _: None,
    rest: Callable[[float], None] = time.sleep,
) -> dict[str, Samples]:
    """Measure until there are enough rounds and seconds, after one round that is not counted.

    A contender that fails drops out; the others go on.

    Args:
        contenders: by name.
        plan: how much.
        yardsticks: names for which the minimum seconds do not count.
        progress: told the finished share, 0 to 1.
        rest: sleeps; tests have something quicker.
    """
    samples = {name: Samples() for name in contenders}

    def turn(name: str, calls: int) -> Turn | None:
        rest(plan.pause_seconds)
        with contextlib.suppress(KeyError, TypeError, ValueError):  # an answer that is not one: see below
            try:
                return contenders[name].time(calls)
            except EdgevitError as error:
                samples[name].failure = error.message
                return None
        samples[name].failure = "its process answered nonsense."
        return None

    def alive() -> list[str]:
        return [name for name in contenders if samples[name].failure is None]

    for name in alive():
        turn(name, 1)
    for number in range(plan.rounds * _MAX_EXTENSION):
        racing = [name for name in alive() if name not in yardsticks]
        short = any(samples[name].seconds < plan.minimum_seconds for name in racing)
        if not racing or (number >= plan.rounds and not short):
            break
        for name in order(alive(), number):
            if taken := turn(name, plan.calls):
                samples[name].turns.append(taken)
        progress(min(1.0, (number + 1) / plan.rounds))
    return samples
