"""Make a snapshot on the server, find it again when the answer is lost, and take away what is ours - nothing else.

The server names a snapshot by the second it begins in, and a later one of that second takes the place of the
earlier. A call whose caller has gone away is carried out all the same (both seen on Qdrant 1.18).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from docmind_backup.core.qdrant_rest import DATE_LAG, named_at
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.errors import QdrantError, QdrantUnclear
from docmind_backup.ledger import Begun, Fate, Ledger, delete_ours

FREE_WITHIN_S = 5
"""Seconds for which a second is sought in which nobody else has made a snapshot."""

TICK_S = 0.1


class Crowded(QdrantError):
    """Somebody makes snapshots of the collection in every second: ours would take the place of one of them."""


class Creation:
    """One create call and what comes of it; for one thread."""

    def __init__(self, server: CollectionServer, ledger: Ledger, begun: Begun) -> None:
        self._server = server
        self._ledger = ledger
        self._begun = begun

    @property
    def others(self) -> int:
        """How many snapshots were listed before the call."""
        return len(self._begun.before)

    @property
    def name(self) -> str:
        """Of the snapshot that the server said it made, and only then it is ours beyond doubt; empty without."""
        return self._begun.name

    def snapshot(self, late_wait_s: float, tick: Callable[[], None]) -> ServerSnapshot:
        """What the server made; unanswered, the only one that it can be, looked for so long. Raises QdrantError.

        A refusal is an answer: nothing was begun. Silence is not. `tick`, which may end it, is called while waiting.
        """
        try:
            made = self._server.create_snapshot(self._begun.collection)
        except QdrantError as error:
            if error.may_be_done:
                return self._late(error, late_wait_s, tick)
            self._ledger.forget(self._begun)
            raise
        self._begun = self._begun.answered(made)
        self._ledger.write(self._begun)
        if self._begun.before:
            self._begun = self._begun.answered(made, self._server.identity(self._begun.collection, made.name))
            self._ledger.write(self._begun)
        return made

    def _late(self, error: QdrantError, late_wait_s: float, tick: Callable[[], None]) -> ServerSnapshot:
        match self._appeared(late_wait_s, tick):
            case ():
                raise error
            case (one,):
                return one
            case several:
                problem = f"{error}; {len(several)} snapshots appeared since, and which one is ours cannot be told"
                raise QdrantUnclear(problem, hint="`docmind-backup leftovers` names them")

    def _appeared(self, late_wait_s: float, tick: Callable[[], None]) -> tuple[ServerSnapshot, ...]:
        """What may be ours, once two looks agree: a checksum may come after its file, and a second client's too."""
        last: tuple[ServerSnapshot, ...] = ()
        pauses, deadline = 1, time.monotonic() + late_wait_s
        while True:
            found = self._candidates()
            if (found and found == last) or time.monotonic() >= deadline:
                return found
            for _ in range(pauses):
                tick()
                time.sleep(TICK_S)
            pauses, last = min(10, 2 * pauses), found

    def _candidates(self) -> tuple[ServerSnapshot, ...]:
        try:
            return tuple(filter(self._begun.might_be_ours, self._server.snapshots(self._begun.collection)))
        except QdrantError:  # it may be starting anew
            return ()

    def end(self) -> Fate | None:
        """Ours leaves the server; None when none is known to be ours. QdrantError: it stays, and written down."""
        if not self.name:
            return None
        fate = delete_ours(self._server, self._begun)
        if fate is not Fate.OUT_OF_REACH:
            self._ledger.forget(self._begun)
        return fate


def begin(server: CollectionServer, ledger: Ledger, collection: str, backup_id: str) -> Creation:
    """Write down what is there and that a snapshot is about to be made. Raises Crowded and other QdrantErrors."""
    now, there = _free_second(server, collection)
    listed = tuple((s.name, s.checksum) for s in there)
    begun = Begun(backup_id, server.url, collection, now.isoformat(), listed)
    ledger.write(begun)
    return Creation(server, ledger, begun)


def _free_second(server: CollectionServer, collection: str) -> tuple[datetime, tuple[ServerSnapshot, ...]]:
    """Server time, and what is listed then: nothing with this second in its name, which ours would replace."""
    deadline = time.monotonic() + FREE_WITHIN_S
    while True:
        asked = time.monotonic()
        now = server.now()
        there = server.snapshots(collection)
        taken = {second for s in there if (second := named_at(s.name))}
        naive = now.replace(tzinfo=None)
        until = naive + DATE_LAG + timedelta(seconds=1 + time.monotonic() - asked)
        if not any(naive <= second <= until for second in taken):
            return now, there
        if time.monotonic() >= deadline:
            raise Crowded(
                f"another client makes snapshots of {collection} in every second: ours would take the place of theirs",
                hint="run it again when that client is done",
            )
        time.sleep(0.05)
