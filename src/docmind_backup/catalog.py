"""The backups under one root: lock, list, find, publish, seal, hold, remove. Never looks into a backup's data."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from docmind_backup import durable
from docmind_backup.briefs import Briefs
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, BrokenBackup, ForeignBackup, Seal, Unfinished
from docmind_backup.errors import BackupError, FormatTooNew, Locked, NoSuchBackup
from docmind_backup.reach import remove_tree

LOCK = ".backup.lock"
"""DocMind's own name for it: its service and this tool exclude each other."""
STAGING = ".staging-"
TRASH = ".trash"
STATE = ".state"
BRIEFS = "briefs.json"
KINDS = ("seals", "holds", "servers", "scratch")
"""The folders in it."""
EVENTS = "events.jsonl"
NAME = re.compile(r"\A(?P<lacking>incomplete-)?backup_(?P<id>\d{8}_\d{6}(?:_[0-9a-f]{12})?)\Z")
NO_LOCKS = "without locks two runs would harm each other: keep the backups on a file system that has them (flock)"
LINKED = "a link, not a folder: give the path of its target"
RECORD_LIMIT = 64 * 1024 * 1024
"""Bytes of a record or foreign manifest that are read at most; a larger one is not one."""
MANY = 1 << 20
"""Bytes from which a document's values are counted before it is parsed."""
VALUES = 3_000_000
"""A document has no more: a megabyte of brackets becomes twenty of lists."""

Item = Backup | ForeignBackup | BrokenBackup | Unfinished


def name_of(backup_id: str, *, complete: bool) -> str:
    """The directory of a backup: DocMind's own naming, so that its checker knows it."""
    return f"{'' if complete else 'incomplete-'}backup_{backup_id}"


class _Reader(NamedTuple):
    """What was looked up once for all backups: names of seals and holds (None: each has to be tried), and briefs."""

    seals: frozenset[str] | None = None
    holds: frozenset[str] | None = None
    briefs: Briefs | None = None


