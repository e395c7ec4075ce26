"""Copy sources of a backup to where they wait for the swap, each byte hashed on its way. Nothing live is touched."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from docmind_backup import plain
from docmind_backup.copying import BUFFER, SMALL, Copier, SourceError, open_source, reading
from docmind_backup.core import format as fmt
from docmind_backup.core.journal import Piece
from docmind_backup.core.model import (
    Advanced,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    OnEvent,
    Part,
    RunStarted,
    StepFinished,
    StepStarted,
)
from docmind_backup.core.proposing import command
from docmind_backup.crew import LIGHT, Crew, Teller, Window
from docmind_backup.errors import DamageFound, Stopped
from docmind_backup.reach import near
from docmind_backup.sharing import FAILURES, FICLONE, clone

RUN_FILES = 64
"""Files that are copied together at most: handing one over costs as much as copying a small one."""
LOCKED = (Part.STORAGE, Part.QDRANT)
"""Trees with a `.lock` of the application's, which no backup holds."""
WHOLE = (Kind.FILE, Kind.SQLITE, Kind.DUCKDB, Kind.EMBEDDED)
"""What is brought back as a whole or not at all."""
_SIZE = re.compile(rb'"type":"file","size":(\d+),')
_ROOT = os.geteuid() == 0


@dataclass(frozen=True, slots=True)
class Damage:
    """A file of the backup that is not what its record says."""

    path: str
    what: str

    def __str__(self) -> str:
        return fmt.printable(f"{self.path}: {self.what}")


@dataclass(slots=True)
class Brought:
    """One source, staged."""

    piece: Piece
    suffixes: list[str] = field(default_factory=list[str])
    """What lies there: the root (an empty suffix) and a database's sidecars."""
    damaged: list[Damage] = field(default_factory=list[Damage])
    whole: bool = True
    """False: it is not to be swapped in, nothing of it is staged any more."""


def bring(directory: Path, inventory: Path, pieces: tuple[Piece, ...], on_event: OnEvent) -> tuple[Brought, ...]:
    """Stage every piece with its modes, times and (as root) owners; what is damaged is named and left out.

    Raises DamageFound when the inventory itself cannot be trusted, OSError of the target's file systems.
    """
    teller = Teller(on_event)
    teller(RunStarted(sum(piece.bytes for piece in pieces), 0, 0))
    try:
        with Crew() as crew:
            return tuple(_Bringing(directory, inventory, piece, crew, teller).all() for piece in pieces)
    except Stopped:
        assert teller.failure
        raise teller.failure from None


def entries(
    inventory: Path, piece: Piece, wanted: Callable[[bytes], bool] = lambda _: True
) -> Iterator[tuple[str, Entry]]:
    """(path below the piece's root, entry), from the inventory's lines; DamageFound when one is missing or not its."""
    first, length = piece.lines
    try:
        with plain.opened(inventory) as lines:
            lines.seek(first)
            while length > 0:
                line = lines.readline(fmt.LINE_LIMIT)
                if not line:
                    raise ValueError(f"it ends within {piece.stored}")
                length -= len(line)
                if not wanted(line):
                    continue
                entry = fmt.read_entry(line)
                if not entry.path.startswith(piece.stored):
                    raise ValueError(f"{fmt.printable(entry.path)} is not of {piece.stored}")
                yield entry.path[len(piece.stored) :], entry
    except (OSError, ValueError) as error:
        raise DamageFound(f"{inventory} cannot be used: {error}", hint=command("verify", inventory.parent)) from error


_Outcomes = list[Damage]
_Name = tuple[int | None, str]
"""As reach.near has it."""


def _is_small(line: bytes) -> bool:
    """Whether an inventory's line is plainly a small file's (a quote within a path is escaped)."""
    return bool((size := _SIZE.search(line)) and int(size[1]) <= SMALL)


@dataclass(slots=True)
class _Large:
    """Files that go among the small ones evenly: the disk writes these while the cores are busy with those."""

    bytes: int = 0
    _given: int = 0
    _waiting: deque[FileEntry] = field(default_factory=deque[FileEntry])

    def add(self, entry: FileEntry) -> None:
        self.bytes += entry.size
        self._waiting.append(entry)

    def due(self, share: float) -> Iterator[FileEntry]:
        """Those whose turn it is when such a share (0 to 1) of the small ones was given."""
        while self._waiting and self._given <= share * self.bytes:
            entry = self._waiting.popleft()
            self._given += entry.size
            yield entry


