"""Hold what was restored against the backup, where it lies now: kind, mode, time and content. Writes nothing."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from docmind_backup import deep
from docmind_backup.bringing import RUN_FILES, Damage, entries
from docmind_backup.copying import BUFFER, Copier
from docmind_backup.core import docmind
from docmind_backup.core.journal import Checked, Journal, Piece
from docmind_backup.core.model import (
    Advanced,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    OnEvent,
    Part,
    Reason,
    Record,
    RunStarted,
)
from docmind_backup.crew import LIGHT, Crew, Teller
from docmind_backup.errors import DamageFound, NoSpace, Stopped
from docmind_backup.queries import stoppable
from docmind_backup.reach import near
from docmind_backup.scratch import NoScratch

BULK = (Part.UPLOADS, Part.ARTIFACTS, Part.LOGS)
"""What may be large: of it only the metadata is looked at when it is not to be read again."""
TEXT_LIMIT = 64 * 1024 * 1024


def check_files(journal: Journal, pieces: Iterable[Piece], on_event: OnEvent) -> tuple[Damage, ...]:
    """What of `pieces` does not lie in its place as the inventory has it.

    Contents of uploads, artifacts and logs were hashed on their way; they are read again unless that was not wanted.
    """
    chosen = tuple(pieces)
    inventory = Path(journal.listed_in)
    teller = Teller(on_event)
    teller(RunStarted(sum(piece.bytes for piece in chosen), 0, 0))
    left_out = frozenset(journal.left_out)
    try:
        with Crew() as crew:
            return tuple(
                damage
                for piece in chosen
                for damage in _check(inventory, piece, left_out, _limit(piece, journal), crew, teller)
            )
    except Stopped:
        assert teller.failure
        raise teller.failure from None


def count(journal: Journal, pieces: Iterable[Piece]) -> tuple[int, int]:
    """Files and bytes of `pieces`, without what was left out; its bytes only while the inventory can be read."""
    chosen, left_out = tuple(pieces), frozenset(journal.left_out)
    files, size = sum(piece.files for piece in chosen), sum(piece.bytes for piece in chosen)
    if not left_out:
        return files, size
    files -= sum(path.startswith(tuple(f"{piece.stored}/" for piece in chosen)) for path in left_out)
    with suppress(DamageFound):
        for piece in chosen:
            found = (entry for _, entry in entries(Path(journal.listed_in), piece) if entry.path in left_out)
            size -= sum(entry.size for entry in found if isinstance(entry, FileEntry))
    return files, size


def _limit(piece: Piece, journal: Journal) -> float:
    """Bytes from which a file is not read again (`--no-read-back`)."""
    return 0 if piece.part in BULK and not journal.read_back else math.inf


def _check(
    inventory: Path, piece: Piece, left_out: frozenset[str], limit: float, crew: Crew, teller: Teller
) -> list[Damage]:
    found: list[Damage] = []
    window = crew.window(lambda count: teller(Advanced(count)))

    def send(run: list[tuple[str, Entry]]) -> None:
        sizes = [entry.size for _, entry in run if isinstance(entry, FileEntry)]
        read = sum(size for size in sizes if size < limit)
        teller(Advanced(sum(sizes) - read))
        look = partial(_look_at, run, limit)
        window.give(look, lambda result: found.extend(result()), read, len(run), light=read <= LIGHT)

    try:
        for run in _runs(inventory, piece, left_out):
            send(run)
        window.finish()
    finally:
        window.abandon_unless_done()
    return found


def _runs(inventory: Path, piece: Piece, left_out: frozenset[str]) -> Iterator[list[tuple[str, Entry]]]:
    run: list[tuple[str, Entry]] = []
    size = 0
    for rest, entry in entries(inventory, piece):
        if entry.path in left_out:
            continue
        run.append((f"{piece.live}{rest}", entry))
        size += entry.size if isinstance(entry, FileEntry) else 0
        if len(run) >= RUN_FILES or size >= BUFFER:
            yield run
            run, size = [], 0
    if run:
        yield run


def _look_at(run: list[tuple[str, Entry]], limit: float, copier: Copier) -> list[Damage]:
    found = (_difference(path, entry, limit, copier) for path, entry in run)
    return [damage for damage in found if damage]


def _difference(path: str, entry: Entry, limit: float, copier: Copier) -> Damage | None:
    try:
        with near(path) as (folder, name):
            problem = _problem(folder, name, entry, limit, copier)
    except OSError as error:
        problem = error.strerror or "cannot be read"
    return Damage(path, problem) if problem else None


def _problem(folder: int | None, name: str, entry: Entry, limit: float, copier: Copier) -> str:
    here = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if problem := _kind_problem(here, folder, name, entry):
        return problem
    if isinstance(entry, FileEntry):
        read = _hash(folder, name, copier) if entry.size < limit else (entry.sha256, here.st_size)
        if read != (entry.sha256, entry.size):
            return "it is not what was restored (sha256)"
    return ""


def _kind_problem(here: os.stat_result, folder: int | None, name: str, entry: Entry) -> str:
    match entry:
        case LinkEntry():
            same = stat.S_ISLNK(here.st_mode) and os.readlink(name, dir_fd=folder) == entry.target
            return "" if same else "it is not the link that was restored"
        case FileEntry():
            same = stat.S_ISREG(here.st_mode)
        case DirEntry():
            same = stat.S_ISDIR(here.st_mode)
    if not same:
        return "it is of another kind than what was restored"
    if stat.S_IMODE(here.st_mode) != entry.mode:
        return "its mode is another one"
    return "" if here.st_mtime_ns == entry.mtime_ns else "its time is another one"


def _hash(folder: int | None, name: str, copier: Copier) -> tuple[str, int]:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        return copier.hash(fd, copier.on_bytes)
    finally:
        os.close(fd)


# -- what belongs together -----------------------------------------------------------------------------


def check_meaning(record: Record, pieces: Iterable[Piece], inventory: Path) -> Iterator[Checked]:
    """Databases open and are sound; index snapshot, deployment id and uploads are of one moment."""
    chosen = tuple(pieces)
    by_name = {piece.stored: piece for piece in chosen}
    for piece in chosen:
        if piece.kind is Kind.SQLITE:
            problem = integrity_problem(Path(piece.live))
            yield Checked(f"{piece.stored} (integrity_check)", problem or "ok", not problem)
    if storage := by_name.get("data/storage"):
        active = next((str(s["name"]) for s in record.index_snapshots if s["active"]), "")
        yield from _text_is(Path(storage.live, "CURRENT"), active, "data/storage/CURRENT")
        if active and (uploads := by_name.get("data/uploads")):
            yield from _corpus(Path(storage.live, active, "manifest.meta.json"), uploads, inventory)
    if identity := by_name.get("data/.deployment-id"):
        yield from _text_is(Path(identity.live), record.scope.deployment_id, "data/.deployment-id")


def integrity_problem(path: Path) -> str:
    """What SQLite says of a database, without leaving anything beside it; empty when it is sound."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)) as db, stoppable(db):
            (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return "" if answer == "ok" else str(answer)


def check_rows(record: Record, pieces: Iterable[Piece]) -> Iterator[Checked]:
    """DuckDB reads its files, and the points of an embedded Qdrant are counted; nothing is written beside them."""
    for piece in pieces:
        if piece.kind is Kind.DUCKDB:
            yield opened(piece, record)
        elif piece.kind is Kind.EMBEDDED:
            yield from _embedded_points(piece, record)


def opened(piece: Piece, record: Record) -> Checked:
    """What DuckDB finds where the file lies now; where it cannot be asked, the file was held to its sum."""
    what = f"{piece.stored} (DuckDB)"
    try:
        found = deep.read_duckdb(Path(piece.live))
    except DamageFound as error:
        known = any(o.part is piece.part and o.reason is Reason.DAMAGED for o in record.omissions)
        return Checked(what, f"{error}{'; it was so when the backup was made' if known else ''}", right=known)
    except (deep.CannotProve, NoScratch, NoSpace) as error:
        return Checked(what, f"held to its sha256, not opened: {error}")
    rows, tables = sum(found.rows.values()), len(found.rows)
    return Checked(
        what, f"opened, {rows:,} row{'' if rows == 1 else 's'} in {tables} table{'' if tables == 1 else 's'}"
    )


def _embedded_points(piece: Piece, record: Record) -> Iterator[Checked]:
    """Counted without unpickling one; as recorded, or between the counts before and after it was saved."""
    for taken in record.qdrant.collections if record.qdrant and record.qdrant.embedded else ():
        try:
            path = Path(f"{piece.live}{taken.path.removeprefix(piece.stored)}").absolute().as_uri()
            with closing(sqlite3.connect(f"{path}?mode=ro&immutable=1", uri=True)) as db:
                (count,) = db.execute("SELECT COUNT(*) FROM points").fetchone()
        except sqlite3.Error as error:
            yield Checked(f"points in {taken.name}", str(error), right=False)
            continue
        yield Checked(f"points in {taken.name}", f"{count:,}", taken.points_min <= count <= taken.points_max)


def _text_is(path: Path, expected: str, what: str) -> Iterator[Checked]:
    """v1 may have no CURRENT: nothing to compare then."""
    try:
        with path.open("rb") as file:
            found = file.read(TEXT_LIMIT).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return
    if expected:
        yield Checked(what, found, found == expected)


def _corpus(meta: Path, uploads: Piece, inventory: Path) -> Iterator[Checked]:
    """DocMind makes the same comparison; where it differs now, it differed in the backup."""
    try:
        snapshot = docmind.index_snapshot(meta.parent.name, meta.read_bytes())
    except OSError:
        return
    expected = snapshot.corpus_hash if snapshot.schema_version.startswith("2") else ""
    files = [(rest[1:], e.sha256) for rest, e in entries(inventory, uploads) if isinstance(e, FileEntry)]
    if expected:
        same = docmind.corpus_hash(files) == expected
        words = "as the active index snapshot knows them" if same else "not all indexed when the backup was made"
        yield Checked("uploads (corpus hash)", words)
