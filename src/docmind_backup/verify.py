"""Read a backup back and hold it against its record. Writes nothing, needs no catalog and no lock of its own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path

from docmind_backup import snapshot_tar
from docmind_backup.catalog import read_limited, reading
from docmind_backup.copying import Copier
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
from docmind_backup.crew import Crew, Stopped, Teller, Window
from docmind_backup.errors import BackupError

LARGE = 32 * 1024 * 1024
"""Bytes from which a file is read before the others."""
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
        self._on_event = Teller(on_event)
        self._findings: list[Finding] = []
        self._expected: set[str] = set(fmt.OWN_FILES)
        self._listed = False
        """Whether a list of what should be there was read to its end."""
        self._files = 0
        self._bytes = 0
        self._copier = Copier(self._tell)
        self._window: Window | None = None
        """The files that are being looked at; None: nothing waits."""

    def run(self) -> Verification:
        try:
            return self._run()
        except Stopped:
            assert self._on_event.failure
            raise self._on_event.failure from None

    def _run(self) -> Verification:
        record = self._record()
        trusted = self._own_files(record)
        if record:
            self._on_event(RunStarted(0 if self._quick else record.totals.bytes, 0, 0))
        with Crew() as crew:
            self._check_all(record, trusted, crew)
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
        observed = self._seen(_observe(self._directory, name, self._copier, hashed=True))
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
                        self._find(Altered(trusted, f"{fmt.printable(entry.path)} is listed twice"))
            self._listed = True
        except ValueError as error:
            self._find(Altered(trusted, str(error)))
        except OSError as error:
            self._find(Unreadable(trusted, error.strerror or "cannot be read"))

    def _find(self, finding: Finding) -> None:
        """When what stands before it was looked at: findings come in the order of the list."""
        if self._window:
            self._window.later(lambda: self._findings.append(finding))
        else:
            self._findings.append(finding)

    # -- the files

    def _check_all(self, record: Record | None, trusted: str, crew: Crew) -> None:
        """Every listed file, on all cores, the largest first: the end is not spent waiting for one of them."""
        self._window, large = crew.window(self._tell), _Large(self._directory, crew.window(self._tell))
        try:
            if not self._quick:
                large.start(_large(self._directory, trusted))
            for entry in chain(self._entries(trusted), self._not_listed(record)):
                self._check(entry, large)
            self._window.finish()
        finally:
            self._window.abandon_unless_done()
            large.window.abandon_unless_done()
            self._window = None

    def _not_listed(self, record: Record | None) -> Iterator[Entry]:
        """Collections that the record names and no list does."""
        for taken in record.qdrant.collections if record and record.qdrant else ():
            if taken.path not in self._expected:
                yield FileEntry(taken.path, size=taken.size, sha256=taken.sha256, mtime_ns=0, mode=0)

    def _check(self, entry: Entry, large: _Large) -> None:
        assert self._window
        self._expected.add(entry.path)
        if large.has(entry.path):
            self._window.later(lambda: self._judge(entry, self._seen(large.take(entry.path))))
            return
        hashed = not self._quick and isinstance(entry, FileEntry)
        size = max(0, entry.size) if isinstance(entry, FileEntry) else 0
        self._window.give(
            lambda copier: _observe(self._directory, entry.path, copier, hashed=hashed),
            lambda result: self._judge(entry, self._seen(result())),
            size if hashed else 0,
        )

    def _judge(self, entry: Entry, observed: Observed | None) -> None:
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

    def _seen(self, observed: Observed | Unreadable | None) -> Observed | None:
        """As observed; kind `unreadable` (and a finding) when the operating system would not say."""
        if isinstance(observed, Unreadable):
            self._findings.append(observed)
            return Observed("unreadable")
        return observed

    def _tell(self, count: int) -> None:
        self._on_event(Advanced(count))

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


class _Large:
    """The largest files of a backup, looked at before all others."""

    def __init__(self, directory: Path, window: Window) -> None:
        self.window = window
        self._directory = directory
        self._waiting: set[str] = set()
        self._seen: dict[str, Observed | Unreadable | None] = {}

    def start(self, files: Iterable[tuple[int, str]]) -> None:
        """`files`: (size, path) each."""
        for size, path in sorted(files, reverse=True):
            self._waiting.add(path)
            self.window.give(partial(self._look, path), partial(self._keep, path), size)

    def has(self, path: str) -> bool:
        return path in self._waiting

    def take(self, path: str) -> Observed | Unreadable | None:
        """What lies at `path`, waited for."""
        while path not in self._seen and self.window.take_some():
            pass
        return self._seen[path]

    def _look(self, path: str, copier: Copier) -> Observed | Unreadable | None:
        return _observe(self._directory, path, copier, hashed=True)

    def _keep(self, path: str, result: Callable[[], Observed | Unreadable | None]) -> None:
        self._seen[path] = result()


def _large(directory: Path, trusted: str) -> Iterator[tuple[int, str]]:
    """(size, path) of the files whose hashing takes long; SHA256SUMS does not say which."""
    if trusted != fmt.INVENTORY:
        return
    with (
        suppress(ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError),
        (directory / trusted).open("rb") as lines,
    ):
        while line := lines.readline(LINE_LIMIT):
            found = fmt.file_fields(line)
            if found and found[1] >= LARGE:
                yield found[1], fmt.contained(found[0])


def _observe(directory: Path, path: str, copier: Copier, *, hashed: bool) -> Observed | Unreadable | None:
    """What lies at `path`; Unreadable when the operating system would not say."""
    full = directory / path
    try:
        found = full.lstat()
        if stat.S_ISLNK(found.st_mode):
            return Observed("link", target=os.readlink(full))  # noqa: PTH115 - a Path would tidy the target
        if stat.S_ISDIR(found.st_mode):
            return Observed("directory")
        if not stat.S_ISREG(found.st_mode):
            return Observed("other")
        return Observed("file", found.st_size, _sha256(full, copier) if hashed else "")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Unreadable(path, error.strerror or "cannot be read")


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


def _sha256(path: Path, copier: Copier) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return copier.hash(fd, copier.on_bytes)[0]
    finally:
        os.close(fd)


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
