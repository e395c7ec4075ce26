"""Capture and describe the folder of a `QdrantClient(path=...)`. Nothing is ever unpickled."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from docmind_backup.copying import ATTEMPTS, Replaced, SourceError, open_source, reading, version_at
from docmind_backup.core.format import read_entry
from docmind_backup.core.model import CollectionState, DirEntry, Entry, FileEntry, Kind, Omission, Reason, Source
from docmind_backup.core.sharing import Held
from docmind_backup.databases import capture_sqlite, count_rows, count_still_rows
from docmind_backup.staging import Captured, Staging, omission, printable

META, LOCK, COLLECTIONS = "meta.json", ".lock", "collection"
STORE, OLD_STORE = "storage.sqlite", "storage.dbm"
META_LIMIT = 64 * 1024 * 1024
"""Bytes of a meta.json read at most."""


def describe(path: Path) -> tuple[CollectionState, ...]:
    """The collections in meta.json, by name, with the rows in their stores; nothing is changed.

    Empty when there is no such folder; ValueError when its meta.json cannot be used.
    """
    if not path.is_dir():
        return ()
    try:
        meta = _parsed(_read(path / META))
    except SourceError as miss:
        raise ValueError(f"{printable(str(path / META))}: {miss.detail}") from miss
    return tuple(_state(path, name, meta) for name in sorted(meta["collections"]))


def _state(path: Path, name: str, meta: Mapping[str, Any]) -> CollectionState:
    config = meta["collections"][name]
    return CollectionState(
        name=name,
        role="",
        points=_rows(path, name),
        vectors=config.get("vectors") or {},
        sparse_vectors=config.get("sparse_vectors") or {},
        metadata=config.get("metadata") or {},
        aliases=tuple(sorted(alias for alias, of in meta["aliases"].items() if of == name)),
        config=config,
    )


def _rows(path: Path, name: str) -> int:
    """0 for a store that is gone or broken: capturing it says so."""
    if "/" in name or "\0" in name or name in ("", ".", ".."):
        return 0
    with suppress(SourceError):
        return count_rows(path / COLLECTIONS / name / STORE, "points")
    return 0


def _read(path: Path) -> bytes:
    fd = open_source(path)
    with reading(), os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Replaced
        return file.read(META_LIMIT)


def _parsed(content: bytes) -> dict[str, Any]:
    """`collections` (name to config) and `aliases`; SourceError(DAMAGED) when it is anything else."""
    try:
        meta = json.loads(content)
        collections, aliases = meta["collections"], meta.get("aliases") or {}
        if all(isinstance(config, dict) for config in collections.values()):
            return {"collections": collections, "aliases": dict(aliases)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise SourceError(Reason.DAMAGED, "it is not the description of an embedded Qdrant storage")


# -- capture -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """What one pass over the folder brought; told only when it is the last one."""

    source: Source
    staging: Staging
    entries: list[Entry] = field(default_factory=list[Entry])
    omissions: list[Omission] = field(default_factory=list[Omission])
    notes: list[str] = field(default_factory=list[str])
    points: dict[str, int] = field(default_factory=dict[str, int])
    torn: bool = False
    """meta.json changed meanwhile."""

    def inner(self) -> Staging:
        """Where what is captured is told to this attempt."""
        return replace(self.staging, emit=self.entries.append, keep=self._keep)

    def _keep(self, files: Sequence[Held]) -> None:
        for held in files:
            entry = read_entry(held.line)
            assert isinstance(entry, FileEntry)
            self.entries.append(replace(entry, shared=True))

    def miss(self, below: str, reason: Reason, detail: str) -> None:
        self.omissions.append(omission(self.source, SourceError(reason, detail), below))


def capture_embedded(source: Source, staging: Staging) -> Captured:
    """meta.json and each collection's store, as SQLite gives it; `.lock` is not stored. Raises SourceError."""
    try:
        with _application_closed(source.path) as closed:
            attempt, turns = _capture_all(source, staging), 1
            while attempt.torn and turns < ATTEMPTS:
                attempt, turns = _capture_all(source, staging), turns + 1
    except SourceError:
        _clear(staging, source)
        raise
    if attempt.torn:
        attempt.miss(META, Reason.CHANGING, f"collections came or went each of the {ATTEMPTS} times")
    for entry in attempt.entries:
        staging.emit(entry)
    if not closed:
        note = "the embedded storage was open: its collections were captured one after the other"
        attempt.notes.insert(0, printable(f"{source.name}: {note}"))
    return Captured(tuple(attempt.omissions), tuple(attempt.notes), attempt.points)


