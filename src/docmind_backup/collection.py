"""Bring one collection here: snapshot on the server, download, proof, and the server's copy deleted in every ending."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from threading import Lock

from docmind_backup import durable
from docmind_backup.core.model import (
    Advanced,
    CollectionRecord,
    CollectionState,
    DownloadStarted,
    FileEntry,
    Omission,
    OnEvent,
    Part,
    Reason,
    Stored,
)
from docmind_backup.core.planner import CollectionStep, folder_name
from docmind_backup.core.qdrant_rest import NotFoundError
from docmind_backup.core.returning import indexes
from docmind_backup.core.server import CollectionServer, Downloaded, ServerSnapshot
from docmind_backup.creating import Creation, Crowded, begin
from docmind_backup.errors import NoSpace, QdrantError, QdrantRefused
from docmind_backup.ledger import Fate, Ledger
from docmind_backup.sharing import Sharing

Taken = tuple[CollectionRecord, FileEntry]

ATTEMPTS = 3
"""Another client's snapshot of the same second takes the place of ours (seen on Qdrant 1.18): then we make another."""


class Room:
    """What the downloads under way have yet to write; for several threads."""

    def __init__(self) -> None:
        self._one = Lock()
        self._left: dict[str, int] = {}

    def claim(self, name: str, size: int, where: Path, min_free: int) -> None:
        """NoSpace when so many bytes do not fit beside what the others have yet to write."""
        with self._one:
            free = shutil.disk_usage(where).free
            claimed = sum(left for other, left in self._left.items() if other != name)
            if size + claimed + min_free > free:
                others = f", {claimed:,} of them for others under way" if claimed else ""
                raise NoSpace(
                    f"a collection snapshot of {size:,} bytes does not fit: "
                    f"{free:,} bytes free at {where.parent}{others}",
                    hint="free some space, `docmind-backup prune`, or choose another place with --dest",
                )
            self._left[name] = size

    def came(self, name: str, count: int) -> None:
        with self._one:
            self._left[name] = self._left.get(name, 0) - count

    def give(self, name: str) -> None:
        with self._one:
            self._left.pop(name, None)


@dataclass(frozen=True, slots=True)
class _Errand:
    """What bringing one collection needs."""

    server: CollectionServer
    step: CollectionStep
    staging: Path
    backup_id: str
    ledger: Ledger
    on_event: OnEvent
    min_free: int
    notes: list[str]
    sharing: Sharing
    late_wait_s: float
    turn: Callable[[], None]
    room: Room

    @property
    def name(self) -> str:
        return self.step.state.name


@dataclass(frozen=True, slots=True)
class _Brought:
    """What came of one snapshot."""

    snapshot: ServerSnapshot
    counts: tuple[int, int]
    state: CollectionState
    """After it was made."""
    target: Path
    got: Downloaded | None
    """None when it was gone before it could be fetched."""
    others: int
    """Snapshots of the collection that were there before."""
    ours: bool
    """False when the server did not answer, and this is the only one that appeared since."""
    fate: Fate | None

    @property
    def lost(self) -> bool:
        """In the end it was no longer there as the server had made it for us: another one may fare better."""
        return self.fate in (Fate.GONE, Fate.OUT_OF_REACH)

    @property
    def problem(self) -> str:
        """What arrived against what the server said it made; empty when they are the same."""
        said, got = self.snapshot, self.got
        if got is None:
            return f"somebody removed the snapshot {said.name} before it was fetched"
        if said.size != got.size:
            return f"{got.size:,} bytes arrived, the server said {said.size:,}"
        if said.checksum and said.checksum != got.sha256:
            return f"what arrived has sha256 {got.sha256[:12]}..., the server said {said.checksum[:12]}..."
        return ""


def capture_collection(
    server: CollectionServer,
    step: CollectionStep,
    staging: Path,
    *,
    backup_id: str,
    ledger: Ledger,
    on_event: OnEvent,
    min_free: int,
    notes: list[str],
    sharing: Sharing | None = None,
    late_wait_s: float = 0,
    turn: Callable[[], None] = lambda: None,
    room: Room | None = None,
) -> Taken | Omission:
    """The collection as a file below `staging`, or the omission that says why not.

    Exact counts are taken before and after: equal, the snapshot's count is exact; different, it is a range
    (a snapshot made while points are written lies between them). A snapshot whose creation was not answered is
    looked for `late_wait_s` seconds; `turn` returns when it is ours to have one made. Destination errors pass as
    OSError, a full disk known beforehand as NoSpace.
    """
    shared = sharing or Sharing()
    each = (notes, shared, late_wait_s, turn, room or Room())
    errand = _Errand(server, step, staging, backup_id, ledger, on_event, min_free, *each)
    taken = _capture(errand)
    if isinstance(taken, Omission):
        _remove_empty(staging / step.stored, staging)
    return taken


def _capture(errand: _Errand) -> Taken | Omission:
    name, problem, state, changed = errand.name, "", errand.step.state, False
    try:
        for _ in range(ATTEMPTS):
            brought = _bring(errand)
            changed = _described(state) != _described(brought.state)
            problem = "it was changed, or made anew, each time it was captured" if changed else brought.problem
            if brought.got and not problem:
                return _taken(errand, brought, brought.got)
            brought.target.unlink(missing_ok=True)
            if not (changed or brought.lost):
                break
            state = brought.state
        return Omission(Part.QDRANT, name, Reason.CHANGING if changed else Reason.MISMATCH, problem)
    except NotFoundError as error:
        return Omission(Part.QDRANT, name, Reason.MISSING, f"it was there when the run began; {error}")
    except QdrantError as error:
        return Omission(Part.QDRANT, name, _reason(error), _with_hint(error))


