"""Reach and remove what lies deeper than a path may be long or a function may call itself: folders know no bounds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from docmind_backup.folders import FOLDER_FLAGS

MOST = 1000
"""Bytes of a path that every system takes: macOS 1,023, Linux 4,095 (limits.h, PATH_MAX)."""
LEVELS = 250
"""Folders in each other that are held open, and that are removed by functions calling themselves."""
_PASSED = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
"""A folder that is only gone through need not be readable."""


class near:  # noqa: N801 - reads as a preposition; a generator would cost a microsecond each time
    """A path of any length, as system calls take it: `with near(path) as (folder, name)`, then `dir_fd=folder`.

    The folder is None where the path is short enough. Raises OSError as opening the path would.
    """

    __slots__ = ("_folder", "_name")

    def __init__(self, path: str) -> None:
        self._folder: int | None = None
        self._name = path
        if len(path) * 4 > MOST and len(raw := os.fsencode(path)) > MOST:
            self._go_down(raw)

    def _go_down(self, path: bytes) -> None:
        try:
            while len(path) > MOST:
                cut = path.rfind(b"/", 1, MOST) + 1 or path.find(b"/", 1) + 1
                if not cut:  # one name, that no file system takes: whoever opens it is told so
                    break
                above, self._folder = self._folder, os.open(path[:cut], _PASSED, dir_fd=self._folder)
                if above is not None:
                    os.close(above)
                path = path[cut:].lstrip(b"/")
        except BaseException:
            self.__exit__()
            raise
        self._name = os.fsdecode(path)

    def __enter__(self) -> tuple[int | None, str]:
        return self._folder, self._name

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            os.close(self._folder)
            self._folder = None


def lstat(path: str) -> os.stat_result:
    """Of a path of any length, as os.lstat."""
    with near(path) as (folder, name):
        return os.stat(name, dir_fd=folder, follow_symlinks=False)


def lexists(path: str) -> bool:
    """Of a path of any length, as os.path.lexists."""
    try:
        lstat(path)
    except OSError:
        return False
    return True


@contextmanager
def scandir(path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    """Of a path of any length, as os.scandir; the entries' own `path` means nothing."""
    with near(path) as (folder, name):
        if folder is None:
            with os.scandir(name) as entries:
                yield entries
            return
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            with os.scandir(fd) as entries:
                yield entries
        finally:
            os.close(fd)


def walk(top: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(folder, its folders, everything else in it), sorted, parents first, however deep.

    Links are not followed; what cannot be listed is passed over.
    """
    pending = [top]
    while pending:
        folder = pending.pop()
        try:
            folders, others = _listed(folder)
        except OSError:
            continue
        yield folder, folders, others
        pending.extend(f"{folder}/{name}" for name in reversed(folders))


def _listed(folder: str) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    others: list[str] = []
    with scandir(folder) as entries:
        for entry in entries:
            (folders if entry.is_dir(follow_symlinks=False) else others).append(entry.name)
    return sorted(folders), sorted(others)


def remove_tree(path: Path) -> None:
    """Delete a folder with all that is in it, as shutil.rmtree, however deep."""
    while True:
        try:
            return shutil.rmtree(path)
        except RecursionError:
            _lift(path)


def _lift(top: Path) -> None:
    """Rename what lies LEVELS down into the top folder, where it is no longer too deep. Follows no link."""
    way = [_opened(os.open(top, FOLDER_FLAGS))]
    try:
        while way:
            folder, names = way[-1]
            name = next(names, None)
            if name is None:
                os.close(way.pop()[0])
            elif len(way) < LEVELS:
                way.append(_opened(os.open(name, FOLDER_FLAGS, dir_fd=folder)))
            else:
                os.rename(name, f"lifted-{uuid4().hex}", src_dir_fd=folder, dst_dir_fd=way[0][0])
    finally:
        for folder, _ in way:
            os.close(folder)


def _opened(folder: int) -> tuple[int, Iterator[str]]:
    """The folder and the names of those in it."""
    try:
        with os.scandir(folder) as entries:
            return folder, iter([entry.name for entry in entries if entry.is_dir(follow_symlinks=False)])
    except BaseException:
        os.close(folder)
        raise