class Catalog:
    """All backups below `root`. Reading takes no lock and needs no write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def state(self) -> Path:
        """What is remembered beside the backups."""
        return self.root / STATE

    @property
    def servers(self) -> Path:
        """Notes about what was begun on servers."""
        return self.state / "servers"

    @property
    def scratch_collections(self) -> Path:
        """Notes about collections that rehearsals made on servers."""
        return self.state / "scratch"

    # -- reading

    def items(self, *, brief: bool = False) -> tuple[Item, ...]:
        """Everything that is or looks like a backup: newest first, unusable ones last.

        `brief`: records without what only `show` and a restore ask for (`Briefs.record`); many are read much quicker.
        """
        folders, links = self._scan()
        reader = _Reader(self._remembered("seals"), self._remembered("holds"), self._briefs() if brief else None)
        found = [self._item(self.root / name, reader) for name in folders if NAME.match(name)]
        found = [item for item in found if isinstance(item, Backup) or item.directory.is_dir()]  # not pruned meanwhile
        found += [BrokenBackup(self.root / name, LINKED) for name in links if NAME.match(name)]
        dead = [Unfinished(self.root / name) for name in folders if name.startswith((STAGING, "tmp-backup_"))]
        if reader.briefs:
            reader.briefs.save()
        return tuple(sorted(found, key=_newest_first)) + tuple(dead)

    def _briefs(self) -> Briefs:
        path = self.state / BRIEFS
        try:
            durable.refuse_links(self.state)
            return Briefs(path, read_limited(path))
        except (OSError, ValueError):
            return Briefs(path, b"")

    def backups(self, *, brief: bool = False) -> tuple[Backup, ...]:
        """Only those this tool wrote and can read, newest first."""
        return tuple(item for item in self.items(brief=brief) if isinstance(item, Backup))

    def ids(self) -> tuple[str, ...]:
        """Ids by directory name alone, newest first: for completion."""
        matches = map(NAME.match, self._scan()[0])
        return tuple(sorted((match["id"] for match in matches if match), reverse=True))

    def find(self, text: str, *, now: datetime) -> Path:
        """The directory that `text` means: `latest`, an id, a unique prefix of one, or a path. NoSuchBackup."""
        if text == "latest":
            return self._latest(now).directory
        if os.sep in text or text in (".", ".."):
            return _directory(Path(text), text)
        wanted = text.removeprefix("incomplete-").removeprefix("backup_")
        named = {m["id"]: self.root / name for name in self._scan()[0] if (m := NAME.match(name))}
        close = [i for i in sorted(named) if i.startswith(wanted)] if wanted else []
        if wanted and not close:  # a renamed folder: the id that counts is the record's
            named = {b.id: b.directory for b in self.backups()}
            close = [i for i in sorted(named) if i.startswith(wanted)]
        if wanted in named or len(close) == 1:
            return named[wanted if wanted in named else close[0]]
        if close:
            raise NoSuchBackup(f"'{text}' could be any of {len(close)} backups: {', '.join(close[:5])}")
        for path in (Path(text), self.root / text) if text else ():  # here, or another tool's in the root
            if os.path.isdir(path):
                return Path(os.path.abspath(path))
        raise NoSuchBackup(f"no backup '{text}' in {self.root}", hint="`docmind-backup list` shows them all")

    def _latest(self, now: datetime) -> Backup:
        backups = self.backups()
        if not backups:
            raise NoSuchBackup(f"no backups in {self.root}", hint="`docmind-backup create` makes the first")
        usable = [b for b in backups if b.record.started_at <= now]
        return next((b for b in usable if b.counts), (usable or list(backups))[0])

    def _scan(self) -> tuple[list[str], list[str]]:
        """Names in the root: (folders, links)."""
        folders: list[str] = []
        links: list[str] = []
        try:
            with os.scandir(self.root) as found:
                for entry in found:
                    if entry.is_symlink():
                        links.append(entry.name)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(entry.name)
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise BackupError(f"cannot read {self.root}: {error.strerror}") from error
        return folders, links

    def _item(self, directory: Path, reader: _Reader) -> Item:
        try:
            return self._read(directory, reader)
        except FileNotFoundError:
            return _foreign(directory)
        except FormatTooNew as error:
            return BrokenBackup(directory, str(error), too_new=True)
        except ValueError as error:
            return BrokenBackup(directory, f"{fmt.RECORD} is damaged: {error}")
        except OSError as error:
            return BrokenBackup(directory, f"{fmt.RECORD} cannot be read: {error.strerror}")

    def read(self, directory: Path) -> Backup:
        """The backup in `directory`. FileNotFoundError, ValueError, FormatTooNew or OSError when it is not one."""
        return self._read(directory, _Reader())

    def _read(self, directory: Path, reader: _Reader) -> Backup:
        raw = read_limited(directory / fmt.RECORD)
        record, digest = reader.briefs.record(raw) if reader.briefs else fmt.read_record_and_digest(raw)
        name = _state_name(directory)
        seal = self._seal(directory) if reader.seals is None or name in reader.seals else None
        held = self._hold(directory) if reader.holds is None or name in reader.holds else None
        return Backup(directory, record, seal if seal and seal.record_sha256 == digest else None, held)

    # -- what is remembered beside the backups

    def _state(self, kind: str, directory: Path) -> Path:
        """By the directory's name, not the record's id: a copied backup has the same record and its own fate.

        Raises OSError where a link would lead elsewhere.
        """
        durable.refuse_links(self.state, self.state / kind)
        return self.state / kind / _state_name(directory)

    def _remembered(self, kind: str) -> frozenset[str] | None:
        """The names there; None when they cannot be told, and each has to be tried."""
        try:
            durable.refuse_links(self.state, self.state / kind)
            return frozenset(os.listdir(self.state / kind))
        except FileNotFoundError:
            return frozenset()
        except OSError:
            return None

    def _seal(self, directory: Path) -> Seal | None:
        try:
            return fmt.read_seal(read_limited(self._state("seals", directory)))
        except (OSError, ValueError):
            return None

    def is_damaged(self, backup: Backup) -> bool:
        """What is known of it by now."""
        try:
            return self.read(backup.directory).damaged
        except (OSError, ValueError, FormatTooNew):
            return True

    def _hold(self, directory: Path) -> str | None:
        try:
            return str(json.loads(read_limited(self._state("holds", directory)))["reason"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return "unreadable hold"

    def remember(self, directory: Path, seal: Seal) -> bool:
        """Keep the outcome of a verification; False where the root cannot be written (reading works all the same)."""
        if not NAME.match(directory.name) or directory.parent.resolve() != self.root.resolve():
            return False
        try:
            path = self._state("seals", directory)
            _private(path.parent.parent)
            _private(path.parent)
            durable.replace(path, fmt.seal_bytes(seal))
        except OSError:
            return False
        return True

    def hold(self, backup: Backup, reason: str) -> None:
        """Keep `backup` until it is released, whatever the retention rules say."""
        with durable.destination_errors(self.state):
            path = self._state("holds", backup.directory)
            _private(path.parent.parent)
            _private(path.parent)
            durable.replace(path, (json.dumps({"reason": reason}) + "\n").encode())

    def release(self, backup: Backup) -> bool:
        """Undo `hold`; False when it was not held."""
        with durable.destination_errors(self.state):
            path = self._state("holds", backup.directory)
            existed = path.exists()
            path.unlink(missing_ok=True)
            if existed:
                durable.fsync_directory(path.parent)
        return existed

    # -- writing

    @contextmanager
    def lock(self, wait_s: float = 0) -> Iterator[None]:
        """Be the only writer. Raises Locked, naming the holder, after `wait_s` seconds."""
        self._refuse_links()
        with durable.destination_errors(self.root):
            _private(self.root)
            _private(self.state)
        deadline = time.monotonic() + wait_s
        fd = self._locked(deadline)
        try:
            folder = self._locked_root(deadline)
        except BaseException:
            os.close(fd)
            raise
        try:
            holder = {"pid": os.getpid(), "host": os.uname().nodename, "command": "docmind-backup"}
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
                os.pwrite(fd, (json.dumps(holder) + "\n").encode(), 0)
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(fd, 0)
            os.close(folder)
            os.close(fd)

    def _refuse_links(self) -> None:
        """Who writes believes holds and notes, and puts files beside them: not where somebody else's may lie."""
        for folder in (self.state, *(self.state / kind for kind in KINDS)):
            if folder.is_symlink():
                raise BackupError(
                    f"{folder} is {durable.A_LINK}: it would lead out of the backups' root",
                    hint="put the folder that it leads to in its place, or remove it, and forget what was held there",
                )

    def _locked(self, deadline: float) -> int:
        path = self.root / LOCK
        while True:
            with durable.destination_errors(path):
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                self._wait_for(fd, deadline)
                if same_file(fd, path):
                    return fd
            except OSError as error:
                os.close(fd)
                raise BackupError(f"cannot lock {path}: {error.strerror}", hint=NO_LOCKS) from error
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)

    def _locked_root(self, deadline: float) -> int:
        """The folder itself too: two of us stay apart although somebody deletes the lock file that one of us holds."""
        with durable.destination_errors(self.root):
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # no locks on folders (NFS): the lock file alone has to do
                self._wait_for(fd, deadline)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _wait_for(self, fd: int, deadline: float) -> None:
        """Raises Locked at the deadline, OSError where there are no such locks."""
        while True:
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EINTR):
                    raise
                if time.monotonic() >= deadline:
                    raise Locked(
                        f"{self.root} is in use by {holder(fd)}", hint="wait for it, or give --lock-wait SECONDS"
                    ) from error
            time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))

    def new_staging(self, backup_id: str) -> Path:
        """A private folder on the backups' own file system; a name no reader takes for a backup."""
        staging = self.root / f"{STAGING}{backup_id}"
        staging.mkdir(mode=0o700)
        return staging

    def publish(self, staging: Path, name: str) -> Path:
        """Make a flushed staging folder a backup: one rename, and the root's names flushed."""
        final = self.root / name
        staging.rename(final)
        try:
            durable.fsync_directory(self.root)
        except OSError:
            final.rename(staging)
            raise
        return final

    def clean(self) -> tuple[Path, ...]:
        """Remove what dead runs left: staging folders and trash. Only while holding the lock: then all are dead.

        What cannot be removed costs its space and nothing else: the next run tries again.
        """
        self._clear_state()
        dead = [self.root / name for name in self._scan()[0] if name.startswith(STAGING)]
        trash = self.root / TRASH
        with contextlib.suppress(OSError):
            if trash.is_dir() and not trash.is_symlink():
                dead += [Path(entry.path) for entry in os.scandir(trash)]
        return tuple(path for path in dead if _removed(path))

    def _clear_state(self) -> None:
        with contextlib.suppress(OSError):
            durable.refuse_links(self.state)
            durable.clear_abandoned(self.state)
            for folder in os.scandir(self.state):
                if folder.is_dir(follow_symlinks=False):
                    durable.clear_abandoned(Path(folder.path))

    def discard(self, backups: Iterable[Backup]) -> tuple[list[Backup], list[tuple[Backup, str]]]:
        """Remove backups of this catalog: all renamed into the trash, then deleted. Holding the lock.

        Returns (removed, [(kept, why)]): one that is being read, or that cannot be removed, stays whole.
        """
        removed: list[Backup] = []
        refused: list[tuple[Backup, str]] = []
        trashed: list[tuple[Backup, Path]] = []
        for backup in backups:
            try:
                trashed.append((backup, self._trash(backup)))
            except OSError as error:
                refused.append((backup, error.strerror or "cannot be removed"))
        with contextlib.suppress(OSError):
            durable.fsync_directory(self.root)  # no name may come back after a power cut with its files gone
        for backup, path in trashed:
            try:
                remove(path)
                removed.append(backup)
            except OSError as error:
                refused.append((backup, f"partly removed, in {TRASH}: {error.strerror}"))
            for kind in ("seals", "holds"):
                with contextlib.suppress(OSError):
                    self._state(kind, backup.directory).unlink(missing_ok=True)
        return removed, refused

    def _trash(self, backup: Backup) -> Path:
        if backup.directory.parent != self.root or not NAME.match(backup.directory.name):
            raise OSError(errno.EPERM, "not in this catalog")
        with reading(backup.directory, exclusive=True):
            target = self._grave(backup.directory.name)
            backup.directory.rename(target)
        return target

    def _grave(self, name: str) -> Path:
        """In the trash; on a disk without a block for that folder, beside it under a name that the next run cleans."""
        try:
            durable.refuse_links(self.root / TRASH)
            _private(self.root / TRASH)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return self.root / f"{STAGING}{name}"
        return self.root / TRASH / name