class _Bringing:
    """One piece on its way."""

    def __init__(self, directory: Path, inventory: Path, piece: Piece, crew: Crew, teller: Teller) -> None:
        self._directory = directory
        self._inventory = inventory
        self._piece = piece
        self._tell = teller
        self._window: Window = crew.window(lambda count: teller(Advanced(count)))
        self._folders: dict[str, DirEntry] = {}
        """Those that were made, by their path below the root: nothing is put anywhere else."""
        self._run: list[FileEntry] = []
        self._run_bytes = 0
        self._large = _Large()
        self._small_bytes = 0
        self._files = 0
        self._clones = True
        self._brought = Brought(piece)

    def all(self) -> Brought:
        piece = self._piece
        self._tell(StepStarted(piece.stored))
        Path(piece.staged()).parent.mkdir(mode=0o700, parents=True)
        try:
            for rest, entry in entries(self._inventory, piece, lambda line: not _is_small(line)):
                self._one(rest, entry)
            for rest, entry in entries(self._inventory, piece, _is_small):
                self._one(rest, entry)
            self._send()
            self._give_large(1.0)
            self._window.finish()
        finally:
            self._window.abandon_unless_done()
        self._finish()
        outcome = "damaged" if self._brought.damaged else ""
        self._tell(StepFinished(piece.stored, self._files, piece.bytes, outcome))
        return self._brought

    def _one(self, rest: str, entry: Entry) -> None:
        if "/" not in rest:
            self._brought.suffixes.append(rest)
        elif rest.rpartition("/")[0] not in self._folders:
            raise DamageFound(
                f"the inventory puts {fmt.printable(entry.path)} into what is no folder",
                hint=command("verify", self._directory),
            )
        match entry:
            case DirEntry():
                with near(self._piece.staged(rest)) as (into, name):
                    os.mkdir(name, 0o700, dir_fd=into)
                self._folders[rest] = entry
            case LinkEntry():
                with near(self._piece.staged(rest)) as (into, name):
                    os.symlink(entry.target, name, dir_fd=into)
                    _dress(into, name, entry)
            case FileEntry() if entry.size > SMALL:
                self._large.add(entry)
            case FileEntry():
                self._later(entry)

    def _later(self, entry: FileEntry) -> None:
        light = entry.size <= LIGHT
        if self._run and light != (self._run[0].size <= LIGHT):
            self._send()
        self._run.append(entry)
        self._run_bytes += entry.size
        if len(self._run) >= RUN_FILES or self._run_bytes >= BUFFER:
            self._send()

    def _send(self) -> None:
        run, size = self._run, self._run_bytes
        self._run, self._run_bytes = [], 0
        if run:
            self._give(run, size, light=run[0].size <= LIGHT)
            self._small_bytes += size
            self._give_large(self._small_bytes / max(1, self._piece.bytes - self._large.bytes))

    def _give_large(self, share: float) -> None:
        for entry in self._large.due(share):
            self._give([entry], entry.size, light=False)

    def _give(self, run: list[FileEntry], size: int, *, light: bool) -> None:
        self._window.give(partial(self._copy_all, run), self._take, size, len(run), light=light)
        self._files += len(run)

    def _take(self, result: Callable[[], _Outcomes]) -> None:
        self._brought.damaged += result()

    # -- one file, in whatever thread

    def _copy_all(self, run: list[FileEntry], copier: Copier) -> _Outcomes:
        found = (self._copy(entry, copier) for entry in run)
        return [damage for damage in found if damage]

    def _copy(self, entry: FileEntry, copier: Copier) -> Damage | None:
        source, target = f"{self._directory}/{entry.path}", self._piece.staged(entry.path[len(self._piece.stored) :])
        try:
            with stored_at(source) as old, near(target) as new:
                size, sha256, mtime_ns = self._cloned(entry, old, new, copier) or _copied(old, new, copier)
                if (size, sha256) == (entry.size, entry.sha256):
                    _dress(*new, entry, timed=mtime_ns == entry.mtime_ns)
                    return None
                os.unlink(new[1], dir_fd=new[0])
        except SourceError as miss:
            return Damage(entry.path, miss.detail)
        return Damage(entry.path, "its content changed (sha256)" if size == entry.size else "its size changed")

    def _cloned(self, entry: FileEntry, old: _Name, new: _Name, copier: Copier) -> tuple[int, str, None] | None:
        """Size and sha256 of a clone, whose time is none that counts; None where none can be made: then never again."""
        if not self._clones or entry.size <= LIGHT:
            return None
        (folder, name), (into, target) = old, new
        fd = open_source(name, folder)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            made = os.open(target, flags, 0o400, dir_fd=into)
            try:
                clone(made, FICLONE, fd)
                sha256, size = copier.hash(made, copier.on_bytes)
            except BaseException as error:
                os.unlink(target, dir_fd=into)
                if not isinstance(error, OSError) or error.errno in FAILURES:
                    raise
                self._clones = False
                return None
            finally:
                os.close(made)
        finally:
            os.close(fd)
        return size, sha256, None

    # -- when all is there

    def _finish(self) -> None:
        piece, brought = self._piece, self._brought
        if brought.damaged and piece.kind in WHOLE:
            self._withdraw()
            return
        if "" in self._folders and piece.part in LOCKED:
            os.close(os.open(piece.staged("/.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
        for rest, entry in reversed(self._folders.items()):
            with near(piece.staged(rest)) as (into, name):
                _dress(into, name, entry)

    def _withdraw(self) -> None:
        from docmind_backup.catalog import remove

        for suffix in self._brought.suffixes:
            with suppress(FileNotFoundError):
                remove(Path(self._piece.staged(suffix)))
        self._brought.suffixes.clear()
        self._brought.whole = False


def stored_at(path: str) -> near:
    """Where a file of the backup lies; trouble on the way there is the backup's: SourceError."""
    with reading():
        return near(path)


def _copied(old: _Name, new: _Name, copier: Copier) -> tuple[int, str, int]:
    """Size, sha256 and time, which is the stored file's."""
    copied = copier.copy(*old, *new)
    return copied.size, copied.sha256, copied.stored.mtime_ns


def _dress(folder: int | None, name: str, entry: Entry, *, timed: bool = False) -> None:
    """Owner, mode and time as recorded; `timed`: it has the time. The owner first, a change of it cuts the mode."""
    if _ROOT and (entry.uid or entry.gid):  # only root can give files away
        with suppress(PermissionError):  # a container's root may not know that user
            os.chown(name, entry.uid, entry.gid, dir_fd=folder, follow_symlinks=False)
    if not isinstance(entry, LinkEntry):
        os.chmod(name, entry.mode, dir_fd=folder)
    if not timed:
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)
