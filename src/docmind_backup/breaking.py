"""End, from any thread, what another one waits for on the network. Knows sockets, no protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Timer
from typing import Any

from docmind_backup.errors import Stopped
from docmind_backup.starting import start_whole


class Breaker:
    """The connections of one kind of call, made by one thread. Once tripped, each ends, and whoever waited is Stopped.

    Without a lock that anybody waits for: a signal handler may trip it, whatever it interrupts.
    """

    def __init__(self) -> None:
        self._tripped = False
        self._cuts = 0
        self._begun = 0
        """How many cuts there were when the last call began."""
        self._asleep = Lock()
        """Let go of when it is tripped: until then nobody can take it a second time."""
        self._asleep.acquire()
        self._lines: tuple[socket.socket, ...] = ()

    def trip(self) -> None:
        self._tripped = True
        with suppress(RuntimeError):  # it was tripped before
            self._asleep.release()
        self._shut_down()

    def cut(self) -> None:
        """End the call that is under way, which is Stopped; one that is begun later is not touched."""
        self._cuts += 1
        self._shut_down()

    def begin(self) -> None:
        """A call that a `cut` from now on ends."""
        self._begun = self._cuts

    def check(self) -> None:
        """Raises Stopped once tripped, and where the call was cut that began last."""
        if self._broken:
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Raises Stopped as soon as it is tripped; in the main thread a signal is heard at once too."""
        self.check()
        self._asleep.acquire(timeout=seconds)
        self.check()

    @property
    def _broken(self) -> bool:
        return self._tripped or self._begun != self._cuts

    def trace(self, moment: str, facts: dict[str, Any]) -> None:
        """Hears of each new connection (httpcore's `trace` extension)."""
        if moment in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            line = facts["return_value"].get_extra_info("socket")
            self._lines = (*(known for known in self._lines if known.fileno() >= 0), line)
            if self._broken:
                self._shut_down()

    @contextmanager
    def within(self, seconds: float) -> Iterator[Event]:
        """After so long the connections end; the event says whether that was why.

        For an answer of which a little arrives now and then: no timeout for silence ever ends the waiting for its end.
        """
        late = Event()

        def end() -> None:
            late.set()
            self._shut_down()

        timer = Timer(seconds, end)
        timer.daemon = True
        try:
            start_whole(timer)
            yield late
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()

    def _shut_down(self) -> None:
        for line in self._lines:
            with suppress(OSError):  # it is closed already
                socket.socket.shutdown(line, socket.SHUT_RDWR)
