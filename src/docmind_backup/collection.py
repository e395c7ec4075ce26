"""Bring one collection here: snapshot on the server, download, proof, and the server's copy deleted in every ending."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from docmind_backup import durable
from docmind_backup.core.model import (
    Advanced,
    CollectionRecord,
    CollectionState,
    FileEntry,
    Omission,
    OnEvent,
    Part,
    Reason,
    Stored,
)
from docmind_backup.core.planner import CollectionStep
from docmind_backup.core.qdrant_rest import NotFoundError
from docmind_backup.core.server import CollectionServer, Downloaded, ServerSnapshot
from docmind_backup.errors import NoSpace, QdrantError, QdrantRefused, QdrantUnreachable
from docmind_backup.ledger import Begun, Ledger, delete_ours

Taken = tuple[CollectionRecord, FileEntry]


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
) -> Taken | Omission:
    """The collection as a file below `staging`, or the omission that says why not.

    Exact counts are taken before and after: equal, the snapshot's count is exact; different, it is a range
    (a snapshot made while points are written lies between them). Destination errors pass as OSError, a full
    disk known beforehand as NoSpace.
    """
    name = step.state.name
    try:
        before = server.count(name)
        begun = _begin(server, name, backup_id, ledger)
        try:
            snapshot = _create(server, begun, ledger)
            begun = begun.answered(snapshot)
            ledger.write(begun)
            after = server.count(name)
            target = staging / step.stored / snapshot.name
            _check_space(staging, snapshot.size, min_free)
            got = _download(server, step, snapshot, staging, target, on_event)
        finally:
            _end(server, begun, ledger, notes)
    except NotFoundError as error:
        return Omission(Part.QDRANT, name, Reason.MISSING, f"it was there when the run began; {error}")
    except QdrantError as error:
        reason = Reason.REFUSED if isinstance(error, QdrantRefused) else Reason.UNREACHABLE
        return Omission(Part.QDRANT, name, reason, _with_hint(error))
    problem = _mismatch(snapshot, got)
    if problem:
        target.unlink()
        return Omission(Part.QDRANT, name, Reason.MISMATCH, problem)
    if not snapshot.checksum:
        notes.append(f"collection {name}: the server gave no checksum; its snapshot is as it arrived")
    return _taken(step, snapshot, got, (before, after), target)


def _begin(server: CollectionServer, name: str, backup_id: str, ledger: Ledger) -> Begun:
    """Write down what is there and that a snapshot is about to be made."""
    there = server.snapshots(name)
    listed = tuple((s.name, s.checksum) for s in there)
    begun = Begun(backup_id, server.url, name, _free_second(server, there).isoformat(), listed)
    ledger.write(begun)
    return begun


def _free_second(server: CollectionServer, there: Iterable[ServerSnapshot]) -> datetime:
    """Server time, once no snapshot `there` has it in its name: ours, named by the second, would replace that one."""
    patience = 20  # tenths of a second: a clock that stands still is not waited for
    now = server.now()
    while patience and any(s.name.endswith(f"{now:-%Y-%m-%d-%H-%M-%S}.snapshot") for s in there):
        time.sleep(0.1)
        patience, now = patience - 1, server.now()
    return now


def _create(server: CollectionServer, begun: Begun, ledger: Ledger) -> ServerSnapshot:
    """A refusal is an answer: nothing was begun. Silence is not: the server may finish all the same."""
    try:
        return server.create_snapshot(begun.collection)
    except QdrantUnreachable:
        raise
    except QdrantError:
        ledger.forget(begun)
        raise


def _end(server: CollectionServer, begun: Begun, ledger: Ledger, notes: list[str]) -> None:
    """Our snapshot leaves the server, whatever happened; what cannot be done now is left to the next run."""
    if not begun.name:
        return
    try:
        delete_ours(server, begun)
        ledger.forget(begun)
    except QdrantError as error:
        notes.append(f"our snapshot {begun.name} is still on the server ({error}); the next run removes it")


def _check_space(staging: Path, size: int, min_free: int) -> None:
    free = shutil.disk_usage(staging).free
    if size + min_free > free:
        raise NoSpace(
            f"a collection snapshot of {size:,} bytes does not fit: {free:,} bytes free at {staging.parent}",
            hint="free some space, `docmind-backup prune`, or choose another place with --dest",
        )


def _download(
    server: CollectionServer,
    step: CollectionStep,
    snapshot: ServerSnapshot,
    staging: Path,
    target: Path,
    on_event: OnEvent,
) -> Downloaded:
    durable.private_folders(target.parent, below=staging)
    return server.download(
        step.state.name, snapshot.name, target, lambda count: on_event(Advanced(count, downloaded=True))
    )


def _mismatch(snapshot: ServerSnapshot, got: Downloaded) -> str:
    """What arrived against what the server said it made."""
    if snapshot.size != got.size:
        return f"{got.size:,} bytes arrived, the server said {snapshot.size:,}"
    if snapshot.checksum and snapshot.checksum != got.sha256:
        return f"what arrived has sha256 {got.sha256[:12]}..., the server said {snapshot.checksum[:12]}..."
    return ""


def _taken(
    step: CollectionStep, snapshot: ServerSnapshot, got: Downloaded, counts: tuple[int, int], target: Path
) -> Taken:
    stored = target.stat()
    path = PurePosixPath(step.stored, snapshot.name).as_posix()
    record = CollectionRecord(
        name=step.state.name,
        role=step.state.role,
        taken_at=datetime.now(UTC).isoformat(timespec="seconds"),
        points_min=min(counts),
        points_max=max(counts),
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
    return record, entry


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
