"""Read a backup back and hold it against its record. Writes nothing, needs no catalog and no lock of its own."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from docmind_backup import snapshot_tar
from docmind_backup.catalog import read_limited, reading
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    Advanced,
    Entry,
    FileEntry,
    OnEvent,
    Record,
    RunStarted,
    StepFinished,
    ignore,
)
from docmind_backup.core.verifier import (
    Altered,
    Finding,
    Missing,
    Observed,
    Unexpected,
    Unreadable,
    Verification,
    compare,
)
from docmind_backup.errors import BackupError

CHUNK = 1 << 20
LINE_LIMIT = 1 << 20
"""Bytes of one inventory line at most; names and targets are below 4 KiB each."""


class CannotCheck(BackupError):
    """There is nothing here this tool can hold the files against."""

    exit_code = 5


def verify(directory: Path, *, quick: bool = False, on_event: OnEvent = ignore) -> Verification:
    """Everything recorded is there and unaltered, and nothing else is.

    Full: every byte re-hashed and collection snapshots read to their last tar block. Quick: names and sizes only.
    Raises FormatTooNew for a backup of a newer version, CannotCheck for a directory without any record of ours.
    """
    with reading(directory):
        return _Check(directory, quick=quick, on_event=on_event).run()


class _Check:
    """One verification under way: collects findings, never stops at one."""

    def __init__(self, directory: Path, *, quick: bool, on_event: OnEvent) -> None:
        self._directory = directory
        self._quick = quick
        self._on_event = on_event
        self._findings: list[Finding] = []
        self._expected: set[str] = set(fmt.OWN_FILES)
        self._listed = False
        """Whether a list of what should be there was read to its end."""
        self._files = 0
        self._bytes = 0

    def run(self) -> Verification:
        record = self._record()
        trusted = self._own_files(record)
        if record:
            self._on_event(RunStarted(0 if self._quick else record.totals.bytes, 0, 0))
        for entry in self._entries(trusted):
            self._check(entry)
        for taken in record.qdrant.collections if record and record.qdrant else ():
            if taken.path not in self._expected:
                self._check(FileEntry(taken.path, size=taken.size, sha256=taken.sha256, mtime_ns=0, mode=0))
        if self._listed:
            self._find_unexpected(trusted)
        if record and not self._quick:
            self._check_snapshots(record)
        return Verification(
            directory=self._directory,
            id=record.id if record else "",
            level="quick" if self._quick else "full",
            findings=tuple(self._findings),
            files=self._files,
            bytes=self._bytes,
            omissions=record.omissions if record else (),
            notes=record.notes if record else (),
        )

    # -- our own files

    def _record(self) -> Record | None:
        try:
            raw = read_limited(self._directory / fmt.RECORD)
            record = fmt.read_record(raw)
            if not fmt.as_written(raw):
                self._findings.append(Altered(fmt.RECORD, "it means the same and is not as it was written"))
            return record  # noqa: TRY300
        except FileNotFoundError:
            if not (self._directory / fmt.INVENTORY).exists():
                raise CannotCheck(
                    f"{self._directory} has no {fmt.RECORD}: it was not made by this tool",
                    hint="`sha256sum -c SHA256SUMS` where there is one",
                ) from None
            self._findings.append(Missing(fmt.RECORD))
        except ValueError as error:
            self._findings.append(Altered(fmt.RECORD, str(error)))
        except OSError as error:
            self._findings.append(Unreadable(fmt.RECORD, error.strerror or "cannot be read"))
        return None

    def _own_files(self, record: Record | None) -> str:
        """Check inventory, manifest, README and sums; the name of the list to go by, empty when none can be trusted."""
        digests = record.digests if record else _digests_in_sums(self._directory / fmt.SUMS)
        good = [n for n in (fmt.INVENTORY, fmt.MANIFEST, fmt.README, fmt.SUMS) if self._is_good(n, digests)]
        if record and len(digests) < len(fmt.OWN_FILES) - 1:
            self._findings.append(Altered(fmt.RECORD, "it lacks the sha256 of a file of its own"))
        return next((name for name in (fmt.INVENTORY, fmt.SUMS) if name in good), "")

    def _is_good(self, name: str, digests: Mapping[str, str]) -> bool:
        """Our own file `name` is what its sha256 says, or a file at least where nothing says it; else a finding."""
        observed = self._observe(name, hashed=True)
        if observed is None:
            self._findings.append(Missing(name))
        elif observed.kind == "unreadable":
            return False
        elif observed.kind != "file":
            self._findings.append(Altered(name, f"it is a {observed.kind}, not a file"))
        elif observed.sha256 != digests.get(name, observed.sha256):
            self._findings.append(Altered(name, "its content changed (sha256)"))
        else:
            return True
        return False

    def _entries(self, trusted: str) -> Iterator[Entry]:
        """What the backup should hold, streamed from the list that can be trusted."""
        if not trusted:
            return
        read = fmt.read_entry if trusted == fmt.INVENTORY else _sums_entry
        try:
            with (self._directory / trusted).open("rb") as lines:
                while line := lines.readline(LINE_LIMIT):
                    entry = read(line)
                    if entry.path not in self._expected:
                        yield entry
                    elif entry.path not in fmt.OWN_FILES:
                        self._findings.append(Altered(trusted, f"{fmt.printable(entry.path)} is listed twice"))
            self._listed = True
        except ValueError as error:
            self._findings.append(Altered(trusted, str(error)))
        except OSError as error:
            self._findings.append(Unreadable(trusted, error.strerror or "cannot be read"))

    # -- the files

    def _check(self, entry: Entry) -> None:
        self._expected.add(entry.path)
        observed = self._observe(entry.path, hashed=not self._quick)
        if observed is not None and observed.kind == "unreadable":
            return
        if isinstance(entry, FileEntry) and entry.size < 0:
            entry = _sized(entry, observed)
        finding = compare(entry, observed)
        if finding:
            self._findings.append(finding)
        if isinstance(entry, FileEntry):
            self._files += 1
            self._bytes += entry.size

    def _observe(self, path: str, *, hashed: bool) -> Observed | None:
        """What lies at `path`; kind `unreadable` (and a finding) when the operating system would not say."""
        full = self._directory / path
        try:
            found = full.lstat()
            if stat.S_ISLNK(found.st_mode):
                return Observed("link", target=os.readlink(full))  # noqa: PTH115 - a Path would tidy the target
            if stat.S_ISDIR(found.st_mode):
                return Observed("directory")
            if not stat.S_ISREG(found.st_mode):
                return Observed("other")
            digest = self._hash(full) if hashed else ""
            return Observed("file", found.st_size, digest)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._findings.append(Unreadable(path, error.strerror or "cannot be read"))
            return Observed("unreadable")

    def _hash(self, path: Path) -> str:
        return _sha256(path, lambda count: self._on_event(Advanced(count)))

    def _find_unexpected(self, trusted: str) -> None:
        """What no list names. SHA256SUMS names no links and no folders: by it they cannot be judged."""
        folders = {parent for path in self._expected for parent in _parents(path)} - self._expected
        unjudged = () if trusted == fmt.INVENTORY else ("link", "directory")
        for path, kind in _below(self._directory, self._findings):
            if path in folders and kind != "directory":
                self._findings.append(Altered(path, f"it is a {kind}, not a directory"))
            elif path not in self._expected and path not in folders and kind not in unjudged:
                self._findings.append(Unexpected(path))

    def _check_snapshots(self, record: Record) -> None:
        """Collection snapshots whose bytes are right are read to their last tar block."""
        altered = {finding.path for finding in self._findings}
        for taken in record.qdrant.collections if record.qdrant else ():
            if taken.snapshot_name and taken.path not in altered:
                self._findings += _snapshot_findings(self._directory, taken.path)
                self._on_event(StepFinished(taken.name, 1, taken.size))


def _snapshot_findings(directory: Path, path: str) -> Iterator[Finding]:
    try:
        for problem in snapshot_tar.check(directory / path):
            yield Altered(path, f"collection snapshot: {problem}")
    except OSError as error:
        yield Unreadable(path, error.strerror or "cannot be read")


def _digests_in_sums(path: Path) -> dict[str, str]:
    """sha256 of our own files as SHA256SUMS has them, for a backup whose record cannot say; empty without any."""
    try:
        sums = dict(fmt.read_sums_line(line) for line in read_limited(path).splitlines(keepends=True))
    except (ValueError, OSError):
        return {}
    return {name: sums[name] for name in fmt.OWN_FILES if name in sums}


def _sums_entry(line: bytes) -> Entry:
    """An entry from SHA256SUMS, where the inventory itself is damaged: size unknown (-1)."""
    path, sha256 = fmt.read_sums_line(line)
    return FileEntry(path, size=-1, sha256=sha256, mtime_ns=0, mode=0)


def _sized(entry: FileEntry, observed: Observed | None) -> FileEntry:
    size = observed.size if observed else 0
    return FileEntry(entry.path, size=size, sha256=entry.sha256, mtime_ns=0, mode=0)


def _sha256(path: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb", buffering=0) as file:
        buffer = memoryview(bytearray(CHUNK))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            on_bytes(count)
    return digest.hexdigest()


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _below(top: Path, findings: list[Finding]) -> Iterator[tuple[str, str]]:
    """Everything below `top`: (path relative to it, its kind as in Observed). Links are not followed."""
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(top / folder) as entries:
                listed = list(entries)
        except OSError as error:
            findings.append(Unreadable(folder or ".", error.strerror or "cannot be listed"))
            continue
        for entry in listed:
            path, kind = f"{folder}{entry.name}", _kind(entry)
            yield path, kind
            if kind == "directory":
                pending.append(f"{path}/")


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"
