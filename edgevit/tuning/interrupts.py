"""Ctrl-C while C++ calls Python and Python calls C++: it waits until Python is in charge."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Holds Ctrl-C back inside :meth:`held`; a second one is let through.

    TVM looks for signals in the middle of its work, also where an exception ends the process. In threads other than the
    main one nothing changes: signals are not theirs.
    """

    def __init__(self) -> None:
        self._old: signal._HANDLER = None
        self._came = False
        self._active = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Note a Ctrl-C, and raise it when the block ends or :meth:`check` is called."""
        if threading.current_thread() is not threading.main_thread() or self._active:
            yield
            return
        self._old = signal.getsignal(signal.SIGINT)
        self._active = True
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._old)
            self._active = False
        self.check()

    @contextlib.contextmanager
    def free(self) -> Iterator[None]:
        """A Ctrl-C counts at once, inside :meth:`held`."""
        self.check()
        if not self._active:
            yield
            return
        signal.signal(signal.SIGINT, self._old)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, self._note)

    def check(self) -> None:
        """Raise what was held back.

        Raises:
            KeyboardInterrupt: a Ctrl-C came.
        """
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._came and callable(self._old):
            self._old(number, frame)
        self._came = True
