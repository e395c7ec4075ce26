"""Decide whether what an earlier backup holds is still what the source has. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from docmind_backup.core.model import FORMAT, Backup, CollectionRecord, Kind, SourceRecord

Sidecars = Mapping[str, tuple[int, int, int, int] | None]
"""Suffix to (ino, size, mtime_ns, ctime_ns) as it is now, None where absent."""


class Held(NamedTuple):
    """One file as an earlier backup holds it."""

    path: str
    size: int
    line: bytes
    """Its line in that inventory."""
    fields: Mapping[str, Any]
    """What the line says."""


@dataclass(frozen=True, slots=True)
class EarlierSource:
    """A source as the newest usable backup that holds it has it."""

    backup: Backup
    source: SourceRecord

    @property
    def before_ns(self) -> int:
        """What changed in this backup's first second or later may have changed after it was read."""
        return int(self.backup.record.started_at.timestamp()) * 1_000_000_000

    def mentions(self, name: str) -> bool:
        """That backup says something of the source `name`: it has to be looked at again, to be said again."""
        record = self.backup.record
        return any(o.source == name for o in record.omissions) or any(n.startswith(f"{name}: ") for n in record.notes)


@dataclass(frozen=True, slots=True)
class EarlierCollection:
    """A collection as the newest usable backup that holds it has it."""

    backup: Backup
    collection: CollectionRecord


def usable(history: Sequence[Backup], data_dir: str, now: datetime) -> tuple[Backup, ...]:
    """Those whose files may be shared: of this environment, not known to be damaged or unreadable."""
    return tuple(
        backup
        for backup in history
        if backup.record.scope.data_dir == data_dir
        and backup.record.format == FORMAT
        and not backup.damaged
        and not backup.doubted
        and backup.record.started_at <= now
    )


def earlier_source(backups: Sequence[Backup], stored: str, kind: Kind) -> EarlierSource | None:
    """`backups`: usable ones, newest first."""
    for backup in backups:
        for source in backup.record.sources:
            if (source.stored, source.kind) == (stored, kind) and source.lines[1]:
                return EarlierSource(backup, source)
    return None


def earlier_collection(backups: Sequence[Backup], name: str) -> EarlierCollection | None:
    """`backups`: usable ones, newest first."""
    for backup in backups:
        for taken in backup.record.qdrant.collections if backup.record.qdrant else ():
            if taken.name == name and taken.snapshot_name:
                return EarlierCollection(backup, taken)
    return None


def unchanged(fields: Mapping[str, Any], now: tuple[int, ...], before_ns: int) -> bool:
    """Whether the source that an inventory line is of was not written to since.

    `fields`: the line; `now`: device, inode, size, mtime_ns and ctime_ns of the source. Nobody can set a ctime: it
    alone has to be older than the backup.
    """
    origin = fields.get("origin")
    if origin is None or now[4] >= before_ns:
        return False
    recorded = (origin["dev"], origin["ino"], origin["size"], origin["mtime_ns"], origin["ctime_ns"])
    return recorded == now


def same_sidecars(fields: Mapping[str, Any], now: Sidecars, *, logs: Sequence[str]) -> bool:
    """Whether the sidecars of a database are as its inventory line says, and none of its `logs` holds content."""
    recorded = (fields.get("origin") or {}).get("sidecars", {})
    if any(seen is not None and seen[1] for suffix, seen in now.items() if suffix in logs):
        return False
    return {s: seen and tuple(seen) for s, seen in recorded.items()} == dict(now)


def still_stored(fields: Mapping[str, Any], found: tuple[int, int, int]) -> bool:
    """`found`: inode, size and mtime_ns of the stored file: is it the one that was hashed?"""
    stored = fields.get("stored")
    return stored is not None and found == (stored[0], fields["size"], stored[1])