def next_sequence(backups: Iterable[Backup]) -> int:
    """One more than any of a catalog's backups has: orders them whatever the clock does.

    After the last number, which only a forged one has, the time of their making does.
    """
    return min(fmt.MOST, 1 + max((backup.record.sequence for backup in backups), default=0))


@contextmanager
def reading(directory: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Hold the backup in `directory`: readers share, removing excludes them. OSError (EBUSY) when it is being read."""
    try:
        fd = os.open(directory / fmt.RECORD, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        if exclusive:
            raise
        yield
        return
    try:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as error:
            if exclusive and error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OSError(errno.EBUSY, "it is being read") from error
            if exclusive:
                raise
        yield
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; links are unlinked, never followed."""
    if path.is_symlink() or not path.is_dir():
        path.unlink()
    else:
        remove_tree(path)


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        remove(path)
        return True
    return False


def read_limited(path: Path) -> bytes:
    """A small regular file's bytes; ValueError when it is none or larger than any record, OSError when unreadable."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("not a regular file")
    if found.st_size > RECORD_LIMIT:
        raise ValueError("far too large")
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        read = [os.read(fd, 65_536)]
        while more := os.read(fd, 1 << 20):
            read.append(more)
            if len(read) << 20 > RECORD_LIMIT + (2 << 20):  # it grows while it is read
                raise ValueError("far too large")
    finally:
        os.close(fd)
    raw = b"".join(read)
    if len(raw) > MANY and sum(map(raw.count, (b",", b"[", b"{"))) > VALUES:
        raise ValueError("far too many values")
    return raw


def _state_name(directory: Path) -> str:
    match = NAME.match(directory.name)
    return f"{match['id'] if match else directory.name}.json"


def _directory(path: Path, text: str) -> Path:
    if not os.path.isdir(path):
        raise NoSuchBackup(f"no such directory: {text}")
    return Path(os.path.abspath(path))


def _newest_first(item: Item) -> tuple[int, float, float, str]:
    """Ours by sequence and by time, then DocMind's own by time, then what cannot be used."""
    match item:
        case Backup():
            return 0, -item.record.sequence, -item.record.started_at.timestamp(), item.id
        case ForeignBackup():
            return 1, -(item.created_at.timestamp() if item.created_at else 0), 0, item.directory.name
        case _:
            return 2, 0, 0, item.directory.name


def _foreign(directory: Path) -> Item:
    """A directory without our record: DocMind's own backup, or nothing that can be used."""
    try:
        data = json.loads(read_limited(directory / fmt.MANIFEST))
        if data.get("backup", {}).get("tool") == fmt.TOOL:
            return BrokenBackup(directory, f"{fmt.RECORD} is missing")
        created = fmt.moment(str(data["created_at"]))
        size, complete = fmt.count(int(data["bytes_written"])), data.get("complete") is True
        return ForeignBackup(directory, created if created.tzinfo else None, complete, size)
    except FileNotFoundError:
        return BrokenBackup(directory, f"neither {fmt.RECORD} nor {fmt.MANIFEST}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return BrokenBackup(directory, f"no {fmt.RECORD}, and its {fmt.MANIFEST} cannot be read")


def _private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def same_file(fd: int, path: Path) -> bool:
    """The lock file was not removed while we waited for it."""
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def holder(fd: int) -> str:
    """Who holds the lock, from the kernel's table where there is one, else from what the holder wrote."""
    inode = os.fstat(fd).st_ino
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and int(fields[5].rpartition(":")[2]) == inode:
                return f"process {fields[4]} ({_command(fields[4])})"
    with contextlib.suppress(OSError, ValueError, KeyError):
        holder = json.loads(os.pread(fd, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    return "another process"


def _command(pid: str) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "unknown"
