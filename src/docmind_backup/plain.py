"""Open a file for reading only where it is one: no link is followed, and no pipe waited for."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path


def opened(path: Path) -> io.BufferedReader:
    """The regular file at `path`, whatever was put in its place. Raises OSError; EINVAL where it is none."""
    fd = descriptor(path, os.O_RDONLY)
    try:
        return os.fdopen(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def descriptor(path: Path, access: int) -> int:
    """The same as a descriptor; `access`: O_RDONLY or O_RDWR."""
    fd = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return fd


def sha256(path: Path) -> str:
    """Of the regular file at `path`. Raises OSError."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
