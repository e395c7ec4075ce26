"""Hold a restored tree against the captured one: paths, bytes, modes, times to the nanosecond, targets of links."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.catalogs import record

from docmind_backup.core import format as fmt
from docmind_backup.core.model import DirEntry, Entry, FileEntry, LinkEntry

Look = dict[str, tuple[Any, ...]]
"""What follows the source's own path (empty: itself; `/a/b`, `-wal`) to what is there."""


def look(top: Path, *suffixes: str) -> Look:
    """What lies at `top`, below it, and at `top` with each suffix."""
    found: Look = {}
    for path in (top, *(Path(f"{top}{suffix}") for suffix in suffixes)):
        for each in _walk(path):
            found[str(each)[len(str(top)) :]] = _what(each)
    return found


def _walk(path: Path) -> Iterator[Path]:
    if os.path.lexists(path):
        yield path
    if path.is_dir() and not path.is_symlink():
        for child in sorted(path.iterdir()):
            yield from _walk(child)


def _what(path: Path) -> tuple[Any, ...]:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return ("link", status.st_mtime_ns, os.readlink(path))
    if stat.S_ISDIR(status.st_mode):
        return ("folder", status.st_mtime_ns, mode)
    return ("file", status.st_mtime_ns, mode, status.st_size, hashlib.sha256(path.read_bytes()).hexdigest())


def captured(backup: Path, stored: str) -> Look:
    """The same of one source, as the inventory has it."""
    (source,) = [source for source in record(backup).sources if source.stored == stored]
    offset, length = source.lines
    lines = (backup / fmt.INVENTORY).read_bytes()[offset : offset + length].splitlines()
    return {entry.path[len(stored) :]: _recorded(entry) for entry in map(fmt.read_entry, lines)}


def _recorded(entry: Entry) -> tuple[Any, ...]:
    match entry:
        case LinkEntry():
            return ("link", entry.mtime_ns, entry.target)
        case DirEntry():
            return ("folder", entry.mtime_ns, entry.mode)
        case FileEntry():
            return ("file", entry.mtime_ns, entry.mode, entry.size, entry.sha256)


def assert_restored(backup: Path, targets: Mapping[str, Path]) -> None:
    """Each source (by its stored root) lies at its target exactly as it was captured, and nothing else does."""
    for stored, target in targets.items():
        assert look(target, "-wal", "-shm", "-journal", ".wal") == captured(backup, stored), stored


def targets(document: Any) -> dict[str, Path]:
    """Where each source goes, by a `restore-plan --json`."""
    return {step["what"]: Path(step["target"]) for step in document["steps"] if step["action"] == "copy"}
