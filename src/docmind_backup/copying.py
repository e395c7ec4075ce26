"""Copy one file, descriptor to descriptor, hashing on the way. Follows no link and waits for no FIFO."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from docmind_backup.core.model import FileEntry, Origin, Reason, Stored
from docmind_backup.direct import ALIGNMENT, DIRECT_FROM, NEW_FLAGS, aligned_buffer, put, set_direct
from docmind_backup.folders import descend, enter

ATTEMPTS = 3
"""Times a source that keeps changing is read before it is given up."""
BUFFER = 4 * 1024 * 1024
SMALL = 1024 * 1024
"""Bytes up to which a file is copied in one piece."""
GRAIN_NS = 10_000_000
"""Coarsest step of a file system's clock (a tick at 100 Hz): two changes within it may look like one."""
SOURCE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_ATIME: int = getattr(os, "O_NOATIME", 0)
_PATH: int = getattr(os, "O_PATH", 0)
"""To go through folders that may not be read; not on every system."""
_ZEROS = memoryview(bytes(1024 * 1024))
_VANISHED = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE}
_OTHER_KIND = {errno.ELOOP, errno.ENXIO, errno.EMLINK, errno.ENODEV}
"""What opening a link (O_NOFOLLOW), a socket or a driverless device answers."""

Version = tuple[int, int, int, int]
"""(ino, size, mtime_ns, ctime_ns): differs when a file was changed or replaced."""
T = TypeVar("T")


class SourceError(Exception):
    """Something is wrong with the source; the destination's errors stay OSError."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Replaced(SourceError):
    """It is no longer the kind of thing it was listed as."""

    def __init__(self) -> None:
        super().__init__(Reason.UNREADABLE, "it is not a regular file")


class Changed(SourceError):
    """It changed while it was read: `thrice` tries again."""

    def __init__(self) -> None:
        super().__init__(Reason.CHANGING, f"it changed each of the {ATTEMPTS} times it was read")


class reading:  # noqa: N801 - reads as a verb; a generator would cost a microsecond each time
    """An OSError inside is the source's: SourceError."""

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, OSError):
            raise _trouble(error) from error


def _trouble(error: OSError) -> SourceError:
    reason = Reason.GONE if error.errno in _VANISHED else Reason.UNREADABLE
    return SourceError(reason, error.strerror or str(error))


def open_source(name: str | Path, folder: int | None = None, *, flags: int = 0) -> int:
    """A descriptor for reading. Raises SourceError; Replaced for what is no file (no folder, if asked for)."""
    with suppress(PermissionError):  # only the owner may ask for O_NOATIME
        return _open(name, folder, flags | _NO_ATIME)
    with reading():
        return _open(name, folder, flags)


