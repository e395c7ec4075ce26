"""Make the restore script: stream the inventory through `core.script`, and put the lines into a file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from docmind_backup import plain
from docmind_backup.catalog import reading
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, Entry, SourceRecord
from docmind_backup.core.proposing import command
from docmind_backup.core.restore import RestorePlan, Target
from docmind_backup.core.script import script
from docmind_backup.durable import fsync_directory
from docmind_backup.errors import BackupError, DamageFound, NoSpace

BATCH = 1000
"""Lines that are written at once."""


@dataclass(frozen=True, slots=True)
class Script:
    """A plan, and the lines of the script that carries it out."""

    plan: RestorePlan
    lines: Iterator[str]


def made(backup: Backup, target: Target, plan: RestorePlan) -> Script:
    """The lines are read from the inventory as they are taken; before the first one it is held against the record."""
    return Script(plan, _lines(backup, target, plan))


def _lines(backup: Backup, target: Target, plan: RestorePlan) -> Iterator[str]:
    inventory = backup.directory / fmt.INVENTORY
    with reading(backup.directory):
        try:
            digests = backup.record.digests
            if plain.sha256(inventory) != digests.get(fmt.INVENTORY) or fmt.SUMS not in digests:
                raise ValueError("it is not the one that the record describes")
            yield from script(backup, target, plan, lambda source: _entries(inventory, source))
        except (ValueError, OSError) as error:
            raise DamageFound(
                f"{inventory} cannot be used: {error}", hint=f"`{command('verify', backup.directory)}`"
            ) from error


def _entries(inventory: Path, source: SourceRecord) -> Iterator[Entry]:
    """Those of one source; each call reads them again."""
    offset, length = source.lines
    with plain.opened(inventory) as lines:
        lines.seek(offset)
        while lines.tell() < offset + length and (line := lines.readline(fmt.LINE_LIMIT)):
            yield fmt.read_entry(line)


def blocks(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines as bytes, many at a time."""
    block: list[str] = []
    for line in lines:
        block.append(line)
        if len(block) == BATCH:
            yield _block(block)
            block = []
    yield _block(block)


def _block(lines: Iterable[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def write(path: Path, lines: Iterable[str]) -> None:
    """The whole script as `path`, 0700, on the disk when this returns; or what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o700)
    except OSError as error:
        raise _unwritten(path, error) from error
    try:
        with os.fdopen(fd, "wb") as file:
            for block in blocks(lines):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> BackupError:
    kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else BackupError
    return kind(f"cannot write {path}: {error.strerror}", hint="choose another place with --out")
