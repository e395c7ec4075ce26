"""Scratch folders: room looked for first, removed afterwards, and what killed runs left found by the next one."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from docmind_backup.core.units import size
from docmind_backup.errors import BackupError, NoSpace
from docmind_backup.folders import FOLDER_FLAGS
from docmind_backup.reach import near, remove_tree, walk

PREFIX = "docmind-backup-scratch-"
KEEP_FREE = 64 * 1024 * 1024
"""Bytes that are left to others on the file system."""


class NoScratch(BackupError):
    """None can be made: what needs one is left undone."""

    exit_code = 5


class Scratch(NamedTuple):
    """A private folder, there as long as it is used."""

    path: Path
    fd: int
    """Locked; a child process that inherits it keeps the folder from being taken for left over."""


def default_root() -> Path:
    """Where scratch folders are made: TMPDIR, else the system's place for temporary files."""
    return Path(tempfile.gettempdir())


@contextmanager
def scratch(needed: int, root: Path | None = None) -> Iterator[Scratch]:
    """A new folder with room for `needed` bytes; removed at the end, with all that is in it.

    First removes what runs of this user that were killed left there. Raises NoSpace, NoScratch.
    """
    root = root or default_root()
    try:
        clean(root)
        check_room(root, needed)
        made = _make(root)
    except OSError as error:
        raise NoScratch(f"no scratch folder can be made in {root}: {error.strerror}", hint=HINT) from error
    try:
        yield made
    finally:
        try:
            _remove(made.path)
        finally:
            os.close(made.fd)


HINT = "TMPDIR=DIR names another place for scratch files"


def check_room(root: Path, needed: int) -> None:
    """NoSpace unless `needed` bytes fit into the file system of `root`, with some left over."""
    found = os.statvfs(root)
    free = found.f_bavail * found.f_frsize
    if needed + KEEP_FREE > free:
        raise NoSpace(
            f"about {size(needed)} of scratch space are needed and {size(free)} are free in {root} "
            f"({size(KEEP_FREE)} have to stay free)",
            hint=HINT,
        )


def clean(root: Path) -> tuple[Path, ...]:
    """Remove the scratch folders of this user in `root` that nobody uses any more."""
    try:
        names = sorted(name for name in os.listdir(root) if name.startswith(PREFIX))
    except OSError:
        return ()
    return tuple(root / name for name in names if _reclaimed(root / name))


def _make(root: Path) -> Scratch:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=root))
        fd = os.open(path, FOLDER_FLAGS)
        with suppress(OSError):  # no locks there: nobody takes it for left over either
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(fd, path):
            return Scratch(path, fd)
        os.close(fd)  # somebody cleaned up between making and locking


def _reclaimed(path: Path) -> bool:
    try:
        fd = os.open(path, FOLDER_FLAGS)
    except OSError:
        return False
    try:
        if os.fstat(fd).st_uid != os.geteuid():
            return False
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _same(fd, path) and _remove(path)
    except OSError:
        return False
    finally:
        os.close(fd)


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> bool:
    """Whatever cannot be removed now, the next run finds. Restored folders may be such that nobody may write there."""
    with suppress(OSError):
        for here, folders, _ in walk(str(path)):
            for folder in folders:
                with near(f"{here}/{folder}") as (above, name):
                    os.chmod(name, 0o700, dir_fd=above)
        remove_tree(path)
        return True
    return False
