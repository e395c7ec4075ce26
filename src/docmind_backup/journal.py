"""The folder that a restore works in: its lock, its journal, what earlier ones keep. Touches nothing live."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docmind_backup import durable
from docmind_backup.catalog import NO_LOCKS, holder, read_limited, same_file
from docmind_backup.core.journal import RUN, Journal, Phase, journal_bytes, read_journal
from docmind_backup.errors import BackupError, Locked

FOLDER = ".docmind-restore"
JOURNAL = "journal.json"
LOCK = "lock"
WAYS_OUT = "`docmind-backup restore --resume` finishes it, `docmind-backup restore --rollback` takes it back"


class RestoreFolder:
    """`.docmind-restore` in a data directory. Its own `journal.json` is that of a restore that has not ended."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / FOLDER

    # -- reading

    def unfinished(self) -> Journal | None:
        """Of the restore that was interrupted; BackupError when it cannot be read."""
        return self._read(self.path / JOURNAL)

    def finished(self) -> tuple[Journal, ...]:
        """Of those whose rollback folder is still there, in the order in which they were made."""
        try:
            names = [name for name in os.listdir(self.path) if RUN.match(name)]
        except (FileNotFoundError, NotADirectoryError):
            return ()
        found = (self._read(self.path / name / JOURNAL) for name in names)
        return tuple(sorted((journal for journal in found if journal), key=lambda one: (one.number, one.run)))

    def _read(self, path: Path) -> Journal | None:
        try:
            return read_journal(read_limited(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise BackupError(
                f"the journal of a restore cannot be used: {path}: {error}",
                hint="what was there before lies in the folder beside it; move it back by hand, then remove the folder",
            ) from error

    def check_place(self, journal: Journal) -> None:
        """BackupError unless it is of a restore made here: one that was copied or moved names what lies elsewhere."""
        made = Path(journal.folders[0])
        if os.path.realpath(made) != os.path.realpath(self.path / journal.run):
            raise BackupError(
                f"this restore was made in {made.parent.parent}, and its journal lies in {self.path} now;"
                " nothing was changed",
                hint=f"mount or move it back there; {self.path} may be removed where it is a copy",
            )

    # -- writing, holding the lock

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only restore of this data directory. Raises Locked, naming the other one."""
        fd = self._locked()
        durable.clear_abandoned(self.path)
        try:
            yield
        finally:
            if not any(name != LOCK for name in os.listdir(self.path)):
                with suppress(OSError):
                    (self.path / LOCK).unlink()
                    self.path.rmdir()
            os.close(fd)

    def _locked(self) -> int:
        if self.path.is_symlink():
            raise BackupError(f"{self.path} is a link: nothing is kept behind one", hint="move it away")
        while True:
            with durable.destination_errors(self.path):
                self.home.mkdir(parents=True, exist_ok=True)
                self.path.mkdir(mode=0o700, exist_ok=True)
                durable.fsync_directory(self.home)
                fd = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if same_file(fd, self.path / LOCK):
                    return fd
            except OSError as error:
                who = holder(fd)
                os.close(fd)
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise BackupError(f"cannot lock {self.path / LOCK}: {error.strerror}", hint=NO_LOCKS) from error
                raise Locked(
                    f"another restore of {self.home} is under way: {who}", hint="wait for it to end"
                ) from error
            os.close(fd)

    def write(self, journal: Journal) -> None:
        """The journal of a restore that has not ended; on the disk when this returns."""
        durable.replace(self.path / JOURNAL, journal_bytes(journal))

    def finish(self, journal: Journal) -> None:
        """It has ended, and its folder stays: the journal goes there."""
        assert journal.phase in (Phase.DONE, Phase.UNDONE)
        durable.replace(self.path / journal.run / JOURNAL, journal_bytes(journal))
        self.forget()

    def forget(self) -> None:
        """Nothing is under way any more."""
        (self.path / JOURNAL).unlink(missing_ok=True)
        durable.fsync_directory(self.path)


def refuse_unfinished(home: Path) -> None:
    """Locked while a restore of this data directory was begun and neither ended nor taken back."""
    if os.path.lexists(home / FOLDER / JOURNAL):
        raise Locked(f"a restore of {home} has not ended", hint=WAYS_OUT)


def ended(home: Path) -> tuple[tuple[str, str], ...]:
    """Each restore of which something is kept, and how it ended: when that changes, files have changed hands."""
    with suppress(BackupError):
        return tuple((journal.run, journal.phase) for journal in RestoreFolder(home).finished())
    return ()


def clear_killed(home: Path) -> None:
    """What a restore left that was killed before its journal lay there goes: it has begun nothing. Best effort."""
    folder = RestoreFolder(home)
    with suppress(OSError, BackupError):
        if any(name.startswith(f".{JOURNAL}.") for name in os.listdir(folder.path)):
            with folder.lock():
                pass
