"""What has come of the images of a pass so far."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from edgevit.accuracy.contact_sheet import MOST
from edgevit.accuracy.metric import Metric, Record, Result
from edgevit.errors import UserError

if TYPE_CHECKING:
    from edgevit.accuracy.dataset import Sample
    from edgevit.accuracy.journal import Line

T = TypeVar("T")


class Unreadable(Result):
    """An image that was left out, and why."""

    name: str
    reason: str


class Tally(Generic[T]):
    """Counts, image by image in the data set's order.

    Attributes:
        done: images, the unreadable ones among them.
        unreadable: those that were left out.
    """

    def __init__(self, samples: Sequence[Sample[T]], metric: Metric[T, Any]) -> None:
        self._samples = samples
        self._metric = metric
        self._differing: list[tuple[float, int]] = []
        self.done = 0
        self.unreadable: list[Unreadable] = []

    def take(self, line: Line) -> None:
        """The next image's, from the journal or just made."""
        sample = self._samples[self.done]
        if "unreadable" in line:
            self.unreadable.append(Unreadable(name=sample.name, reason=line["unreadable"]))
        else:
            record: Record = line["record"]
            self._metric.add(sample.truth, record)
            if much := self._metric.disagreement(record):
                # Of equal ones the first.
                keep = heapq.heappush if len(self._differing) < MOST else heapq.heappushpop
                keep(self._differing, (much, -self.done))
        self.done += 1

    def worst(self) -> list[Sample[T]]:
        """Those on which the two executors differ most, the most first."""
        return [self._samples[-place] for _, place in sorted(self._differing, reverse=True)]

    def refuse_nothing(self) -> None:
        """Refuse a pass without images.

        Raises:
            UserError: none could be used.
        """
        if self.done == len(self.unreadable):
            first = f"; {self.unreadable[0].name}: {self.unreadable[0].reason}" if self.unreadable else "."
            raise UserError(
                f"none of {self.done} images could be used{first}", advice="Check the data set and the preprocessing."
            )
