"""Work ahead in threads, in order and within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    items: Iterable[T], work: Callable[[T], R], *, threads: int, ahead: int | Callable[[], int]
) -> Generator[R, None, None]:
    """Results of ``work`` in the order of ``items``, computed in threads before they are asked for.

    However slow the reader is, no more than ``ahead`` results wait or are being made. When the reader stops early, or
    ``work`` raises, what has not begun is dropped and what has is waited for.

    Args:
        items: read one by one, in the reader's thread.
        work: called in a thread; must be safe to run several times at once.
        threads: that work.
        ahead: items taken before the reader asks for them, at least 1; may be a function if that changes.
    """
    waiting: deque[Future[R]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            while len(waiting) >= (ahead if isinstance(ahead, int) else ahead()):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
