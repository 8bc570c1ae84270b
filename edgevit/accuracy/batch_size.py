"""How many images go to a device at once."""

from __future__ import annotations

BATCH_SECONDS = 1.0
"""What a batch may take: progress is shown, and the journal written, after each."""

BATCH_IMAGES = 64
"""Most images in a batch: the way to the device is then shared by so many that more gain nothing, and the host holds
about twice as many, with their masks."""


class BatchSize:
    """Begins with one image, doubles while batches are quick, and shrinks when one was slow.

    Attributes:
        now: images in the next batch.
        largest: batch so far.
    """

    def __init__(self, most: int) -> None:
        """Begin with one.

        Args:
            most: images that a batch may have, 1 where batches gain nothing.
        """
        self._most = min(most, BATCH_IMAGES)
        self.now = 1
        self.largest = 0

    def took(self, images: int, seconds: float) -> None:
        """Learn from a batch that has come back."""
        self.largest = max(self.largest, images)
        fitting = int(images * BATCH_SECONDS / seconds) if seconds else self._most
        self.now = max(1, min(2 * self.now, fitting, self._most))
