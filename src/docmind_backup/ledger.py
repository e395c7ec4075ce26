"""Remember what was begun on a Qdrant server, so that the next run can clean up after one that died.

A snapshot's name is unknown until the create call answers, and DELETE has no condition (docs/design.md). So the
intent is on the disk before the call, the name after it; only what provably is ours is ever deleted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from docmind_backup import durable
from docmind_backup.core.qdrant_rest import snapshot_path
from docmind_backup.core.server import CollectionServer, ServerSnapshot
from docmind_backup.errors import QdrantError, QdrantUnreachable

LATE = timedelta(days=1)
"""How long a create call whose answer never came may still bring forth a snapshot."""


@dataclass(frozen=True, slots=True)
class Begun:
    """One create call: what was on the server before it, and what it answered."""

    backup_id: str
    url: str
    collection: str
    asked_at: str
    """Server time, ISO 8601."""
    before: tuple[tuple[str, str], ...]
    """(name, checksum) of each snapshot listed before the call."""
    name: str = ""
    """The snapshot's name, empty while the call is unanswered."""
    checksum: str = ""
    size: int = 0

    def answered(self, snapshot: ServerSnapshot) -> Begun:
        return replace(self, name=snapshot.name, checksum=snapshot.checksum, size=snapshot.size)

    def is_ours(self, listed: ServerSnapshot) -> bool:
        """The very snapshot the server made for us, not one of the same name that replaced it."""
        return (self.name, self.checksum, self.size) == (listed.name, listed.checksum, listed.size)

    def might_be_ours(self, listed: ServerSnapshot) -> bool:
        """Unanswered: anything that appeared within a day of it could be, also what does not say when."""
        if (listed.name, listed.checksum) in self.before:
            return False
        since = datetime.fromisoformat(self.asked_at).replace(tzinfo=None, microsecond=0)
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
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.replace(self._path(begun), (json.dumps(asdict(begun), sort_keys=True) + "\n").encode())

    def forget(self, begun: Begun) -> None:
        self._path(begun).unlink(missing_ok=True)

    def pending(self) -> tuple[Begun, ...]:
        """What earlier runs began and did not clean up; unreadable notes are passed over."""
        return tuple(self._read())

    def _path(self, begun: Begun) -> Path:
        collection = hashlib.sha256(begun.collection.encode()).hexdigest()
        return self._folder / f"{begun.backup_id}-{collection[:32]}.json"

    def _read(self) -> Iterator[Begun]:
        for path in sorted(self._folder.glob("*.json")):
            try:
                data = json.loads(path.read_bytes())
                data["before"] = tuple((str(name), str(checksum)) for name, checksum in data["before"])
                datetime.fromisoformat(data["asked_at"])
                yield Begun(**data)
            except (OSError, ValueError, TypeError, KeyError, RecursionError):
                continue


def delete_ours(server: CollectionServer, begun: Begun) -> bool:
    """Delete the snapshot the server made for us; False when it no longer is that one. Raises QdrantError."""
    there = any(begun.is_ours(listed) for listed in server.snapshots(begun.collection))
    if there:
        server.delete_snapshot(begun.collection, begun.name)
    return there


def clean_up(ledger: Ledger, server: CollectionServer) -> tuple[Candidate, ...]:
    """Delete what dead runs provably left on `server`; name what might be theirs.

    What it refuses now stays written down for the next run. Raises QdrantUnreachable.
    """
    candidates: list[Candidate] = []
    for begun in ledger.pending():
        if begun.url != server.url:
            continue
        try:
            candidates += _clean_up_one(ledger, server, begun)
        except QdrantUnreachable:
            raise
        except QdrantError:
            continue
    return tuple(candidates)


def _clean_up_one(ledger: Ledger, server: CollectionServer, begun: Begun) -> list[Candidate]:
    if begun.name:
        delete_ours(server, begun)
        ledger.forget(begun)
        return []
    found = [s for s in server.snapshots(begun.collection) if begun.might_be_ours(s)]
    if not found and server.now() - datetime.fromisoformat(begun.asked_at) > LATE:
        ledger.forget(begun)
    return [Candidate(begun.collection, s, _command(begun, s)) for s in found]


def _command(begun: Begun, snapshot: ServerSnapshot) -> str:
    return f"curl -X DELETE '{begun.url}{snapshot_path(begun.collection, snapshot.name)}'"
