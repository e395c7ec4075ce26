"""Begin or publish something whole though a signal may come, which is heard right after; and what it reaches first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def unbroken() -> Iterator[list[int]]:
    """A signal that comes meanwhile is heard at the end of the block, however that ends; the list has those that came.

    In other threads none is heard anyway.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    nobody = (None, signal.SIG_IGN)
    before = {int(number): handler for number in STOPPING if (handler := signal.getsignal(number)) not in nobody}
    try:
        with _instead(before, note):
            yield came
    finally:
        if came:
            signal.raise_signal(came[0])


@contextmanager
def first_at_a_signal(act: Callable[[], None]) -> Iterator[None]:
    """A signal that ends a run calls `act` before the handler that is there now: who unwinds finds it done.

    `act` runs in the main thread in the middle of anything: it must not wait for a lock.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        act()
        before[number](number, frame)

    before = {int(number): handler for number in STOPPING if callable(handler := signal.getsignal(number))}
    with _instead(before, first):
        yield


@contextmanager
def _instead(before: Mapping[int, Any], new: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """`new` hears these signals; then who heard them before, unless a signal has set yet another one."""
    try:
        for number in before:
            signal.signal(number, new)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is new:
                signal.signal(number, handler)


def start_whole(thread: threading.Thread) -> None:
    """Raises what `Thread.start` raises, or what the handler of a signal that came meanwhile does.

    Raised inside `Thread.start`, it would leave a thread that cannot be waited for, or one that ends in a traceback.
    """
    with unbroken():
        thread.start()
