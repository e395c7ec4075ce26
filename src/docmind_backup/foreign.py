"""Look at another tool's backup directory and hold its files against what its manifest says. Writes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from docmind_backup import snapshot_tar
from docmind_backup.catalog import NAME, read_limited
from docmind_backup.copying import Copier
from docmind_backup.core import docmind
from docmind_backup.core import foreign as core
from docmind_backup.core import format as fmt
from docmind_backup.core.foreign import Foreign, Looked
from docmind_backup.core.model import (
    Advanced,
    DirEntry,
    Entry,
    FileEntry,
    LinkEntry,
    OnEvent,
    Record,
    RunStarted,
    StepFinished,
    ignore,
)
from docmind_backup.core.verifier import Altered, Finding, Unexpected, Unproved, Unreadable, Verification, compare
from docmind_backup.verify import Known, observe, sized, snapshot_findings


class NotUsable(ValueError):
    """It is another tool's backup, and its manifest cannot be used; the text says why."""


def look(directory: Path) -> Foreign | None:
    """The backup in `directory` in our words; None when it is ours, or nobody's that is known.

    Raises NotUsable; OSError when the directory cannot be read.
    """
    if os.path.lexists(directory / fmt.RECORD) or os.path.lexists(directory / fmt.INVENTORY):
        return None
    try:
        manifest = read_limited(directory / core.MANIFEST)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise NotUsable(str(error)) from error
    try:
        listing = tuple(_listing(directory))
        return core.read(Looked(directory.name, manifest, listing, _texts(directory), _documents(directory, listing)))
    except ValueError as error:
        if NAME.match(directory.name) or isinstance(error, NotUsable):
            raise NotUsable(str(error)) from error
        return None


def _listing(top: Path, folder: str = "") -> Iterator[Entry]:
    """Everything below but the manifest, folders before what they hold; links are not followed."""
    with os.scandir(top / folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        path, seen = f"{folder}{entry.name}", entry.stat(follow_symlinks=False)
        mode = stat.S_IMODE(seen.st_mode)
        if stat.S_ISDIR(seen.st_mode):
            yield DirEntry(path, seen.st_mtime_ns, mode, seen.st_uid, seen.st_gid)
            yield from _listing(top, f"{path}/")
        elif path == core.MANIFEST:
            continue
        elif stat.S_ISREG(seen.st_mode):
            yield FileEntry(path, seen.st_size, "", seen.st_mtime_ns, mode, seen.st_uid, seen.st_gid)
        else:
            target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115 - as written
            yield LinkEntry(path, target, seen.st_mtime_ns, seen.st_uid, seen.st_gid)


def _texts(directory: Path) -> dict[str, bytes]:
    """CURRENT and the manifests of the index snapshots, as far as they can be read."""
    texts: dict[str, bytes] = {}
    storage = directory / "data" / "storage"
    with suppress(OSError):
        with os.scandir(storage) as found:
            folders = [entry.name for entry in found if entry.is_dir(follow_symlinks=False)]
        names = [name for name in folders if docmind.INDEX_SNAPSHOT_NAME.match(name)]
        paths = ["CURRENT", *(f"{name}/{file}" for name in sorted(names) for file in docmind.INDEX_MANIFESTS)]
        for path in paths:
            with suppress(OSError, ValueError):
                texts[f"data/storage/{path}"] = read_limited(storage / path)
    return texts


def _documents(directory: Path, listing: tuple[Entry, ...]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in listing:
        if isinstance(entry, FileEntry) and entry.path.startswith("qdrant/") and entry.path.endswith(".snapshot"):
            with suppress(OSError):
                found[entry.path] = snapshot_tar.describe(directory / entry.path)
    return found


# -- verify --------------------------------------------------------------------------------------


def verify(directory: Path, found: Foreign, *, quick: bool = False, on_event: OnEvent = ignore) -> Verification:
    """Every file against what the manifest says of it: content where there is a sum, else its size or that it is there.

    What no part of it can prove is in `unproved`: then the verdict is that not everything could be checked.
    """
    record, check = found.record, _Check(directory, quick=quick, on_event=on_event)
    on_event(RunStarted(0 if quick else record.totals.bytes, 0, 0))
    for entry in found.entries:
        check.look_at(entry)
    check.findings += [Altered(path, what) for path, what in found.problems]
    check.findings += [Unexpected(path) for path in found.stray]
    if not quick:
        check.snapshots(record)
    return Verification(
        directory=directory,
        id=record.id,
        level="quick" if quick else "full",
        findings=tuple(check.findings),
        files=check.files,
        bytes=check.bytes,
        omissions=record.omissions,
        notes=record.notes,
        covered=check.covered,
        read=check.read,
        made_by=record.tool_version,
        unproved=() if quick else tuple(Unproved(what, why) for what, why in found.unproved),
    )


def unusable(directory: Path, why: str) -> Verification:
    """Of a backup whose manifest is damaged: nothing more can be said of it."""
    damage = (Altered(core.MANIFEST, why),)
    return Verification(directory, directory.name, "full", damage, 0, 0, made_by="another tool")


class _Check:
    def __init__(self, directory: Path, *, quick: bool, on_event: OnEvent) -> None:
        self._directory = directory
        self._quick = quick
        self._on_event = on_event
        self._copier = Copier(lambda count: on_event(Advanced(count)))
        self._known = Known()
        self._sound: set[str] = set()
        """Paths whose content is right, as far as anybody can say."""
        self.findings: list[Finding] = []
        self.files = self.bytes = self.covered = self.read = 0

    def look_at(self, entry: Entry) -> None:
        seen = observe(self._directory, entry.path, self._copier, self._known, hashed=not self._quick)
        if isinstance(seen, Unreadable):
            self.findings.append(seen)
            return
        expected = sized(entry, seen) if isinstance(entry, FileEntry) and entry.size < 0 else entry
        if isinstance(expected, FileEntry) and not expected.sha256 and seen:
            expected = FileEntry(expected.path, expected.size, seen.sha256, 0, 0)
        if finding := compare(expected, seen):
            self.findings.append(finding)
        elif isinstance(entry, FileEntry) and seen:
            self._sound.add(entry.path)
            self.covered += seen.size if entry.sha256 and seen.sha256 else 0
        if isinstance(expected, FileEntry):
            self.files += 1
            self.bytes += expected.size
            self.read += seen.read if seen else 0

    def snapshots(self, record: Record) -> None:
        """Collection snapshots are read to their last tar block."""
        for taken in record.qdrant.collections if record.qdrant else ():
            if taken.path in self._sound:
                self.findings += snapshot_findings(self._directory, taken.path, self._known)
                self._on_event(StepFinished(taken.name, 1, max(0, taken.size)))
