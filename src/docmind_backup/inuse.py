"""Find out who uses an environment, and keep the application out while its files change hands. Opens no database."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from docmind_backup.catalog import holder
from docmind_backup.core.model import Kind
from docmind_backup.errors import Locked

WHOLE_FILE = (0, 0)
"""First byte and length (0: to the end): DuckDB locks all of its file while it is open."""
SHM_IN_USE = (128, 1)
"""Of a `-shm`: each connection to a SQLite database in WAL mode holds it, also an idle one (wal.c, WAL_LOCK DMS)."""
SQLITE_BUSY = (0x4000_0000, 512)
"""Of the file itself: PENDING, RESERVED and SHARED, held within a transaction (lockingv3.html)."""
SIDECARS = ("", "-wal", "-shm", "-journal", ".wal")
_GETLK: int | None = getattr(fcntl, "F_OFD_GETLK", None) if sys.platform == "linux" else None
_FLOCK = "hhqqi0q"
"""struct flock."""
NAMED = 5
"""Users that are named at most."""


@dataclass(frozen=True, slots=True)
class Used:
    """Something that is going to be replaced."""

    path: Path
    kind: Kind


@dataclass(frozen=True, slots=True)
class User:
    """A process that uses something."""

    pid: int
    """0: it cannot be told."""
    command: str
    what: str

    def __str__(self) -> str:
        who = f"process {self.pid} ({self.command})" if self.pid else "another process"
        return f"{who} {self.what}"


def refuse_used(things: Sequence[Used]) -> None:
    """Raises Locked, naming who has something of it open or locked and what to stop."""
    found: dict[tuple[int, str], User] = {}
    for user in (*_lockers(things), *_openers(things)):
        found.setdefault((user.pid, "" if user.pid else user.what), user)
    if not found:
        return
    users = list(found.values())
    pids = " ".join(str(user.pid) for user in users if user.pid)
    stop = "stop DocMind (its terminal, service or container)"
    raise Locked(
        f"the environment is in use: {'; '.join(map(str, users[:NAMED]))}; nothing was changed",
        hint=f"{stop}{f', or what holds it: kill {pids}' if pids else ''}; then give the command again",
    )


# -- locks -------------------------------------------------------------------------------------------


def _lockers(things: Iterable[Used]) -> Iterator[User]:
    """Found by asking for the locks, which neither takes nor releases any."""
    for thing in things:
        match thing.kind:
            case Kind.DUCKDB:
                yield from _asked(thing.path, WHOLE_FILE)
            case Kind.SQLITE:
                yield from _asked(thing.path.with_name(f"{thing.path.name}-shm"), SHM_IN_USE)
                yield from _asked(thing.path, SQLITE_BUSY)
            case _:
                pass


def _asked(path: Path, part: tuple[int, int]) -> Iterator[User]:
    if _GETLK is None:
        return
    with suppress(OSError), _opened(path) as fd:
        answer = fcntl.fcntl(fd, _GETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, *part, 0))
        kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
        if kind != fcntl.F_UNLCK:
            yield User(max(0, pid), _command(pid), f"has {path.name} locked")


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


# -- open files --------------------------------------------------------------------------------------


def _openers(things: Sequence[Used]) -> Iterator[User]:
    """Other processes with a file of these open, as far as we may look; none where there is no /proc.

    Files are known by device and inode, also from inside a container; what lies in a tree, by its path.
    """
    files = dict(_identities(things))
    trees = tuple(f"{thing.path}/" for thing in things if thing.kind in (Kind.TREE, Kind.EMBEDDED))
    for pid in _processes():
        for link in _descriptors(pid):
            with suppress(OSError):
                path = os.readlink(link)  # noqa: PTH115
                found = os.stat(link) if path.startswith("/") else None
                if found and (found.st_dev, found.st_ino) in files:
                    yield User(pid, _command(pid), f"has {files[found.st_dev, found.st_ino]} open")
                elif found and path.startswith(trees):
                    yield User(pid, _command(pid), f"has {path} open")


def _identities(things: Iterable[Used]) -> Iterator[tuple[tuple[int, int], str]]:
    for thing in things:
        if thing.kind not in (Kind.TREE, Kind.EMBEDDED):
            for suffix in SIDECARS:
                with suppress(OSError):
                    found = os.lstat(f"{thing.path}{suffix}")
                    yield (found.st_dev, found.st_ino), f"{thing.path.name}{suffix}"


def _processes() -> Iterator[int]:
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                yield int(name)


def _descriptors(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            yield f"/proc/{pid}/fd/{name}"


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "unknown"


# -- keeping the application out -------------------------------------------------------------------------


@contextmanager
def application_kept_out(folders: Iterable[Path]) -> Iterator[None]:
    """Hold the `.lock` of each folder that has one, as the application and qdrant-client do. Raises Locked."""
    with ExitStack() as stack:
        for folder in folders:
            fd = _open_lock(folder / ".lock")
            if fd is None:
                continue
            stack.callback(os.close, fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
                raise Locked(
                    f"the environment is in use: {holder(fd)} holds {folder / '.lock'}; nothing was changed",
                    hint="stop DocMind (its terminal, service or container), then give the command again",
                ) from error
        yield


def _open_lock(path: Path) -> int | None:
    """None where there is none, or where it is nothing that can be locked."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
