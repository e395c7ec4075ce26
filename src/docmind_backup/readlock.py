"""Hold a database file against writers while it is read. Takes read locks only, and never creates a file."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docmind_backup.copying import Replaced, SourceError, open_resolved, reading
from docmind_backup.core.model import Reason

POLL_S = 0.01
Range = tuple[int, int]
"""First byte and length; length 0: to the end."""
DUCKDB: tuple[Range, ...] = ((0, 0),)
SQLITE: tuple[Range, ...] = ((0x4000_0000, 1), (0x4000_0002, 510))
"""PENDING and SHARED, in the order in which SQLite's own readers take them (https://www.sqlite.org/lockingv3.html)."""
_OFD_SETLK: int | None = getattr(fcntl, "F_OFD_SETLK", None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a lock of another process."""

    seconds: float
    on_bytes: Callable[[int], None]
    """Called with 0 meanwhile, so that what it raises gets out."""

    def tries(self) -> Iterator[None]:
        """One turn at once, and others until the time is over."""
        deadline = time.monotonic() + self.seconds
        yield
        while time.monotonic() < deadline:
            self.on_bytes(0)
            time.sleep(POLL_S)
            yield

    def over(self) -> SourceError:
        return SourceError(Reason.BUSY, f"another process has it locked (waited {self.seconds:g} s)")


class ReadLock:
    """While held, no process has DuckDB's file open for writing, or closes or changes SQLite's journal.

    The lock belongs to the open file: other descriptors of it being closed in this process do not drop it. Where
    there are no such locks, DuckDB's file is locked by process and SQLite's not at all.
    """

    def __init__(self, path: Path, ranges: tuple[Range, ...], patience: Patience) -> None:
        """Waits for writers; raises SourceError: BUSY, GONE, UNREADABLE."""
        self.fd = open_resolved(path)
        self._ranges = ranges
        try:
            if not stat.S_ISREG(self.found().st_mode):
                raise Replaced
            self._acquire(patience)
        except BaseException:
            os.close(self.fd)
            raise

    def found(self) -> os.stat_result:
        with reading():
            return os.fstat(self.fd)

    def release(self) -> None:
        for part in self._ranges:
            _set(self.fd, fcntl.F_UNLCK, part)

    def __enter__(self) -> ReadLock:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def _acquire(self, patience: Patience) -> None:
        for _ in patience.tries():
            if all(_set(self.fd, fcntl.F_RDLCK, part) for part in self._ranges):
                return
            self.release()
        raise patience.over()


def _set(fd: int, kind: int, part: Range) -> bool:
    """False when another process holds a lock that excludes it."""
    with reading():
        try:
            if _OFD_SETLK is not None:
                fcntl.fcntl(fd, _OFD_SETLK, struct.pack("hhqqi0q", kind, os.SEEK_SET, *part, 0))
            elif part in DUCKDB:
                fcntl.lockf(fd, fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
    return True
