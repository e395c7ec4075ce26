"""End, from any thread, what another one waits for on the network. Knows sockets, no protocol."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, Timer
from typing import Any

from docmind_backup.errors import Stopped


class Breaker:
    """The connections of one kind of call. Once tripped, each of them ends, and whoever waited is Stopped."""

    def __init__(self) -> None:
        self._tripped = Event()
        self._one = Lock()
        self._lines: list[socket.socket] = []

    def trip(self) -> None:
        self._tripped.set()
        self._shut_down()

    def check(self) -> None:
        """Raises Stopped once tripped."""
        if self._tripped.is_set():
            raise Stopped

    def wait(self, seconds: float) -> None:
        """Raises Stopped as soon as it is tripped; in the main thread a signal is heard at once too."""
        if self._tripped.wait(seconds):
            raise Stopped

    def trace(self, moment: str, facts: dict[str, Any]) -> None:
        """Hears of each new connection (httpcore's `trace` extension)."""
        if moment in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            line = facts["return_value"].get_extra_info("socket")
            with self._one:
                self._lines = [known for known in self._lines if known.fileno() >= 0]
                self._lines.append(line)
            if self._tripped.is_set():
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
            timer.start()
            yield late
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()

    def _shut_down(self) -> None:
        with self._one:
            for line in self._lines:
                with suppress(OSError):  # it is closed already
                    socket.socket.shutdown(line, socket.SHUT_RDWR)
