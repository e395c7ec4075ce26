"""Long queries of SQLite in this process: a signal that comes meanwhile ends them, and so does who counts along."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docmind_backup.starting import unbroken

EVERY = 100_000
"""Steps of the engine from one look to the next: some hundredths of a second."""


@contextmanager
def stoppable(connection: sqlite3.Connection, tick: Callable[[], None] = lambda: None) -> Iterator[None]:
    """`tick` is called while the engine works; what it raises gets out, and what the handler of a signal raises.

    Raised within the engine's callback, either would be lost: sqlite3 takes it for a wish to end the query.
    """
    raised: list[BaseException] = []

    def is_over() -> bool:
        try:
            tick()
        except BaseException as error:
            raised.append(error)
        return bool(raised or came)

    with unbroken() as came:
        connection.set_progress_handler(is_over, EVERY)
        try:
            yield
        except sqlite3.Error:
            if raised:
                raise raised[0] from None
            raise
