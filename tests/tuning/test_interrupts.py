"""A Ctrl-C that waits until it does no harm."""

from __future__ import annotations

import signal
import threading

import pytest

from edgevit.tuning.interrupts import Interrupts


def interrupt(times: int = 1) -> None:
    for _ in range(times):
        signal.raise_signal(signal.SIGINT)


def interrupt_in_block(interrupts: Interrupts, done: list[int]) -> None:
    with interrupts.held():
        interrupt()
        done.append(1)


def test_it_comes_when_the_block_ends_or_when_asked_for() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupts = Interrupts()
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_in_block(interrupts, done)
    with interrupts.held():
        interrupt()
        done.append(2)
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert done == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before
    interrupts.check()


def test_it_counts_at_once_where_that_is_allowed() -> None:
    interrupts = Interrupts()
    with interrupts.held():
        with pytest.raises(KeyboardInterrupt), interrupts.free():
            interrupt()
        interrupt()
        with pytest.raises(KeyboardInterrupt), interrupts.free():
            pytest.fail("it came before")


def interrupt_twice(interrupts: Interrupts, done: list[int]) -> None:
    with interrupts.held():
        interrupt(2)
        done.append(1)


def test_a_second_one_is_let_through() -> None:
    interrupts = Interrupts()
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        interrupt_twice(interrupts, done)
    assert done == []


def test_other_threads_leave_signals_alone() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def look() -> None:
        with Interrupts().held():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [before]
