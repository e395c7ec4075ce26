"""Put a stored file of an earlier backup into this one without copying it: a clone where there are any, else a link.

Only ever between two backups, never with a source. Why and when: docs/adr/0011-sharing.md.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from docmind_backup import plain
from docmind_backup.catalog import reading
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, FileEntry, Stored
from docmind_backup.core.sharing import EarlierCollection, EarlierSource, Held, still_stored, unchanged
from docmind_backup.folders import descend

FICLONE = 0x4004_9409
"""linux/fs.h: make one file share another's blocks (ioctl_ficlone(2))."""
clone = fcntl.ioctl
FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}
"""What cloning answers when it is the destination's trouble; anything else: it cannot clone."""
NO_LINK = {
    errno.EMLINK,
    errno.EXDEV,
    errno.EPERM,
    errno.EACCES,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOENT,
    errno.ENAMETOOLONG,
}
"""What linking answers when the file has to be copied; anything else is the destination's trouble."""


NOWHERE = (-1, -1)
"""Device and inode of what has no source on this machine."""
LINES = 64 * 1024
"""Bytes of an inventory that are read at once."""


class _Earlier:
    """An earlier backup, opened; its inventory is the one its record vouches for."""

    def __init__(self, backup: Backup) -> None:
        self.backup = backup
        self.inventory = backup.directory / fmt.INVENTORY
        self._folder = os.open(backup.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._near: dict[int, tuple[str, int]] = {}
        """The folder that each thread asked for last: files come folder by folder."""

    def parent(self, path: str) -> tuple[int, str]:
        """A descriptor of the folder that `path` lies in, no link on the way to it, and the last name. OSError."""
        above, _, name = path.rpartition("/")
        me = threading.get_ident()
        near = self._near.get(me)
        if near is None or near[0] != above:
            folder = descend(self._folder, above.split("/") if above else ())
            self._near[me] = (above, folder)
            if near:
                os.close(near[1])
            return folder, name
        return near[1], name

    def close(self) -> None:
        for folder in (self._folder, *(fd for _, fd in self._near.values())):
            os.close(folder)
        self._near.clear()


class Sharing:
    """What one run shares with: each earlier backup is opened once, and nobody removes it meanwhile."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._opened: dict[Path, _Earlier | None] = {}
        self._clones = True
        self._one = threading.Lock()
        self.notes: list[str] = []

    def __enter__(self) -> Sharing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def shelf(self, earlier: EarlierSource | None) -> Shelf:
        """What may be shared of one source; an empty shelf when nothing may."""
        opened = self._open(earlier.backup) if earlier else None
        shelf = Shelf(self, earlier, opened) if earlier and opened else Shelf(self, None, None)
        self._stack.callback(shelf.close)
        return shelf

    def exchange(self, earlier: EarlierCollection | None, entry: FileEntry, target: Path) -> FileEntry:
        """`entry`, lying at `target`, or what the earlier backup holds in its place when that is the same bytes."""
        opened = self._open(earlier.backup) if earlier else None
        if not (earlier and opened) or earlier.collection.sha256 != entry.sha256:
            return entry
        lines = _between(opened.inventory, [source.lines for source in earlier.backup.record.sources])
        held = next((held for held in self.held(opened, lines) if held.path == earlier.collection.path), None)
        return self.exchanged(held, opened, entry, None, target)

    def held(self, opened: _Earlier, lines: Iterable[list[bytes]]) -> Generator[Held, None, None]:
        """The files of some lines of an inventory; where it turns out to be none, nothing more is shared."""
        try:
            yield from _files(lines)
        except (ValueError, OverflowError, OSError) as error:
            self.notes.append(
                f"no more is shared with {opened.backup.id}: its {fmt.INVENTORY} cannot be read ({error})"
            )

    def used(self) -> tuple[Backup, ...]:
        """The backups that something may have been shared with."""
        return tuple(opened.backup for opened in self._opened.values() if opened)

    def _open(self, backup: Backup) -> _Earlier | None:
        with self._one:
            if backup.directory not in self._opened:
                try:
                    self._opened[backup.directory] = self._opened_now(backup)
                except OSError as error:
                    self._opened[backup.directory] = None
                    self.notes.append(f"nothing is shared with {backup.id}: {error.strerror or error}")
        return self._opened[backup.directory]

    def _opened_now(self, backup: Backup) -> _Earlier:
        inventory = backup.directory / fmt.INVENTORY
        if plain.sha256(inventory) != backup.record.digests.get(fmt.INVENTORY):
            raise OSError(errno.EIO, f"its {fmt.INVENTORY} is damaged; `docmind-backup verify {backup.id}`")
        self._stack.enter_context(reading(backup.directory))
        opened = _Earlier(backup)
        self._stack.callback(opened.close)
        return opened

    # -- sharing one file

    def exchanged(
        self, held: Held | None, opened: _Earlier, entry: FileEntry, into: int | None, name: str | Path
    ) -> FileEntry:
        """`entry`, a file just written to `name`, shared instead where `held` is the same bytes."""
        if held is None or (held.fields["sha256"], held.fields["size"]) != (entry.sha256, entry.size):
            return entry
        if not entry.size:
            return entry
        beside = f".sharing-{threading.get_ident()}"
        target = into if into is not None else os.open(Path(name).parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            source = (entry.origin.dev, entry.origin.ino) if entry.origin else NOWHERE
            stored = self.put(held, opened, target, beside, entry.mtime_ns, source)
            if stored is None:
                return entry
            os.rename(beside, Path(name).name if into is None else name, src_dir_fd=target, dst_dir_fd=target)
        finally:
            if into is None:
                os.close(target)
        return replace(entry, stored=stored, shared=True)

    def put(
        self, held: Held, opened: _Earlier, into: int, name: str, mtime_ns: int, source: tuple[int, int]
    ) -> Stored | None:
        """The stored file of `held` as `name` in `into`; None when it is not as it was hashed, or cannot be shared.

        A clone has the time of its source, a link that of the file it is. Never a link to the `source` (device and
        inode), whoever put one into that backup.
        """
        try:
            folder, last = opened.parent(held.path)
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode) or (found.st_dev, found.st_ino) == source:
            return None
        if not still_stored(held.fields, (found.st_ino, found.st_size, found.st_mtime_ns)):
            return None
        if self._clones:
            cloned = self._clone(last, folder, into, name, mtime_ns)
            if cloned:
                return cloned
        try:
            os.link(last, name, src_dir_fd=folder, dst_dir_fd=into, follow_symlinks=False)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            return None
        return Stored(found.st_ino, found.st_mtime_ns)

    def _clone(self, path: str, folder: int, into: int, name: str, mtime_ns: int) -> Stored | None:
        """None where the file system cannot; then it is not asked again."""
        try:
            source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return None
        try:
            target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=into)
            try:
                clone(target, FICLONE, source)
                os.utime(target, ns=(mtime_ns, mtime_ns))
                kept = os.fstat(target)
                return Stored(kept.st_ino, kept.st_mtime_ns)
            except BaseException as error:
                with suppress(OSError):
                    os.unlink(name, dir_fd=into)
                if not isinstance(error, OSError) or error.errno in FAILURES:
                    raise
                self._clones = False
                return None
            finally:
                os.close(target)
        finally:
            os.close(source)


class Shelf:
    """One source as an earlier backup holds it."""

    def __init__(self, sharing: Sharing, earlier: EarlierSource | None, opened: _Earlier | None) -> None:
        self._sharing = sharing
        self._earlier = earlier
        self._opened = opened
        self._before_ns = earlier.before_ns if earlier else 0
        self._files = self._read()
        self._held: Held | None = None
        self._key = ""
        self._all: dict[str, Held] | None = None

    def close(self) -> None:
        self._files.close()

    def next(self, path: str) -> Held | None:
        """The file stored at `path`. Asked in the order of a walk, in which the inventory is: one line is kept."""
        if self._held is None or self._held.path != path:
            wanted = path.replace("/", "\0")
            while self._key < wanted and (held := next(self._files, None)) is not None:
                self._held, self._key = held, held.path.replace("/", "\0")
            if self._key != wanted:
                return None
        return self._held

    def any(self, path: str) -> Held | None:
        """The file stored at `path`, asked in any order: for sources of a few files."""
        if self._all is None:
            self._all = {held.path: held for held in self._read()}
        return self._all.get(path)

    def mentions(self, name: str) -> bool:
        """The earlier backup says something of the source `name` (damaged, not checked): sharing would not say it."""
        return self._earlier is not None and self._earlier.mentions(name)

    def is_unchanged(self, held: Held, found: os.stat_result) -> bool:
        """Whether nothing was written to a source since; `found`: its lstat."""
        seen = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return unchanged(held.fields, seen, self._before_ns) and stat.S_ISREG(found.st_mode)

    def put(self, held: Held, into: int, name: str) -> Held | None:
        """The unchanged file as `name` in `into`, and what the inventory says of it; None: it has to be copied."""
        if self._opened is None:
            return None
        origin = held.fields["origin"]
        source = (origin["dev"], origin["ino"])
        stored = self._sharing.put(held, self._opened, into, name, held.fields["mtime_ns"], source)
        if stored is None:
            return None
        kept = [stored.ino, stored.mtime_ns]
        if kept == held.fields["stored"]:
            return held
        fields = {**held.fields, "stored": kept}
        return held._replace(line=fmt.json_line(fields), fields=fields)

    def exchanged(self, held: Held | None, entry: FileEntry, into: int | None, name: str | Path) -> FileEntry:
        """`entry`, a file just copied to `name` (in `into`), shared instead where `held` is the same bytes."""
        if self._opened is None:
            return entry
        return self._sharing.exchanged(held, self._opened, entry, into, name)

    def _read(self) -> Generator[Held, None, None]:
        if self._earlier is None or self._opened is None:
            return
        lines = _segment(self._opened.inventory, *self._earlier.source.lines)
        yield from self._sharing.held(self._opened, lines)


def sharers(directory: Path, paths: Iterable[str], backups: Iterable[Backup]) -> tuple[Backup, ...]:
    """Those of `backups` that hold one of the files at `paths` in `directory` as the same file on the disk."""
    inodes = {path: found for path in paths if (found := _inode(directory / path)) and found[2] > 1}
    return tuple(b for b in backups if b.directory != directory and any(_has(b, *item) for item in inodes.items()))


def _has(backup: Backup, path: str, inode: tuple[int, int, int]) -> bool:
    """A shared file has the same path in both; a collection snapshot is named anew each time."""
    snapshots = [taken.path for taken in backup.record.qdrant.collections] if backup.record.qdrant else []
    return any(_inode(backup.directory / one) == inode for one in (path, *snapshots))


def _inode(path: Path) -> tuple[int, int, int] | None:
    """Device, inode and number of names of a file; None when it is none."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_nlink) if stat.S_ISREG(found.st_mode) else None


def _files(lines: Iterable[list[bytes]]) -> Iterator[Held]:
    """What of some lines of an inventory is a file, as this tool writes it: such a line can be taken over as it is.

    Parsed many at a time, which takes half as long.
    """
    for some in lines:
        ours = [line for line in some if fmt.FILE_LINE.fullmatch(line)]
        for line, fields in zip(ours, json.loads(b"[%b]" % b",".join(ours)), strict=True):
            yield Held(fmt.read_path(fields), fields["size"], line, fields)


def _segment(inventory: Path, offset: int, length: int) -> Iterator[list[bytes]]:
    """The lines of a part of an inventory, some at a time."""
    with plain.opened(inventory) as lines:
        lines.seek(offset)
        end = offset + length
        while (left := end - lines.tell()) > 0 and (block := lines.read(min(left, LINES))):
            rest = b"" if block.endswith(b"\n") else lines.readline(fmt.LINE_LIMIT)
            yield (block + rest).splitlines(keepends=True)


def _between(inventory: Path, segments: list[tuple[int, int]]) -> Iterator[list[bytes]]:
    """The lines that are in none of the segments."""
    end, size = 0, inventory.stat().st_size
    for offset, length in sorted((*segments, (size, 0))):
        yield from _segment(inventory, end, offset - end)
        end = offset + length