@contextmanager
def _application_closed(path: Path) -> Iterator[bool]:
    """False while a client has the storage open; else none can open it meanwhile."""
    try:
        fd = open_source(path / LOCK)
    except SourceError:  # a storage that never was opened, or a copy of one
        yield True
        return
    closed = False
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            closed = True
        yield closed
    finally:
        os.close(fd)


def _capture_all(source: Source, staging: Staging) -> _Attempt:
    attempt = _Attempt(source, staging)
    _clear(staging, source)
    _folder(attempt, "")
    names, digest = _meta(attempt)
    stores = _folders(source.path / COLLECTIONS)
    if stores is not None:
        _folder(attempt, COLLECTIONS)
    for name in stores or ():
        _collection(attempt, name, known=names is None or name in names)
    for name in sorted((names or set()) - set(stores or ())):
        attempt.miss(f"{COLLECTIONS}/{name}", Reason.DAMAGED, "meta.json names it, and it has no folder")
    attempt.torn = digest != _digest(source.path / META)
    return attempt


def _clear(staging: Staging, source: Source) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(staging.root / source.stored)


def _folder(attempt: _Attempt, below: str) -> None:
    with reading():
        found = (attempt.source.path / below).lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise SourceError(Reason.GONE, "it is not a folder")
    stored = attempt.source.stored / below
    attempt.staging.place(stored).mkdir(mode=0o700)
    mode = stat.S_IMODE(found.st_mode)
    attempt.entries.append(DirEntry(str(stored), found.st_mtime_ns, mode, found.st_uid, found.st_gid))


def _meta(attempt: _Attempt) -> tuple[set[str] | None, str]:
    """Store meta.json; the collections it names (None: unusable), and its digest."""
    stored = attempt.source.stored / META
    target = attempt.staging.place(stored)
    try:
        copied = attempt.staging.copier.copy(None, attempt.source.path / META, None, target)
    except SourceError as miss:
        reason = Reason.DAMAGED if miss.reason is Reason.GONE else miss.reason
        attempt.miss(META, reason, miss.detail)
        return None, ""
    attempt.inner().add(copied.entry(str(stored)))
    try:
        return set(_parsed(target.read_bytes())["collections"]), copied.sha256
    except SourceError as miss:
        attempt.miss(META, miss.reason, f"kept as it is; {miss.detail}")
        return None, copied.sha256


def _digest(path: Path) -> str:
    with suppress(SourceError):
        return hashlib.sha256(_read(path)).hexdigest()
    return ""


def _folders(path: Path) -> list[str] | None:
    """Names of the real folders in it, sorted; None when it is not there."""
    try:
        with reading(), os.scandir(path) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except SourceError as miss:
        if miss.reason is Reason.GONE:
            return None
        raise


def _collection(attempt: _Attempt, name: str, *, known: bool) -> None:
    """`known`: meta.json names it; its points count, and it has to have a store."""
    below = f"{COLLECTIONS}/{name}"
    try:
        _folder(attempt, below)
        if _store(attempt, name, known=known) or _old_store(attempt, below) or not known:
            return
        attempt.miss(below, Reason.DAMAGED, "meta.json names it, and its storage.sqlite is missing")
    except SourceError as miss:
        attempt.miss(below, miss.reason, miss.detail)


def _store(attempt: _Attempt, name: str, *, known: bool) -> bool:
    """False when there is none."""
    source, below = attempt.source, f"{COLLECTIONS}/{name}/{STORE}"
    if version_at(source.path / below) is None:
        return False
    path, stored = source.path / below, source.stored / below
    store = Source(source.part, Kind.SQLITE, f"{source.name}/{below}", path, stored)
    captured = capture_sqlite(store, attempt.inner())
    attempt.omissions.extend(captured.omissions)
    attempt.notes.extend(captured.notes)
    if known and not captured.omissions:
        attempt.points[name] = count_still_rows(attempt.staging.root / stored, "points")
    return True


def _old_store(attempt: _Attempt, below: str) -> bool:
    """Keep the files of a dbm store as they are; False when there is none. A dbm names them as it likes."""
    folder = attempt.source.path / below
    with reading():
        names = sorted(name for name in os.listdir(folder) if name.startswith(OLD_STORE))
    for name in names:
        stored = attempt.source.stored / below / name
        copied = attempt.staging.copier.copy(None, folder / name, None, attempt.staging.place(stored))
        attempt.inner().add(copied.entry(str(stored)))
    if names:
        attempt.miss(below, Reason.DAMAGED, "kept as it is; storage written by qdrant-client before 1.1.7")
    return bool(names)
