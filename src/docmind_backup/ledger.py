"""Remember what was begun on a Qdrant server, so that the next run can clean up after one that died.

A snapshot's name is unknown until the create call answers, and DELETE has no condition (docs/design.md). So the
intent is on the disk before the call, the name after it; only what provably is ours is ever deleted.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from docmind_backup import durable
from docmind_backup.catalog import read_limited
from docmind_backup.core.qdrant_rest import DATE_LAG, delete_command, named_at, same_address
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.errors import QdrantError, QdrantUnreachable

LATE = timedelta(days=1)
"""How long a create call whose answer never came may still bring forth a snapshot."""
PASSES_WITHIN_S = 3
"""Seconds for which it is awaited that a second passes: it, the server's lag, and a bit. A clock may stand still."""


@dataclass(frozen=True, slots=True)
class Begun:
    """One create call: what was on the server before it, and what it answered."""

    backup_id: str
    url: str
    collection: str
    """Its own name, never an alias, which may be moved to another collection."""
    asked_at: str
    """Server time, ISO 8601."""
    before: tuple[tuple[str, str], ...]
    """(name, checksum) of each snapshot listed before the call."""
    name: str = ""
    """The snapshot's name, empty while the call is unanswered."""
    checksum: str = ""
    size: int = 0
    identity: str = ""
    """Of the file on the server, right after the answer; asked only where others make snapshots too."""

    def answered(self, snapshot: ServerSnapshot, identity: str = "") -> Begun:
        return replace(self, name=snapshot.name, checksum=snapshot.checksum, size=snapshot.size, identity=identity)

    def is_ours(self, listed: ServerSnapshot) -> bool:
        """The very snapshot the server made for us, not one of the same name that replaced it."""
        return (self.name, self.checksum, self.size) == (listed.name, listed.checksum, listed.size)

    def might_be_ours(self, listed: ServerSnapshot) -> bool:
        """Unanswered: what appeared within a day of it could be, also what does not say when.

        Not what bears in its name an earlier second: the server names a snapshot when it begins with it.
        """
        if self.name or (listed.name, listed.checksum) in self.before:
            return False
        since = datetime.fromisoformat(self.asked_at).replace(tzinfo=None, microsecond=0)
        second = named_at(listed.name)
        if second is not None and second < since:
            return False
        try:
            return since <= datetime.fromisoformat(listed.created).replace(tzinfo=None) <= since + LATE
        except ValueError:
            return True


@dataclass(frozen=True, slots=True)
class Candidate:
    """A snapshot on the server that might be a dead run's; left there, because it might be somebody else's."""

    collection: str
    snapshot: ServerSnapshot
    command: str
    """What removes it, for a person who knows."""


