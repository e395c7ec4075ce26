"""Bring one collection here: snapshot on the server, download, proof, and the server's copy deleted in every ending."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

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
from docmind_backup.core.server import CollectionServer, Downloaded, ServerSnapshot
from docmind_backup.errors import NoSpace, QdrantError, QdrantRefused, QdrantUnreachable
from docmind_backup.ledger import Begun, Ledger, delete_ours
from docmind_backup.sharing import Sharing

Taken = tuple[CollectionRecord, FileEntry]

ATTEMPTS = 3
"""Another client's snapshot of the same second takes the place of ours (seen on Qdrant 1.18): then we make another."""


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

    @property
    def name(self) -> str:
        return self.step.state.name


@dataclass(frozen=True, slots=True)
class _Brought:
    """What came of one snapshot."""

    snapshot: ServerSnapshot
    counts: tuple[int, int]
    target: Path
    got: Downloaded | None
    """None when it was gone before it could be fetched."""
    replaced: bool
    """In the end it was no longer there as the server had made it for us."""

    @property
    def problem(self) -> str:
        """What arrived against what the server said it made; empty when they are the same."""
        said, got = self.snapshot, self.got
        if got is None:
            return f"somebody removed our snapshot {said.name} before it was fetched"
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
) -> Taken | Omission:
    """The collection as a file below `staging`, or the omission that says why not.

    Exact counts are taken before and after: equal, the snapshot's count is exact; different, it is a range
    (a snapshot made while points are written lies between them). Destination errors pass as OSError, a full
    disk known beforehand as NoSpace.
    """
    errand = _Errand(server, step, staging, backup_id, ledger, on_event, min_free, notes, sharing or Sharing())
    taken = _capture(errand)
    if isinstance(taken, Omission):
        _remove_empty(staging / step.stored, staging)
    return taken


def _capture(errand: _Errand) -> Taken | Omission:
    name, problem = errand.name, ""
    try:
        for _ in range(ATTEMPTS):
            brought = _bring(errand)
            problem = brought.problem
            if brought.got and not problem:
                return _taken(errand, brought, brought.got)
            brought.target.unlink(missing_ok=True)
            if not brought.replaced:
                break
        return Omission(Part.QDRANT, name, Reason.MISMATCH, problem)
    except NotFoundError as error:
        return Omission(Part.QDRANT, name, Reason.MISSING, f"it was there when the run began; {error}")
    except QdrantError as error:
        reason = Reason.REFUSED if isinstance(error, QdrantRefused) else Reason.UNREACHABLE
        return Omission(Part.QDRANT, name, reason, _with_hint(error))


def _remove_empty(folder: Path, staging: Path) -> None:
    """Nothing came into it: nothing of it is in the inventory either."""
    with suppress(OSError):
        while folder != staging:
            folder.rmdir()
            folder = folder.parent


def _bring(errand: _Errand) -> _Brought:
    """Count, make a snapshot, count again, fetch it, and delete it on the server, whatever happens."""
    server, name = errand.server, errand.name
    before = server.count(name)
    begun = _begin(errand)
    try:
        snapshot = _create(errand, begun)
        begun = begun.answered(snapshot)
        errand.ledger.write(begun)
        after = server.count(name)
        _check_space(errand, snapshot)
        target = errand.staging / errand.step.stored / _stored_name(snapshot)
        got = _download(errand, snapshot, target)
    finally:
        replaced = _end(errand, begun)
    return _Brought(snapshot, (before, after), target, got, replaced)


def _begin(errand: _Errand) -> Begun:
    """Write down what is there and that a snapshot is about to be made."""
    server = errand.server
    there = server.snapshots(errand.name)
    listed = tuple((s.name, s.checksum) for s in there)
    asked_at = _free_second(server, there).isoformat()
    begun = Begun(errand.backup_id, server.url, errand.name, asked_at, listed)
    errand.ledger.write(begun)
    return begun


def _free_second(server: CollectionServer, there: Iterable[ServerSnapshot]) -> datetime:
    """Server time, once no snapshot `there` has it in its name: ours, named by the second, would replace that one."""
    patience = 20  # tenths of a second: a clock that stands still is not waited for
    now = server.now()
    while patience and any(s.name.endswith(f"{now:-%Y-%m-%d-%H-%M-%S}.snapshot") for s in there):
        time.sleep(0.1)
        patience, now = patience - 1, server.now()
    return now


def _create(errand: _Errand, begun: Begun) -> ServerSnapshot:
    """A refusal is an answer: nothing was begun. Silence is not: the server may finish all the same."""
    try:
        return errand.server.create_snapshot(begun.collection)
    except QdrantUnreachable:
        raise
    except QdrantError:
        errand.ledger.forget(begun)
        raise


def _end(errand: _Errand, begun: Begun) -> bool:
    """Our snapshot leaves the server; what cannot be done now is left to the next run. Whether it was gone already."""
    if not begun.name:
        return False
    try:
        deleted = delete_ours(errand.server, begun)
        errand.ledger.forget(begun)
    except QdrantError as error:
        errand.notes.append(f"our snapshot {begun.name} is still on the server ({error}); the next run removes it")
        return False
    return not deleted


def _check_space(errand: _Errand, snapshot: ServerSnapshot) -> None:
    free = shutil.disk_usage(errand.staging).free
    if snapshot.size + errand.min_free > free:
        raise NoSpace(
            f"a collection snapshot of {snapshot.size:,} bytes does not fit: "
            f"{free:,} bytes free at {errand.staging.parent}",
            hint="free some space, `docmind-backup prune`, or choose another place with --dest",
        )


def _stored_name(snapshot: ServerSnapshot) -> str:
    """The server's own name, which holds the collection's, where a file may be called that."""
    return snapshot.name if len(snapshot.name.encode()) <= 255 else f"{folder_name(snapshot.name)}.snapshot"


def _download(errand: _Errand, snapshot: ServerSnapshot, target: Path) -> Downloaded | None:
    durable.private_folders(target.parent, below=errand.staging)
    name, tell = errand.name, errand.on_event
    tell(DownloadStarted(name, snapshot.size))
    try:
        return errand.server.download(name, snapshot.name, target, lambda count: tell(Advanced(count, True, name)))
    except NotFoundError:
        return None


def _taken(errand: _Errand, brought: _Brought, got: Downloaded) -> Taken:
    step, snapshot = errand.step, brought.snapshot
    if not snapshot.checksum:
        errand.notes.append(f"collection {errand.name}: the server gave no checksum; its snapshot is as it arrived")
    stored = brought.target.stat()
    path = PurePosixPath(step.stored, brought.target.name).as_posix()
    record = CollectionRecord(
        name=errand.name,
        role=step.state.role,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        points_min=min(brought.counts),
        points_max=max(brought.counts),
        path=path,
        size=got.size,
        sha256=got.sha256,
        snapshot_name=snapshot.name,
        server_checksum=snapshot.checksum,
        state=step.state,
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
