"""Put bytes on the disk and know it: flush a file system with its errors seen, write small files atomically."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from docmind_backup.errors import BackupError, NoSpace
from docmind_backup.reach import lstat, near, walk

A_LINK = "a link, not a folder"


class Flusher:
    """Flushes everything written to one file system since this was made.

    The descriptor is opened before the first write, because Linux reports a write-back error once to each
    descriptor that was open when it happened (syncfs(2), since 5.8).
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def flush(self, below: Path) -> None:
        """All of `below` is on the disk when this returns; raises OSError when any of it could not be written."""
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            _fsync_tree(below)
        elif syncfs(self._fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"flushing failed: {os.strerror(code)}", str(self._directory))

    def close(self) -> None:
        os.close(self._fd)


def _fsync_tree(below: Path) -> None:
    """Where there is no syncfs: each file and folder for itself."""
    for folder, _, names in walk(str(below)):
        for path in (f"{folder}/{name}" for name in names):
            if not stat.S_ISLNK(lstat(path).st_mode):
                _fsync(path, os.O_RDONLY)
        fsync_directory(folder)


def fsync_directory(directory: Path | str) -> None:
    """The names in `directory` are on the disk when this returns."""
    _fsync(directory, os.O_RDONLY | os.O_DIRECTORY)


def _fsync(path: Path | str, flags: int) -> None:
    with near(str(path)) as (folder, name):
        fd = os.open(name, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def private_folders(folder: Path, *, below: Path) -> None:
    """Make `folder` and what is missing above it down from `below`, each 0700 (mkdir's own parents are not)."""
    missing = [folder, *(parent for parent in folder.parents if parent.is_relative_to(below) and parent != below)]
    try:
        _make(missing)
    except FileNotFoundError:  # another thread found one of them empty just now, and removed it
        _make(missing)


def _make(folders: list[Path]) -> None:
    for each in reversed(folders):
        each.mkdir(mode=0o700, exist_ok=True)


def refuse_links(*folders: Path) -> None:
    """Raises OSError (ENOTDIR) for the first that is a link: what lies behind it is somebody else's."""
    for folder in folders:
        if folder.is_symlink():
            raise OSError(errno.ENOTDIR, A_LINK, str(folder))


def notes_in(folder: Path) -> list[Path]:
    """Its `*.json`, sorted; none where a link leads to it."""
    try:
        refuse_links(folder.parent, folder)
    except OSError:
        return []
    return sorted(folder.glob("*.json"))


def write_new(path: Path, data: bytes, *, mode: int = 0o400) -> None:
    """A new file; FileExistsError when there is one. Not flushed."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(fd, "wb") as file:
        file.write(data)


def replace(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """The old content or the new, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        write_new(temporary, data, mode=mode)
        _fsync(temporary, os.O_RDONLY)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


_TEMPORARY = re.compile(r"\A\..+\.(?P<pid>\d{1,10})\.tmp\Z")


def clear_abandoned(folder: Path) -> None:
    """Remove what `replace` left in `folder` when its process was killed. Best effort.

    This process must not be replacing anything. One on another machine, whose pid means nothing here, may fail to
    replace its file for once.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _TEMPORARY.match(name)
            if match and not _lives(int(match["pid"])):
                with suppress(OSError):
                    (folder / name).unlink()


def _lives(pid: int) -> bool:
    """Another process than this one."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _lack(where: Path, error: OSError) -> str:
    """What there is no more of: all three are one error to the caller who wrote."""
    if error.errno == errno.EDQUOT:
        return "is full: the quota is used up"
    with suppress(OSError):
        found = os.statvfs(next(path for path in (where, *where.parents) if os.path.exists(path)))
        if found.f_favail * found.f_blocks < found.f_bavail * found.f_files:  # some may be free again by now
            return "has no inodes left"
    return "is full"


@contextmanager
def destination_errors(where: Path) -> Iterator[None]:
    """Errors of the destination in the tool's words: a full disk is exit 13, the rest exit 1."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"the file system of {where} {_lack(where, error)}; nothing was published",
                hint="free some space, `docmind-backup prune`, or choose another place with --dest",
            ) from error
        reason = error.strerror or type(error).__name__
        raise BackupError(
            f"cannot write to {where}: {reason}; nothing was published",
            hint="check the permissions and the health of that file system",
        ) from error