def _reason(error: QdrantError) -> Reason:
    match error:
        case QdrantRefused():
            return Reason.REFUSED
        case Crowded():
            return Reason.BUSY
        case _:
            return Reason.UNREACHABLE


def _described(state: CollectionState) -> tuple[object, ...]:
    """What a snapshot holds beside its points: another one means another collection, or a changed one."""
    return state.config, state.metadata, indexes(state)


def _remove_empty(folder: Path, staging: Path) -> None:
    """Nothing came into it: nothing of it is in the inventory either."""
    with suppress(OSError):
        while folder != staging:
            folder.rmdir()
            folder = folder.parent


def _bring(errand: _Errand) -> _Brought:
    """Count, make a snapshot, count again, fetch it, and delete it on the server, whatever happens."""
    server, name = errand.server, errand.name
    errand.turn()
    before = server.count(name)
    creation = begin(server, errand.ledger, name, errand.backup_id)
    try:
        snapshot = creation.snapshot(errand.late_wait_s, lambda: errand.on_event(Advanced(0, downloaded=True)))
        after = server.count(name)
        state = server.describe(name)
        errand.room.claim(name, snapshot.size, errand.staging, errand.min_free)
        target = errand.staging / errand.step.stored / _stored_name(snapshot)
        got = _download(errand, snapshot, target)
    finally:
        errand.room.give(name)
        fate = _end(errand, creation)
    planned = errand.step.state
    state = replace(state, role=planned.role, placement=planned.placement)
    return _Brought(snapshot, (before, after), state, target, got, creation.others, bool(creation.name), fate)


def _end(errand: _Errand, creation: Creation) -> Fate | None:
    """Our snapshot leaves the server; what cannot be done now is left to a later run."""
    try:
        fate = creation.end()
    except QdrantError as error:
        errand.notes.append(f"our snapshot {creation.name} is still on the server ({error}); the next run removes it")
        return None
    if fate is Fate.OUT_OF_REACH:
        errand.notes.append(
            f"collection {errand.name} is gone, and our snapshot {creation.name} still on the server, out of reach "
            "until a collection of that name is made again; the next run after that removes it"
        )
    return fate


def _stored_name(snapshot: ServerSnapshot) -> str:
    """The server's own name, which holds the collection's, where a file may be called that."""
    return snapshot.name if len(snapshot.name.encode()) <= 255 else f"{folder_name(snapshot.name)}.snapshot"


def _download(errand: _Errand, snapshot: ServerSnapshot, target: Path) -> Downloaded | None:
    durable.private_folders(target.parent, below=errand.staging)
    name = errand.name

    def came(count: int) -> None:
        errand.room.came(name, count)
        errand.on_event(Advanced(count, True, name))

    errand.on_event(DownloadStarted(name, snapshot.size))
    try:
        return errand.server.download(name, snapshot.name, target, came)
    except NotFoundError:
        return None


def _taken(errand: _Errand, brought: _Brought, got: Downloaded) -> Taken:
    step, snapshot = errand.step, brought.snapshot
    if not brought.ours:
        errand.notes.append(
            f"collection {errand.name}: the call that makes a snapshot was not answered; {snapshot.name} appeared "
            "afterwards and is in this backup. It may be another client's, so it was left on the server"
        )
    if brought.others:
        those = f"{brought.others:,} other snapshot{'s' * (brought.others > 1)}"
        errand.notes.append(f"collection {errand.name}: {those} on the server left alone (`docmind-backup leftovers`)")
    if not snapshot.checksum:
        errand.notes.append(f"collection {errand.name}: the server gave no checksum; its snapshot is as it arrived")
    stored = brought.target.stat()
    path = PurePosixPath(step.stored, brought.target.name).as_posix()
    record = CollectionRecord(
        name=errand.name,
        role=brought.state.role,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        points_min=min(brought.counts),
        points_max=max(brought.counts),
        path=path,
        size=got.size,
        sha256=got.sha256,
        snapshot_name=snapshot.name,
        server_checksum=snapshot.checksum,
        state=brought.state,
    )
    entry = FileEntry(
        path,
        size=got.size,
        sha256=got.sha256,
        mtime_ns=stored.st_mtime_ns,
        mode=0o600,
        uid=stored.st_uid,
        gid=stored.st_gid,
        stored=Stored(stored.st_ino, stored.st_mtime_ns),
    )
    return record, errand.sharing.exchange(step.earlier, entry, brought.target)


def _with_hint(error: QdrantError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


def embedded_record(state: CollectionState, store: FileEntry, points: int, now: datetime) -> CollectionRecord:
    """A collection of an embedded storage: its `storage.sqlite` as it was stored, its rows counted in the copy."""
    return CollectionRecord(
        name=state.name,
        role=state.role,
        taken_at=now.isoformat(timespec="seconds"),
        points_min=points,
        points_max=points,
        path=store.path,
        size=store.size,
        sha256=store.sha256,
        state=state,
    )
