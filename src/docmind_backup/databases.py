"""Capture SQLite and DuckDB files as their engines would see them. The source is never opened for writing."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from docmind_backup import readlock
from docmind_backup.copying import Changed, Copied, SourceError, Version, reading, thrice, version, version_at
from docmind_backup.core.model import Part, Reason, Source
from docmind_backup.queries import stoppable
from docmind_backup.readlock import POLL_S, Patience, ReadLock
from docmind_backup.staging import Captured, Staging, beside, copy_together, discard, omission, printable, versions

WAL, SHM, JOURNAL = "-wal", "-shm", "-journal"
SQLITE_SIDECARS = (WAL, JOURNAL)
"""What belongs to the content; `-shm` is a lock table."""
LEFTOVERS = (WAL, SHM, JOURNAL)
DUCKDB_SIDECARS = (".wal", ".wal.checkpoint", ".wal.recovery")
"""The last two since DuckDB 1.5: what was committed during a checkpoint (duckdb#20601)."""
STEP = 4 * 1024 * 1024
"""Bytes of a step of an online backup."""


Versions = dict[str, Version | None]
"""Suffix (`` is the file itself) to what was there."""


class Damaged(SourceError):
    """The engine does not take it for a sound database."""

    def __init__(self, words: str) -> None:
        super().__init__(Reason.DAMAGED, f"kept as it is: {words}")


# -- SQLite --------------------------------------------------------------------------------------


def capture_sqlite(source: Source, staging: Staging) -> Captured:
    """One file without sidecars, checked by the engine; a damaged one as it is. Raises SourceError."""
    if staging.reuse(source, SQLITE_SIDECARS, logs=(WAL,)):
        return Captured()
    target = staging.place(source.stored)
    stored = str(source.stored)
    try:
        copied, before, note = thrice(lambda: _sqlite_copy(source.path, target, staging))
    except Damaged as damage:
        discard(target, LEFTOVERS)
        _emit_raw(stored, *thrice(lambda: _sqlite_raw(source.path, target, staging)), staging)
        return Captured((omission(source, damage),))
    except SourceError:
        discard(target, LEFTOVERS)
        raise
    staging.add(copied.entry(stored, _sidecars(before)))
    return Captured(notes=(printable(f"{source.name}: {note}"),) if note else ())


def _sqlite_raw(path: Path, target: Path, staging: Staging) -> tuple[dict[str, Copied], Versions]:
    before = _all_there(path, SQLITE_SIDECARS)
    return copy_together(staging.copier, path, target, before, tuple(before)), before


def _sqlite_copy(path: Path, target: Path, staging: Staging) -> tuple[Copied, Versions, str]:
    """The copy, what its source was before, and why it could not be checked (else empty)."""
    discard(target, LEFTOVERS)
    copied = None
    with ReadLock(path, readlock.SQLITE, staging.patience) as lock:
        look = _look(lock, path)
        before = look.before
        match look.way():
            case "still":  # unlocked: an application that closes meanwhile may delete its WAL; then again
                lock.release()
                copied = copy_together(staging.copier, path, target, before, ("",))[""]
            case "online":
                before = _online_or_recovered(path, target, look, staging)
            case suffix:
                _recover(path, target, before, suffix, staging)
    note = _check(target, staging)
    return copied or staging.copier.finish(target, look.found), before, note


@dataclass(frozen=True, slots=True)
class _Look:
    """A SQLite file and what lies beside it, seen under the lock."""

    found: os.stat_result
    before: Versions
    header: bytes
    shm: bool

    def way(self) -> str:
        """How to copy it: `still` (as a file), `online` (by the engine), or the sidecar to recover from."""
        wal, journal = self.before[WAL], self.before[JOURNAL]
        if not self.found.st_size or not self.header.startswith(b"SQLite format 3\0"):
            return "still"
        if wal and wal[1]:  # the engine reads a WAL that is there, whatever the header says
            return "online" if self.shm else WAL
        if wal is None and self.header[19:20] != b"\2":
            return "online"
        return JOURNAL if journal and journal[1] else "still"


def _look(lock: ReadLock, path: Path) -> _Look:
    found, before = lock.found(), versions(path, SQLITE_SIDECARS)
    if before[""] != version(found):
        raise Changed
    with reading():
        header = os.pread(lock.fd, 20, 0)
    return _Look(found, before, header, version_at(beside(path, SHM)) is not None)


def _online_or_recovered(path: Path, target: Path, look: _Look, staging: Staging) -> Versions:
    try:
        _online(path, target, staging)
        if (now := version_at(path)) is None or now[0] != look.found.st_ino:  # the engine opened it by its name
            raise Changed
    except sqlite3.Error as error:
        suffix = _recoverable(error, look)
        if not suffix:
            raise _translated(error, target, staging) from error
        discard(target, LEFTOVERS)
        before = _all_there(path, SQLITE_SIDECARS)  # as root, SQLite chowns sidecars it opens: a new ctime
        _recover(path, target, before, suffix, staging)
        return before
    return look.before


def _recoverable(error: sqlite3.Error, look: _Look) -> str:
    """The sidecar to recover from, when the engine may not do it in a source that it only reads."""
    if _code(error) == sqlite3.SQLITE_READONLY_ROLLBACK:
        return JOURNAL
    refused = _primary(error) in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
    return WAL if refused and look.before[WAL] else ""


def _online(path: Path, target: Path, staging: Staging) -> None:
    """Copy by the engine's online backup, in one read transaction."""
    with closing(_connect(path, "mode=ro")) as source:
        page_size = _begin(source, staging)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with closing(_connect(target, "mode=rw")) as copy:
            copy.execute("PRAGMA journal_mode=OFF")
            copy.execute("PRAGMA synchronous=OFF")
            tell = _progress(page_size, staging)
            source.backup(copy, pages=max(1, STEP // page_size), progress=tell, sleep=POLL_S)


def _begin(source: sqlite3.Connection, staging: Staging) -> int:
    """Start the read transaction; the page size."""
    for _ in staging.patience.tries():
        try:
            source.execute("BEGIN")
            source.execute("SELECT 1 FROM sqlite_master").fetchone()
            return int(source.execute("PRAGMA page_size").fetchone()[0])
        except sqlite3.OperationalError as error:
            if _primary(error) != sqlite3.SQLITE_BUSY:
                raise
            source.rollback()
    raise staging.patience.over()


def _progress(page_size: int, staging: Staging) -> Callable[[int, int, int], None]:
    """Called after each step. Connection.backup itself would wait for a lock for ever."""
    copied, moved_at = 0, time.monotonic()

    def tell(status: int, remaining: int, total: int) -> None:
        nonlocal copied, moved_at
        if status not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            moved_at = time.monotonic()
        elif time.monotonic() > moved_at + staging.patience.seconds:
            raise staging.patience.over()
        staging.copier.on_bytes(max(0, total - remaining - copied) * page_size)
        copied = max(copied, total - remaining)

    return tell


def _recover(path: Path, target: Path, before: Versions, suffix: str, staging: Staging) -> None:
    """Copy the file and its `-journal` or `-wal`, and let the engine bring the copy in order."""
    copy_together(staging.copier, path, target, before, ("", suffix))
    if suffix == JOURNAL and _names_super_journal(beside(target, suffix)):
        raise Damaged("a transaction over several databases was cut off; only their application can undo it")
    for each in (target, beside(target, suffix)):
        each.chmod(0o600)
    try:
        with closing(_connect(target, "mode=rw")) as copy:
            copy.execute("PRAGMA synchronous=OFF")
            copy.execute("SELECT 1 FROM sqlite_master").fetchone()
            if copy.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise Damaged("its -wal could not be recovered")
    except sqlite3.Error as error:
        raise _translated(error, target, staging, staged=True) from error
    for left in LEFTOVERS:
        beside(target, left).unlink(missing_ok=True)


def _names_super_journal(journal: Path) -> bool:
    """Rolling such a copy back could delete a file beside the source (fileformat2.html, 3)."""
    with journal.open("rb") as file:
        file.seek(max(0, journal.stat().st_size - 8))
        return file.read() == bytes.fromhex("d9d505f920a163d7")


def _check(target: Path, staging: Staging) -> str:
    """Why the engine cannot tell whether the copy is sound, else empty; raises Damaged when it is not."""
    try:
        with (
            closing(_connect(target, "mode=ro&immutable=1")) as copy,
            stoppable(copy, lambda: staging.copier.on_bytes(0)),
        ):
            rows = copy.execute("PRAGMA integrity_check(3)").fetchall()
    except sqlite3.Error as error:
        if _primary(error) == sqlite3.SQLITE_ERROR:  # a collation or function of the application
            return f"copied, but SQLite cannot check it: {error}"
        raise _translated(error, target, staging, staged=True) from error
    if rows != [("ok",)]:
        raise Damaged("SQLite finds " + "; ".join(str(row[0]) for row in rows))
    return ""


def count_rows(path: Path, table: str) -> int:
    """Rows of `table` in a database that may be in use, 0 when there is no such table. Raises SourceError.

    Changes nothing and waits for nothing: of a locked one, what its main file holds.
    """
    try:
        with ReadLock(path, readlock.SQLITE, Patience(0, lambda _: None)) as lock:
            if _look(lock, path).way() == "online":
                return _count(path, table, "mode=ro")
    except (sqlite3.Error, Changed):
        pass
    except SourceError as miss:
        if miss.reason is not Reason.BUSY:
            raise
    return count_still_rows(path, table)


def count_still_rows(path: Path, table: str) -> int:
    """As `count_rows`, of a file that nobody writes."""
    try:
        return _count(path, table, "mode=ro&immutable=1")
    except sqlite3.Error as error:
        if _primary(error) == sqlite3.SQLITE_ERROR:
            return 0
        raise SourceError(Reason.DAMAGED, str(error)) from error


def _count(path: Path, table: str, how: str) -> int:
    with closing(_connect(path, how)) as connection:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])  # noqa: S608


def _connect(path: Path, how: str) -> sqlite3.Connection:
    """By URI, so that `?`, `#` and `%` in a name, and bytes that are not UTF-8, mean themselves."""
    uri = f"file:{quote(os.fsencode(path))}?{how}"
    return sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)


