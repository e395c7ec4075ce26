"""A thread is started whole or not at all, whenever a signal comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from docmind_backup.starting import STOPPING, start_whole


class Struck(threading.Thread):
    """A signal comes while it starts."""

    def __init__(self, number: signal.Signals, *, early: bool) -> None:
        self.ran = threading.Event()
        super().__init__(target=self.ran.set)
        self._number, self._early = number, early

    def start(self) -> None:
        if self._early:
            signal.raise_signal(self._number)
        super().start()
        if not self._early:
            signal.raise_signal(self._number)


class Ended(Exception):
    """Raised by a signal handler."""


def end(number: int, _frame: FrameType | None) -> None:
    raise Ended(number)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.signal(number, end) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_while_it_starts_is_heard_when_it_has_started(number: signal.Signals, early: bool) -> None:
    thread = Struck(number, early=early)

    with pytest.raises(Ended, match=str(int(number))):
        start_whole(thread)

    assert thread.ident is not None
    thread.join()
    assert thread.ran.is_set()
    assert [signal.getsignal(each) for each in STOPPING] == [end] * 3


def test_a_thread_that_cannot_be_had_leaves_the_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)

    with pytest.raises(RuntimeError):
        start_whole(threading.Thread())

    assert [signal.getsignal(each) for each in STOPPING] == [end] * 3


def test_other_threads_start_theirs_as_they_are() -> None:
    inner = threading.Thread()
    outer = threading.Thread(target=start_whole, args=(inner,))

    start_whole(outer)
    outer.join()
    inner.join()
