"""Capture one source into a staging folder. What is wrong with it becomes an omission, never an exception."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from fnmatch import fnmatchcase
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from docmind_backup.copying import ATTEMPTS, BUFFER, Copier, Replaced, SourceError, open_resolved, open_source, reading
from docmind_backup.core.model import DirEntry, Entry, FileEntry, Kind, LinkEntry, Omission, Reason, Source
from docmind_backup.core.sharing import Held
from docmind_backup.crew import LIGHT, Crew, Window
from docmind_backup.databases import capture_duckdb, capture_sqlite
from docmind_backup.embedded import capture_embedded
from docmind_backup.folders import FOLDER_FLAGS, descend
from docmind_backup.readlock import Patience
from docmind_backup.sharing import Sharing, Shelf
from docmind_backup.staging import Captured, Staging, omission, printable

__all__ = ["Captured", "capture"]

MAX_OPEN = 64
"""Levels of folders held open; those further up are opened again on the way back."""
RUN_FILES = 64
"""Files of one folder that are stored together at most."""


def capture(
    source: Source,
    staging: Path,
    emit: Callable[[Entry], None],
    on_bytes: Callable[[int], None],
    *,
    busy_wait_s: float = 5.0,
    shelf: Shelf | None = None,
    keep: Callable[[Sequence[Held]], None] = lambda _files: None,
    crew: Crew | None = None,
) -> Captured:
    """Store `source` at `staging / source.stored`; one entry a stored thing, parents before children.

    `on_bytes` hears of every few MB, and of 0 bytes while something is waited for. What is as the earlier backup of
    `shelf` has it is shared; of those files `keep` hears instead. The files of a tree are
    copied by `crew` where there is one: `on_bytes` is called from its threads, the others from this one. Raises what
    these raise, and OSError of the destination.
    """
    shelf = shelf or Sharing().shelf(None)
    place = Staging(staging, emit, Copier(on_bytes), Patience(busy_wait_s, on_bytes), shelf, keep)
    try:
        match source.kind:
            case Kind.FILE:
                return _capture_file(source, place)
            case Kind.TREE:
                return _Tree(source, place, crew.window(on_bytes) if crew else None).capture()
            case Kind.SQLITE:
                return capture_sqlite(source, place)
            case Kind.DUCKDB:
                return capture_duckdb(source, place)
            case Kind.EMBEDDED:
                return capture_embedded(source, place)
    except SourceError as miss:
        return Captured((omission(source, miss),))
    finally:
        place.clear(source.stored)


def _capture_file(source: Source, staging: Staging) -> Captured:
    if not staging.reuse(source, (), logs=()):
        copied = staging.copier.copy(None, source.path, None, staging.place(source.stored))
        staging.add(copied.entry(str(source.stored)))
    return Captured()


# -- trees ---------------------------------------------------------------------------------------


class _Type(Enum):
    FILE = auto()
    FOLDER = auto()
    LINK = auto()
    OTHER = auto()
    """A FIFO, a socket, a device: never opened."""


@dataclass(slots=True)
class _Folder:
    """A folder on the way from the root to where the walk is."""

    path: str
    """Relative to the root; empty for the root."""
    rest: Iterator[tuple[str, _Type]]
    """What it holds that was not visited yet."""
    source: int
    stored: int
    """Descriptors; -1: closed for the time being."""
    below: str
    """What paths of things in it begin with."""
    users: int = 0
    """Jobs under way that need the descriptors."""
    closing: bool = False

    def close(self) -> None:
        """Now, or when the last job is done."""
        self.closing = self.users > 0
        if self.closing or self.source < 0:
            return
        os.close(self.source)
        os.close(self.stored)
        self.source = self.stored = -1

    def done(self) -> None:
        """A job less."""
        self.users -= 1
        if self.closing:
            self.close()


class _File(NamedTuple):
    """A file that is to be stored."""

    name: str
    stored: str
    """Its path in the backup."""
    held: Held | None
    unchanged: bool
    """It is as the backup that holds it has it."""


@dataclass(slots=True)
class _Run:
    """Files of one folder, in order: stored together, because handing one over costs as much as linking it."""

    files: list[_File] = field(default_factory=list[_File])
    light: bool = False
    """Storing each of them is: it is shared, or small."""
    bytes: int = 0
    """To be copied."""


_Outcomes = Sequence[FileEntry | Held | SourceError]


class _Tree:
    """One walk over a tree, by directory descriptors: what lies outside the root cannot be reached."""

    def __init__(self, source: Source, staging: Staging, window: Window | None) -> None:
        self._source = source
        self._staging = staging
        self._prefix = f"{source.stored}/"
        self._window = window
        """None: everything is done at once, in this thread."""
        self._root: _Folder | None = None
        self._way: list[_Folder] = []
        self._folders: list[_Folder] = []
        """All that are open: those of the way, and those left behind in which jobs are under way."""
        self._run = _Run()
        """Files of the innermost folder that wait to be stored together."""
        self._device = 0
        self._omissions: list[Omission] = []
        self._notes: list[str] = []

    def capture(self) -> Captured:
        target = self._staging.place(self._source.stored)
        try:
            root = open_resolved(self._source.path, flags=os.O_DIRECTORY)
        except Replaced:
            raise SourceError(Reason.GONE, "it is not a folder") from None
        try:
            self._push("", root, None, target)
            while self._way:
                self._go_on()
            if self._window:
                self._window.finish()
        finally:
            if self._window:
                self._window.abandon_unless_done()
            for folder in self._folders:
                folder.users = 0
                folder.close()
        return Captured(tuple(self._omissions), tuple(self._notes))

    def _go_on(self) -> None:
        """Visit the things of the innermost folder until another one is, or leave it."""
        folder = self._way[-1]
        for name, type_ in folder.rest:
            if folder.source < 0 and not self._reopened(folder):
                break
            self._visit(folder, name, type_)
            if self._way[-1] is not folder:
                return
        self._store(folder)
        self._way.pop().close()

    def _visit(self, folder: _Folder, name: str, type_: _Type) -> None:
        """Capture `name` as what it is now, however it was listed."""
        path = folder.below + name
        try:
            for _ in range(ATTEMPTS):
                try:
                    return self._capture(folder, name, path, type_)
                except Replaced:
                    with reading():
                        type_ = _type(os.stat(name, dir_fd=folder.source, follow_symlinks=False).st_mode)
            raise SourceError(Reason.CHANGING, "it was replaced each time it was opened")
        except SourceError as miss:
            self._store(folder)
            self._miss(path, miss)

    def _miss(self, path: str, miss: SourceError) -> None:
        if miss.reason is Reason.GONE:
            self._note(path, "gone before it could be read")
        else:
            self._omit(omission(self._source, miss, path))

    def _visit_alone(self, folder: _Folder, name: str) -> None:
        """Capture at once, and all of it if it is a folder now, what was replaced while it waited for its turn."""
        before = (self._way, self._window, self._run)
        self._way, self._window, self._run = [], None, _Run()
        try:
            self._visit(folder, name, _Type.FILE)
            self._store(folder)
            while self._way:
                self._go_on()
        finally:
            self._way, self._window, self._run = before

    def _capture(self, folder: _Folder, name: str, path: str, type_: _Type) -> None:
        if type_ is _Type.FILE:
            self._file(folder, name, path)
            return
        self._store(folder)
        match type_:
            case _Type.FOLDER:
                self._push(path, open_source(name, folder.source, flags=os.O_DIRECTORY), folder, name)
            case _Type.LINK:
                self._link(folder, name, path)
            case _:
                self._note(path, "not a file, a folder or a link (FIFO, socket or device): skipped")

    # -- files -----------------------------------------------------------------------------------

    def _file(self, folder: _Folder, name: str, path: str) -> None:
        """It is stored together with the next ones."""
        with reading():
            found = os.stat(name, dir_fd=folder.source, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            raise Replaced
        stored, shelf = self._prefix + path, self._staging.shelf
        held = shelf.next(stored)
        unchanged = held is not None and shelf.is_unchanged(held, found)
        light = unchanged or found.st_size <= LIGHT
        if light is not self._run.light:
            self._store(folder)
            self._run.light = light
        run = self._run
        run.bytes += 0 if unchanged else found.st_size
        run.files.append(_File(name, stored, held, unchanged))
        if len(run.files) >= RUN_FILES or run.bytes >= BUFFER or self._window is None:
            self._store(folder)

    def _store(self, folder: _Folder) -> None:
        """Have the files that wait stored, if any do."""
        run, self._run = self._run, _Run()
        if not run.files:
            return
        job = partial(_store_all, self._staging.shelf, folder, run)
        if self._window is None:
            self._tell(folder, run.files, job(self._staging.copier))
            return
        folder.users += 1
        take = partial(self._take, folder, run.files)
        self._window.give(job, take, run.bytes, len(run.files), light=run.light)

    def _take(self, folder: _Folder, files: Sequence[_File], result: Callable[[], _Outcomes]) -> None:
        try:
            self._tell(folder, files, result())
        finally:
            folder.done()

    def _tell(self, folder: _Folder, files: Sequence[_File], outcomes: _Outcomes) -> None:
        """In the order of the walk."""
        kept: list[Held] = []
        for file, outcome in zip(files, outcomes, strict=True):
            if isinstance(outcome, Held):
                kept.append(outcome)
                continue
            self._staging.keep(kept)
            kept = []
            self._tell_one(folder, file, outcome)
        self._staging.keep(kept)

    def _tell_one(self, folder: _Folder, file: _File, outcome: FileEntry | SourceError) -> None:
        match outcome:
            case FileEntry():
                self._staging.emit(outcome)
            case Replaced() if self._window is None:
                raise outcome
            case Replaced():
                self._visit_alone(folder, file.name)
            case _:
                self._miss(folder.below + file.name, outcome)

    def _later(self, act: Callable[[], None]) -> None:
        """Do it when the files before it were told of."""
        if self._window is None:
            act()
        else:
            self._window.later(act)

    def _emit(self, entry: Entry) -> None:
        self._later(lambda: self._staging.emit(entry))

    def _omit(self, missing: Omission) -> None:
        self._later(lambda: self._omissions.append(missing))

    def _link(self, folder: _Folder, name: str, path: str) -> None:
        with reading():
            found = os.stat(name, dir_fd=folder.source, follow_symlinks=False)
            if not stat.S_ISLNK(found.st_mode):
                raise Replaced
            target = os.readlink(name, dir_fd=folder.source)
        os.symlink(target, name, dir_fd=folder.stored)
        self._emit(LinkEntry(self._stored(path), target, found.st_mtime_ns, found.st_uid, found.st_gid))
        if _leaves(path, target):
            self._note(path, "link kept, its target is not saved", target)

    # -- folders ---------------------------------------------------------------------------------

    def _push(self, path: str, source: int, parent: _Folder | None, name: str | Path) -> None:
        """Make the folder in staging and go into it; `source` is ours from here on."""
        above = parent.stored if parent else None
        stored = -1
        try:
            with reading():
                found = os.fstat(source)
            things = self._list(source, path)
            os.mkdir(name, 0o700, dir_fd=above)
            stored = os.open(name, FOLDER_FLAGS, dir_fd=above)
        finally:
            if stored < 0:
                os.close(source)
        self._remember(_Folder(path, iter(things), source, stored, f"{path}/" if path else ""))
        self._emit(
            DirEntry(self._stored(path), found.st_mtime_ns, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
        )
        self._look_for_mount(path, found.st_dev)

    def _remember(self, folder: _Folder) -> None:
        """Go into it; what is open besides it stays within bounds."""
        self._way.append(folder)
        self._folders.append(folder)
        if len(self._way) > MAX_OPEN + 1:
            self._way[-MAX_OPEN - 1].close()
        if self._root is None:
            self._root = folder
            folder.users = 1  # folders are opened again from here
        while self._window and self._open() > MAX_OPEN + 1 and self._window.take_some():
            pass

    def _open(self) -> int:
        if len(self._folders) > MAX_OPEN + 1:
            self._folders = [folder for folder in self._folders if folder.source >= 0]
        return len(self._folders)

    def _list(self, source: int, path: str) -> list[tuple[str, _Type]]:
        """Sorted; a listing that breaks off is an omission, what came until then is captured."""
        things: list[tuple[str, _Type]] = []
        skip = () if path else self._source.skip
        try:
            with reading(), os.scandir(source) as entries:
                for entry in entries:
                    if not skip or not any(fnmatchcase(entry.name, pattern) for pattern in skip):
                        things.append((entry.name, _listed_type(entry)))
        except SourceError as miss:
            self._omit(omission(self._source, miss, path))
        return sorted(things, key=itemgetter(0))

    def _reopened(self, folder: _Folder) -> bool:
        """Open it again from the root, name by name; False, and an omission, when it went elsewhere."""
        names = folder.path.split("/")
        root = self._root
        assert root
        try:
            folder.source = descend(root.source, names, _enter_source)
        except SourceError as miss:
            moved = SourceError(Reason.CHANGING, f"it was moved while it was read: {miss.detail}")
            self._omit(omission(self._source, moved, folder.path))
            return False
        folder.stored = descend(root.stored, names)
        return True

    def _look_for_mount(self, path: str, device: int) -> None:
        if not path:
            self._device = device
        elif device != self._device:
            self._note(path, "another file system is mounted here; captured with the rest")

    # -- words -----------------------------------------------------------------------------------

    def _stored(self, path: str) -> str:
        return self._prefix + path if path else str(self._source.stored)

    def _note(self, path: str, what: str, target: str | None = None) -> None:
        arrow = "" if target is None else f" -> {target}"
        note = printable(f"{self._source.name}/{path}{arrow}: {what}")
        self._later(lambda: self._notes.append(note))


def _store_all(shelf: Shelf, folder: _Folder, run: _Run, copier: Copier) -> _Outcomes:
    """Share or copy files of one folder; in whatever thread. What is wrong with one of them is its outcome."""
    return [_store_one(shelf, folder, file, copier) for file in run.files]


def _store_one(shelf: Shelf, folder: _Folder, file: _File, copier: Copier) -> FileEntry | Held | SourceError:
    if file.held and file.unchanged and (kept := shelf.put(file.held, folder.stored, file.name)):
        return kept
    return _copy(shelf, folder, file, copier)


def _copy(shelf: Shelf, folder: _Folder, file: _File, copier: Copier) -> FileEntry | SourceError:
    try:
        entry = copier.copy(folder.source, file.name, folder.stored, file.name).entry(file.stored)
    except SourceError as miss:
        return miss
    return shelf.exchanged(file.held, entry, folder.stored, file.name)


def _listed_type(entry: os.DirEntry[str]) -> _Type:
    if entry.is_file(follow_symlinks=False):
        return _Type.FILE
    if entry.is_dir(follow_symlinks=False):
        return _Type.FOLDER
    return _Type.LINK if entry.is_symlink() else _Type.OTHER


def _type(mode: int) -> _Type:
    return {stat.S_IFREG: _Type.FILE, stat.S_IFDIR: _Type.FOLDER, stat.S_IFLNK: _Type.LINK}.get(
        stat.S_IFMT(mode), _Type.OTHER
    )


def _leaves(path: str, target: str) -> bool:
    """Whether a link at `path` leads out of its tree, by its words alone."""
    landed = os.path.normpath(os.path.join(os.path.dirname(path), target))  # noqa: PTH118, PTH120
    return landed == ".." or landed.startswith(("/", "../"))


def _enter_source(name: str, above: int) -> int:
    return open_source(name, above, flags=os.O_DIRECTORY)