# -- SQLite's errors -----------------------------------------------------------------------------

_NOT_WRITTEN = {
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
    sqlite3.SQLITE_IOERR_DELETE,
    sqlite3.SQLITE_IOERR_CLOSE,
}


def _code(error: sqlite3.Error) -> int:
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR))


def _primary(error: sqlite3.Error) -> int:
    return _code(error) & 0xFF


def _translated(error: sqlite3.Error, target: Path, staging: Staging, *, staged: bool = False) -> Exception:
    """SourceError, or the destination's OSError. `staged`: it came from the copy, not from the source."""
    match _primary(error):
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return Damaged(f"SQLite says {error}")
        case sqlite3.SQLITE_FULL:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        case _ if staged or _code(error) in _NOT_WRITTEN:
            return _why_not_written(target, str(error))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return staging.patience.over()
    return SourceError(Reason.UNREADABLE, str(error))


def _why_not_written(target: Path, words: str) -> OSError:
    """SQLite hides the errno (a quota, a limit): write something and see."""
    probe = beside(target, ".probe")
    try:
        probe.write_bytes(bytes(STEP))
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return OSError(errno.EIO, words, str(target))


# -- DuckDB --------------------------------------------------------------------------------------


def capture_duckdb(source: Source, staging: Staging) -> Captured:
    """The file and its `.wal` as they were at one moment, no writer having it open. Raises SourceError."""
    if staging.reuse(source, DUCKDB_SIDECARS, logs=DUCKDB_SIDECARS):
        return Captured()
    target = staging.place(source.stored)
    try:
        copies, before, sound = thrice(lambda: _duckdb_copy(source.path, target, staging))
    except SourceError as miss:
        if miss.reason is not Reason.BUSY or source.part is not Part.CACHE:
            raise
        cold = SourceError(Reason.BUSY, f"recoverable, cold cache: {miss.detail}")
        return Captured((omission(source, cold, rebuildable=True),))
    _emit_raw(str(source.stored), copies, before, staging)
    if sound:
        return Captured()
    return Captured((omission(source, Damaged("it is not a DuckDB database")),))


def _duckdb_copy(path: Path, target: Path, staging: Staging) -> tuple[dict[str, Copied], Versions, bool]:
    with ReadLock(path, readlock.DUCKDB, staging.patience) as lock:
        before = _all_there(path, DUCKDB_SIDECARS)
        if before[""] != version(lock.found()):
            raise Changed
        copies = copy_together(staging.copier, path, target, before, tuple(before))
        with reading():
            return copies, before, os.pread(lock.fd, 4, 8) == b"DUCK"


# -- both ----------------------------------------------------------------------------------------


def _all_there(path: Path, suffixes: Sequence[str]) -> Versions:
    before = versions(path, suffixes)
    if before[""] is None:
        raise SourceError(Reason.GONE, os.strerror(errno.ENOENT))
    return before


def _emit_raw(stored: str, copies: dict[str, Copied], before: Versions, staging: Staging) -> None:
    for suffix, copied in copies.items():
        staging.add(copied.entry(stored + suffix, {} if suffix else _sidecars(before)))


def _sidecars(before: Versions) -> Versions:
    return {suffix: seen for suffix, seen in before.items() if suffix}