def open_resolved(path: Path, *, flags: int = 0) -> int:
    """As open_source, of a path in which links were resolved: what became one since is not followed, however high."""
    if not _PATH or not path.is_absolute():
        return open_source(path, flags=flags)
    with reading():
        top = os.open(path.anchor, _PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            folder = descend(top, path.parts[1:-1], lambda name, above: enter(name, above, flags=_PATH))
        finally:
            os.close(top)
    try:
        return open_source(path.name, folder, flags=flags)
    finally:
        os.close(folder)


def _open(name: str | Path, folder: int | None, flags: int) -> int:
    try:
        return os.open(name, SOURCE_FLAGS | flags, dir_fd=folder)
    except PermissionError:
        raise
    except OSError as error:
        if error.errno in _OTHER_KIND or (flags & os.O_DIRECTORY and error.errno == errno.ENOTDIR):
            raise Replaced from error
        raise _trouble(error) from error


def version(found: os.stat_result) -> Version:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def version_at(path: Path) -> Version | None:
    """None when there is nothing; raises SourceError."""
    with reading():
        try:
            return version(path.lstat())
        except FileNotFoundError:
            return None


def thrice(act: Callable[[], T]) -> T:
    """What `act` gives, tried again when it raises Changed."""
    for _ in range(ATTEMPTS - 1):
        with suppress(Changed):
            return act()
    return act()


@dataclass(frozen=True, slots=True)
class Copied:
    """A file as it lies in the staging folder now."""

    found: os.stat_result
    """Of the source, before it was read."""
    size: int
    sha256: str
    stored: Stored

    def entry(self, path: str, sidecars: Mapping[str, Version | None] | None = None) -> FileEntry:
        found = self.found
        return FileEntry(
            path=path,
            size=self.size,
            sha256=self.sha256,
            mtime_ns=found.st_mtime_ns,
            mode=stat.S_IMODE(found.st_mode),
            uid=found.st_uid,
            gid=found.st_gid,
            origin=Origin(found.st_dev, *version(found), sidecars=dict(sidecars or {})),
            stored=self.stored,
        )


class Copier:
    """Copies files through one buffer of its own: one of these for each thread."""

    def __init__(self, on_bytes: Callable[[int], None]) -> None:
        self.on_bytes = on_bytes
        self._buffer = aligned_buffer(BUFFER)

    def copy(self, source: int | None, name: str | Path, target: int | None, new: str | Path) -> Copied:
        """`name` in the folder `source` to the new file `new` (0400, same mtime) in the folder `target`.

        Raises SourceError, and OSError of the destination; then nothing is left there.
        """
        return thrice(lambda: self.once(source, name, target, new))

    def once(self, source: int | None, name: str | Path, target: int | None, new: str | Path) -> Copied:
        """As `copy`, but raises Changed when it changed under the reader. A Path is one whose links were resolved."""
        fd = open_resolved(name) if isinstance(name, Path) else open_source(name, source)
        try:
            return self._copy_open(fd, target, new)
        finally:
            os.close(fd)

    def _copy_open(self, source: int, folder: int | None, new: str | Path) -> Copied:
        found = _settled(source)
        if not stat.S_ISREG(found.st_mode):
            raise Replaced
        target = os.open(new, NEW_FLAGS, 0o400, dir_fd=folder)
        try:
            sha256 = self._pump(source, target, found)
            with reading():
                after = os.fstat(source)
            if version(after) != version(found):
                raise Changed
            return _finished(target, found, found.st_size, sha256)
        except BaseException:
            with suppress(OSError):
                os.unlink(new, dir_fd=folder)
            raise
        finally:
            os.close(target)

    def _pump(self, source: int, target: int, found: os.stat_result) -> str:
        """Copy exactly the size that was found, leaving holes out; Changed when there is less or more."""
        size, done = found.st_size, 0
        if size <= SMALL and found.st_blocks * 512 >= size:
            return self._pump_small(source, target, size)
        digest = hashlib.sha256()
        for start, end in _data(source, found):
            self._hash_hole(digest, start - done)
            self._copy_range(digest, source, target, start, end)
            done = end
        if done < size:
            os.ftruncate(target, size)
            self._hash_hole(digest, size - done)
        if self._fill(source, size, 1):
            raise Changed
        return digest.hexdigest()

    def _pump_small(self, source: int, target: int, size: int) -> str:
        """One read and one write: the byte too many that is asked for shows whether it grew."""
        with reading():
            count = os.preadv(source, [self._buffer[: size + 1]], 0)
        if count != size and self._fill(source, 0, size + 1) != size:
            raise Changed
        put(target, self._buffer[:size], 0, direct=False)
        self.on_bytes(size)
        return hashlib.sha256(self._buffer[:size]).hexdigest()

    def _copy_range(self, digest: hashlib._Hash, source: int, target: int, start: int, end: int) -> None:
        direct = end - start >= DIRECT_FROM and start % ALIGNMENT == 0 and set_direct(target, on=True)
        while start < end:
            count = self._fill(source, start, min(end - start, BUFFER))
            if not count:
                raise Changed
            digest.update(self._buffer[:count])
            put(target, self._buffer[:count], start, direct=direct)
            self.on_bytes(count)
            start += count

    def _fill(self, source: int, offset: int, most: int) -> int:
        """Read until the buffer holds `most` bytes or the file ends."""
        count = 0
        with reading():
            while count < most:
                got = os.preadv(source, [self._buffer[count:most]], offset + count)
                if not got:
                    break
                count += got
        return count

    def _hash_hole(self, digest: hashlib._Hash, size: int) -> None:
        while size > 0:
            count = min(size, len(_ZEROS))
            digest.update(_ZEROS[:count])
            self.on_bytes(count)
            size -= count

    def finish(self, target: Path, found: os.stat_result) -> Copied:
        """A file that an engine made at `target`, from a source found so: hashed, 0400, same mtime."""
        fd = os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            sha256, size = self.hash(fd, lambda _: self.on_bytes(0))
            os.fchmod(fd, 0o400)
            return _finished(fd, found, size, sha256)
        finally:
            os.close(fd)

    def hash(self, fd: int, on_bytes: Callable[[int], None]) -> tuple[str, int]:
        """The sha256 of a whole file, and how much that was."""
        digest, size = hashlib.sha256(), 0
        while count := os.preadv(fd, [self._buffer], size):
            digest.update(self._buffer[:count])
            size += count
            on_bytes(count)
        return digest.hexdigest(), size


def _settled(source: int) -> os.stat_result:
    """Its stat, once its last change is older than the clock's grain: a later one cannot look the same."""
    with reading():
        found = os.fstat(source)
    age = time.time_ns() - found.st_ctime_ns
    if 0 <= age < GRAIN_NS:
        time.sleep((GRAIN_NS - age) / 1e9)
        with reading():
            found = os.fstat(source)
    return found


def _data(source: int, found: os.stat_result) -> Iterator[tuple[int, int]]:
    """The ranges that are not holes, in order."""
    size, position = found.st_size, 0
    if found.st_blocks * 512 >= size:
        yield 0, size
        return
    while position < size:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
        except OSError as error:
            if error.errno != errno.ENXIO:  # ENXIO: nothing but a hole from here on
                yield position, size
            return
        if start < end:
            yield start, end
        position = max(end, position + 1)


def _finished(target: int, found: os.stat_result, size: int, sha256: str) -> Copied:
    os.utime(target, ns=(found.st_mtime_ns, found.st_mtime_ns))
    kept = os.fstat(target)
    return Copied(found, size, sha256, Stored(kept.st_ino, kept.st_mtime_ns))
