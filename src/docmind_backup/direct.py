"""Write new files past the page cache where the file system lets us: faster, and the cache stays the application's."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from contextlib import suppress

ALIGNMENT = 4096
"""What O_DIRECT asks of offsets and lengths; a buffer begins on a page."""
DIRECT_FROM = 1024 * 1024
"""Bytes from which it pays."""
EARLY_FROM = 16 * 1024
"""Bytes from which what is in the page cache begins its way to the disk at once: the last flush waits for less."""
NEW_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECT: int = getattr(os, "O_DIRECT", 0)


def aligned_buffer(size: int) -> memoryview:
    """Writable, and on a page."""
    return memoryview(mmap.mmap(-1, size))


def set_direct(target: int, *, on: bool) -> bool:
    """Whether writing past the page cache was switched; not every file system has it."""
    flags = fcntl.fcntl(target, fcntl.F_GETFL)
    wanted = flags | _DIRECT if on else flags & ~_DIRECT
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(target, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True


def put(target: int, chunk: memoryview, offset: int, *, direct: bool) -> None:
    """Write `chunk`; `direct`: it was switched on, and only the last chunk may end off a page.

    Otherwise what is in the page cache begins its way to the disk while more is read.
    """
    tail = len(chunk) % ALIGNMENT if direct else 0
    whole = len(chunk) - tail
    write(target, chunk[:whole], offset)
    if tail:
        set_direct(target, on=False)
        write(target, chunk[whole:], offset + whole)
    if not direct and len(chunk) >= EARLY_FROM:
        with suppress(OSError):
            os.posix_fadvise(target, offset, len(chunk), os.POSIX_FADV_DONTNEED)


def write(target: int, chunk: memoryview, offset: int) -> None:
    """All of it, in the page cache where O_DIRECT turns out to be refused."""
    while chunk:
        try:
            count = os.pwrite(target, chunk, offset)
        except OSError as error:  # some refuse O_DIRECT only now, and all of them after a short write
            if error.errno != errno.EINVAL or not set_direct(target, on=False):
                raise
        else:
            chunk, offset = chunk[count:], offset + count