class Ledger:
    """The folder of notes about create calls that are not cleaned up yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, begun: Begun) -> None:
        """On the disk when this returns."""
        durable.refuse_links(self._folder.parent, self._folder)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(self._path(begun), (json.dumps(asdict(begun), sort_keys=True) + "\n").encode())

    def forget(self, begun: Begun) -> None:
        self._path(begun).unlink(missing_ok=True)
        self._former_path(begun).unlink(missing_ok=True)

    def pending(self) -> tuple[Begun, ...]:
        """What earlier runs began and did not clean up; unreadable notes are passed over."""
        return tuple(begun for _, begun in self.files())

    def files(self) -> tuple[tuple[Path, Begun], ...]:
        """The same, each with where it is written down."""
        return tuple(self._read())

    def _path(self, begun: Begun) -> Path:
        """One for each call: what an unanswered one brings forth is not forgotten with the next."""
        call = json.dumps((begun.url, begun.collection, begun.asked_at)).encode()
        return self._folder / f"{begun.backup_id}-{hashlib.sha256(call).hexdigest()[:32]}.json"

    def _former_path(self, begun: Begun) -> Path:
        """Where earlier versions wrote it."""
        collection = hashlib.sha256(begun.collection.encode()).hexdigest()
        return self._folder / f"{begun.backup_id}-{collection[:32]}.json"

    def _read(self) -> Iterator[tuple[Path, Begun]]:
        known = {field.name for field in fields(Begun)}
        for path in durable.notes_in(self._folder):
            try:
                data = {name: value for name, value in json.loads(read_limited(path)).items() if name in known}
                data["before"] = tuple((str(name), str(checksum)) for name, checksum in data["before"])
                datetime.fromisoformat(data["asked_at"])
                begun = Begun(**data)
                others = {type(getattr(begun, name)) for name in known - {"before", "size"}}
                if others == {str} and type(begun.size) is int:
                    yield path, begun
            except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
                continue


# -- what is ours there --------------------------------------------------------------------------


class Fate(StrEnum):
    """What became of a snapshot that the server made for us."""

    DELETED = "deleted"
    GONE = "gone"
    """No longer there as it was made for us: deleted or replaced by somebody."""
    OUT_OF_REACH = "out of reach"
    """There is no such collection now; made again, its old snapshots reappear (seen on Qdrant 1.18)."""


def delete_ours(server: CollectionServer, begun: Begun) -> Fate:
    """Delete the snapshot the server made for us, if it still is that one. Raises QdrantError.

    Where others make snapshots of the collection too, its second is let pass first: until then one of theirs may
    take its name, and of a collection at rest it is the same to the bit, so that only the file's identity tells.
    """
    if begun.identity:
        _let_pass(server, begun.name)
    listed = server.snapshots(begun.collection)
    if any(map(begun.is_ours, listed)):
        if begun.identity and server.identity(begun.collection, begun.name) != begun.identity:
            return Fate.GONE
        server.delete_snapshot(begun.collection, begun.name)
        return Fate.DELETED
    return Fate.GONE if listed or _is_there(server, begun.collection) else Fate.OUT_OF_REACH


def _is_there(server: CollectionServer, collection: str) -> bool:
    return collection in {*server.names(), *server.aliases()}


def _let_pass(server: CollectionServer, snapshot: str) -> None:
    """Until the server's clock is beyond the second in the snapshot's name; one from further ahead says nothing."""
    named, deadline = named_at(snapshot), time.monotonic() + PASSES_WITHIN_S
    while named and timedelta() <= named - server.now().replace(tzinfo=None) <= DATE_LAG:
        if time.monotonic() >= deadline:
            return
        time.sleep(0.05)


def clean_up(ledger: Ledger, server: CollectionServer) -> tuple[Candidate, ...]:
    """Delete what dead runs provably left on `server`; name what might be theirs.

    What it refuses now stays written down for the next run. Raises QdrantUnreachable.
    """
    notes = ledger.pending()
    for begun in notes:
        try:
            _clean_up_one(ledger, server, begun)
        except QdrantUnreachable:
            raise
        except QdrantError:
            continue
    return candidates(notes, server)


def _clean_up_one(ledger: Ledger, server: CollectionServer, begun: Begun) -> None:
    if not same_address(begun.url, server.url):
        return
    if begun.name:
        if delete_ours(server, begun) is not Fate.OUT_OF_REACH:
            ledger.forget(begun)
    elif server.now() - datetime.fromisoformat(begun.asked_at) > LATE:
        listed = server.snapshots(begun.collection)
        if not any(map(begun.might_be_ours, listed)) and _is_there(server, begun.collection):
            ledger.forget(begun)


def candidates(notes: Sequence[Begun], server: CollectionServer) -> tuple[Candidate, ...]:
    """What the unanswered calls among `notes` may have brought forth. Raises QdrantUnreachable."""
    found: dict[tuple[str, str], Candidate] = {}
    for begun in notes:
        if begun.name or not same_address(begun.url, server.url):
            continue
        try:
            listed = server.snapshots(begun.collection)
        except QdrantUnreachable:
            raise
        except QdrantError:
            continue
        for snapshot in filter(begun.might_be_ours, listed):
            if not any(note.is_ours(snapshot) for note in notes):
                command = delete_command(server.url, begun.collection, snapshot.name)
                found[begun.collection, snapshot.name] = Candidate(begun.collection, snapshot, command)
    return tuple(found.values())
