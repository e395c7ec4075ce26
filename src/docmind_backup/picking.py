"""Take single files out of a backup, into a folder beside all that lives. Replaces nothing that is there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, takewhile
from pathlib import Path, PurePosixPath

from docmind_backup import durable, plain
from docmind_backup.bringing import stored_at
from docmind_backup.catalog import reading
from docmind_backup.copying import Copier, SourceError
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, DirEntry, Entry, FileEntry, LinkEntry
from docmind_backup.core.proposing import command
from docmind_backup.core.restore import SIDECARS
from docmind_backup.core.selection import destinations, wanted_files
from docmind_backup.errors import BackupError, DamageFound, NoSuchBackup, UsageError
from docmind_backup.opening import Opened, check_inventory, entries
from docmind_backup.reach import lexists, lstat, near
from docmind_backup.restoring import target_errors

FULL = "free some space, then give it again; nothing was left there"
NAMED = 5
"""Paths that are named at most."""
ELSEWHERE = "give --to another folder"
_SUFFIXES = tuple(suffix for suffixes in SIDECARS.values() for suffix in suffixes)


@dataclass(frozen=True, slots=True)
class Picked:
    """What was taken out."""

    backup_id: str
    to: Path
    paths: tuple[str, ...]
    """Files and links, relative to `to`."""
    bytes: int
    damaged: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        return 3 if self.damaged else 0


def pick(
    opened: Opened,
    names: Sequence[str],
    to: Path,
    *,
    in_use: Sequence[Path],
    skip_damaged: bool,
    dry_run: bool = False,
) -> Picked:
    """Copy files and folders of the backup, by their path in it, below `to`: hashed, with mode and time, flushed.

    `in_use`: folders that nothing may come to lie in. Raises UsageError for that, when one is not there, or when
    something lies in the way, DamageFound; then nothing was written.
    """
    backup = opened.backup
    wanted = wanted_files(backup.record, names)
    with reading(backup.directory), target_errors(to, full=FULL):
        listed = [
            (entry, goes) for entry in entries(opened) or _entries(backup) for goes in destinations(entry.path, wanted)
        ]
        _refuse_missing(backup, names, [goes for _, goes in listed])
        _refuse_in_use(to, [goes for _, goes in listed], in_use)
        found = [(entry, to / goes) for entry, goes in listed]
        if lexists(str(to)):
            _refuse_links(to, (goes for _, goes in wanted))
            _refuse_what_is_there(found)
        damaged = _damaged(backup, found)
        if damaged and not skip_damaged:
            raise DamageFound(
                f"the backup is damaged: {'; '.join(damaged)}; nothing was written",
                hint="--skip-damaged leaves these files out",
            )
        left_out = frozenset(damaged)
        come = [(entry, path) for entry, path in found if fmt.printable(entry.path) not in left_out]
        if not dry_run:
            _bring(backup, to, come)
        return _picked(backup, to, come, damaged)


def _picked(backup: Backup, to: Path, come: Sequence[tuple[Entry, Path]], damaged: tuple[str, ...]) -> Picked:
    paths = tuple(str(path.relative_to(to)) for entry, path in come if not isinstance(entry, DirEntry))
    return Picked(backup.id, to, paths, sum(e.size for e, _ in come if isinstance(e, FileEntry)), damaged)


def _entries(backup: Backup) -> Iterator[Entry]:
    check_inventory(backup)
    try:
        with plain.opened(backup.directory / fmt.INVENTORY) as lines:
            while line := lines.readline(fmt.LINE_LIMIT):
                yield fmt.read_entry(line)
    except ValueError as error:
        raise DamageFound(
            f"the inventory of {backup.directory} is damaged: {error}", hint=command("verify", backup.directory)
        ) from error


def _refuse_missing(backup: Backup, names: Sequence[str], found: Sequence[str]) -> None:
    for name in (name.strip("/") for name in names):
        if not any(path == name or path.startswith(f"{name}/") for path in found):
            raise NoSuchBackup(
                f"{backup.id} does not hold {name}", hint=f"its files are listed in {backup.directory / fmt.SUMS}"
            )


def _refuse_in_use(to: Path, found: Sequence[str], in_use: Iterable[Path]) -> None:
    real = os.path.realpath(to).rstrip("/")
    places = (real, *(f"{real}/{goes}" for goes in found))
    for folder in in_use:
        inside = f"{os.path.realpath(folder)}/"
        if there := next((place for place in places if f"{place}/".startswith(inside)), ""):
            raise UsageError(
                f"{there} would lie in {folder}, which is in use itself; nothing was written",
                hint="give --to a folder elsewhere, and move them yourself",
            )


def _refuse_links(to: Path, found: Iterable[str]) -> None:
    """On the way from `to` to what was asked for: nobody knows where they lead by then."""
    for path in {to / parent for goes in found for parent in PurePosixPath(goes).parents if parent.name}:
        if path.is_symlink():
            raise UsageError(f"{path} is a link; nothing was written", hint=ELSEWHERE)


def _refuse_what_is_there(found: Sequence[tuple[Entry, Path]]) -> None:
    for entry, path in found:
        for words in _in_the_way(entry, str(path)):
            raise UsageError(f"{words}; nothing was written", hint=ELSEWHERE)


def _in_the_way(entry: Entry, path: str) -> Iterator[str]:
    """What lies there, in words; for a file also what a database engine would take it together with."""
    if lexists(path) and not (isinstance(entry, DirEntry) and stat.S_ISDIR(lstat(path).st_mode)):
        yield f"{path} is there already"
    for suffix in _SUFFIXES if isinstance(entry, FileEntry) else ():
        if lexists(path + suffix):
            yield f"{path}{suffix} is there already and would be taken for a part of {Path(path).name}"
        if path.endswith(suffix) and lexists(path.removesuffix(suffix)):
            yield f"{path} would be taken for a part of {path.removesuffix(suffix)}, which is there already"


def _damaged(backup: Backup, found: Sequence[tuple[Entry, Path]]) -> tuple[str, ...]:
    copier = Copier(lambda _: None)
    files = {entry.path: entry for entry, _ in found if isinstance(entry, FileEntry)}
    return tuple(
        fmt.printable(entry.path)
        for entry in files.values()
        if not _is_sound(entry, _digest(backup.directory / entry.path, copier))
    )


def _is_sound(entry: FileEntry, digest: str) -> bool:
    """Where nobody wrote down a sum, it is enough that it can be read."""
    return digest == entry.sha256 if entry.sha256 else bool(digest)


def _digest(path: Path, copier: Copier) -> str:
    try:
        with near(str(path)) as (folder, name):
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        return ""
    try:
        return copier.hash(fd, copier.on_bytes)[0]
    except OSError:
        return ""
    finally:
        os.close(fd)


def _bring(backup: Backup, to: Path, come: Sequence[tuple[Entry, Path]]) -> None:
    with _all_or_nothing() as made:
        _make_folders(to, made)
        flusher = durable.Flusher(to)
        try:
            _put_all(backup, come, made)
            flusher.flush(to)
        finally:
            flusher.close()


@contextmanager
def _all_or_nothing() -> Iterator[list[Path]]:
    """Whatever is added is made within this; it is removed again when that does not come to its end."""
    made: list[Path] = []
    try:
        yield made
    except BaseException as error:
        if left := _remove(made):
            raise BackupError(
                f"{error}; what had been put there already could not be removed: {', '.join(left[:NAMED])}",
                hint="remove it, then give the command again",
            ) from error
        raise


def _remove(made: Sequence[Path]) -> list[str]:
    """Newest first, folders only when they are empty; what is still there."""
    folders = {path for path in made if stat.S_ISDIR(_mode(path))}
    for path in folders:
        with suppress(OSError), near(str(path)) as (above, name):
            os.chmod(name, 0o700, dir_fd=above)
    for path in reversed(made):
        with suppress(OSError), near(str(path)) as (above, name):
            (os.rmdir if path in folders else os.unlink)(name, dir_fd=above)
    return [fmt.printable(str(path)) for path in made if lexists(str(path))]


def _mode(path: Path) -> int:
    try:
        return lstat(str(path)).st_mode
    except OSError:
        return 0


def _make_folders(path: Path, made: list[Path]) -> None:
    """With those above it that are missing."""
    missing = takewhile(lambda one: not lexists(str(one)), chain((path,), path.parents))
    for folder in reversed(list(missing)):
        with _new(folder, made) as (above, name):
            os.mkdir(name, dir_fd=above)


@contextmanager
def _new(path: Path, made: list[Path]) -> Iterator[tuple[int | None, str]]:
    """`path` as system calls take it, to make it; noted before, so that no signal comes in between."""
    with near(str(path)) as new:
        made.append(path)
        try:
            yield new
        except FileExistsError:
            made.pop()  # somebody else's
            raise


def _put_all(backup: Backup, come: Sequence[tuple[Entry, Path]], made: list[Path]) -> None:
    """Folders get their modes and times when they are full; one that was there keeps its own."""
    copier, new = Copier(lambda _: None), list[tuple[DirEntry, Path]]()
    for entry, path in come:
        _make_folders(path.parent, made)
        if not isinstance(entry, DirEntry):
            _put(backup, entry, path, copier, made)
        elif not lexists(str(path)):
            with _new(path, made) as (folder, name):
                os.mkdir(name, 0o700, dir_fd=folder)
            new.append((entry, path))
    for entry, path in reversed(new):
        with near(str(path)) as (folder, name):
            os.chmod(name, entry.mode, dir_fd=folder)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder)


def _put(backup: Backup, entry: FileEntry | LinkEntry, path: Path, copier: Copier, made: list[Path]) -> None:
    with _new(path, made) as (folder, name):
        match entry:
            case LinkEntry():
                os.symlink(entry.target, name, dir_fd=folder)
            case FileEntry():
                _put_file(backup, entry, (folder, name), copier)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=folder, follow_symlinks=False)


def _put_file(backup: Backup, entry: FileEntry, new: tuple[int | None, str], copier: Copier) -> None:
    try:
        with stored_at(f"{backup.directory}/{entry.path}") as old:
            copied = copier.copy(*old, *new)
    except SourceError as miss:
        raise DamageFound(f"{fmt.printable(entry.path)}: {miss.detail}", hint="verify the backup") from miss
    if entry.sha256 and copied.sha256 != entry.sha256:
        raise DamageFound(f"{fmt.printable(entry.path)} changed while it was read", hint="verify the backup")
    os.chmod(new[1], entry.mode, dir_fd=new[0])
