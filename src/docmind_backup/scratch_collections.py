"""Collections on a server that may go at any time: noted before they are made, removed after use or by the next run."""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from pathlib import Path

from docmind_backup import durable, plain, uploads
from docmind_backup.catalog import read_limited, same_file
from docmind_backup.core.qdrant_rest import same_address
from docmind_backup.core.server import RestoreTarget
from docmind_backup.errors import QdrantError, QdrantUnreachable

LATE = timedelta(days=1)
"""How long an upload whose answer never came may still bring forth a collection."""
ANSWERED = b"answered\n"
"""The second line of a note: nothing comes any more that is not there."""
_NAME = re.compile(r"\Adocmind-backup-scratch-[0-9a-z_]+-[0-9a-f]{16}\Z")
_FILE = re.compile(r"\Adocmind-backup-[0-9a-f]{16}\.snapshot\Z")


@dataclass(frozen=True, slots=True)
class Note:
    """One scratch collection: on the disk before anything of it is on the server, and locked while it is used."""

    url: str
    name: str
    """64 random bits in it: nobody else makes one of this name."""
    file: str
    """What the upload is called among the server's snapshots of `name`."""
    asked_at: str
    """Server time, ISO 8601."""


class ScratchCollection:
    """A name on a server to upload to."""

    def __init__(self, note: Note, fd: int) -> None:
        self.name = note.name
        self.file = note.file
        self.refused = False
        """The server said that it makes no collection of this name: there is nothing to remove."""
        self._fd = fd

    def answered(self) -> None:
        """Note that the upload has ended: once this is removed, nothing comes after it."""
        os.lseek(self._fd, 0, os.SEEK_END)
        os.write(self._fd, ANSWERED)
        os.fsync(self._fd)


@contextmanager
def scratch_collection(folder: Path, server: RestoreTarget, backup_id: str) -> Iterator[ScratchCollection]:
    """A name that nothing has; whatever is there under it at the end is removed, the uploaded file first.

    What cannot be removed now stays noted in `folder` for the next run. Raises QdrantError, and OSError of the note.
    """
    token = secrets.token_hex(8)
    note = Note(
        server.url,
        f"docmind-backup-scratch-{backup_id}-{token}",
        f"docmind-backup-{token}.snapshot",
        server.now().isoformat(),
    )
    uploads.check_free(server, note.name)
    path = folder / f"{token}.json"
    fd = _written(path, note)
    made, ended = ScratchCollection(note, fd), False
    try:
        yield made
        ended = True
    except QdrantError as error:
        ended = not error.may_be_done
        raise
    finally:
        try:
            with suppress(QdrantError):
                if not made.refused:
                    uploads.remove(server, note.name, (note.file,))
                if ended:
                    path.unlink()
        finally:
            os.close(fd)


def clean(folder: Path, server: RestoreTarget) -> tuple[str, ...]:
    """Remove the scratch collections of runs that were killed, and give their names; those in use are left.

    What the server refuses now stays noted. Raises QdrantUnreachable.
    """
    return tuple(note.name for path, note in _dead(folder) if _cleaned(path, note, server))


def _cleaned(path: Path, note: Note, server: RestoreTarget) -> bool:
    if not same_address(note.url, server.url):
        return False
    try:
        there = note.name in server.names()
        uploads.remove(server, note.name, (note.file,))
        late = server.now() - datetime.fromisoformat(note.asked_at) > LATE
    except QdrantUnreachable:
        raise
    except QdrantError:
        return False
    with suppress(OSError, ValueError):
        if late or read_limited(path).endswith(b"\n" + ANSWERED):
            path.unlink()
    return there


def noted(folder: Path) -> tuple[tuple[Path, Note, bool], ...]:
    """Each note with its file, and whether a run that is going on holds it. Nothing is changed."""
    return tuple(_noted(folder))


def _noted(folder: Path) -> Iterator[tuple[Path, Note, bool]]:
    for path in durable.notes_in(folder):
        try:
            fd = plain.descriptor(path, os.O_RDONLY)
        except OSError:
            continue
        try:
            held = _is_held(fd)
            if note := _parsed(_line(path)):
                yield path, note, held
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)


def _is_held(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no locks there
        return False
    return False


# -- notes ---------------------------------------------------------------------------------------


def _written(path: Path, note: Note) -> int:
    """On the disk, and locked by the descriptor that is given, when this returns."""
    durable.refuse_links(path.parent.parent, path.parent)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # no locks there: nobody takes it for left over either
            fcntl.flock(fd, fcntl.LOCK_EX)
        if same_file(fd, path):
            break
        os.close(fd)  # somebody cleaned up between making and locking
    try:
        os.write(fd, (json.dumps(asdict(note), sort_keys=True) + "\n").encode())
        os.fsync(fd)
        durable.fsync_directory(path.parent)
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


def _dead(folder: Path) -> Iterator[tuple[Path, Note]]:
    """Notes that no living process holds, each held while it is looked at; what is no note is passed over."""
    for path in durable.notes_in(folder):
        try:
            fd = plain.descriptor(path, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if same_file(fd, path) and (note := _read(path)):
                yield path, note
        except (OSError, ValueError):
            continue
        finally:
            os.close(fd)


def _read(path: Path) -> Note | None:
    """An empty one is of a run that was killed before it did anything."""
    line = _line(path)
    if not line:
        path.unlink()
    return _parsed(line)


def _line(path: Path) -> bytes:
    """The first one. Raises OSError, and ValueError for what is no file or far too large."""
    return read_limited(path).partition(b"\n")[0]


def _parsed(line: bytes) -> Note | None:
    """None for what is no note of ours."""
    try:
        known = {field.name for field in fields(Note)}
        note = Note(**{name: str(value) for name, value in json.loads(line).items() if name in known})
        datetime.fromisoformat(note.asked_at)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return note if _NAME.match(note.name) and _FILE.match(note.file) else None
