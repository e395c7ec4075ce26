"""Read a backup back and hold it against its record. Writes nothing, needs no catalog and no lock of its own."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from docmind_backup import plain, snapshot_tar
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
    Fingerprint,
    Identity,
    Missing,
    Observed,
    Unexpected,
    Unreadable,
    Verification,
    compare,
)
from docmind_backup.crew import LIGHT, Crew, Teller, Window
from docmind_backup.errors import BackupError, NoSuchBackup, Stopped
from docmind_backup.reach import lstat, near, scandir

LARGE = 32 * 1024 * 1024
"""Bytes from which a file is read before the others."""
KNOWN = 100_000
"""Files with several names whose digest is kept for the rest of a run: some 30 MB. The others are read again."""


class CannotCheck(BackupError):
    """There is nothing here this tool can hold the files against."""

    exit_code = 5


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Portion:
    """The part of a backup's contents that is read: whole files, in the order of the inventory."""

    begin: int = 0
    """Files that were read before in this round."""
    before: int = 0
    """Bytes of these."""
    bytes: int | None = None
    """A file is begun as long as less than this was; None: all of them."""
    late: Callable[[], bool] = _never
    """Asked before each file, from any thread: True when none is to be begun any more."""


class Known:
    """What was read in this run of files with several names: each is read once, as long as nothing touches it."""

    def __init__(self) -> None:
        self._digests: dict[bytes, bytes] = {}
        self._whole: set[bytes] = set()

    def digest(self, found: os.stat_result) -> str:
        """Empty when it has to be read."""
        return self._digests.get(_version(found), b"").hex() if found.st_nlink > 1 else ""

    def learn(self, found: os.stat_result, sha256: str) -> None:
        if found.st_nlink > 1 and len(self._digests) < KNOWN:
            self._digests[_version(found)] = bytes.fromhex(sha256)

    def is_whole(self, found: os.stat_result) -> bool:
        """A collection snapshot that was read to its last tar block."""
        return found.st_nlink > 1 and _version(found) in self._whole

    def is_found_whole(self, found: os.stat_result) -> None:
        self._whole.add(_version(found))


def _version(found: os.stat_result) -> bytes:
    return struct.pack("=QQqqq", found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def verify(
    directory: Path,
    *,
    quick: bool = False,
    portion: Portion | None = None,
    known: Known | None = None,
    on_event: OnEvent = ignore,
) -> Verification:
    """Everything recorded is there and unaltered, and nothing else is.

    Full: every byte re-hashed and collection snapshots read to their last tar block. With a portion: those in it.
    Quick: names and sizes only. Raises FormatTooNew for a backup of a newer version, CannotCheck for a directory
    without any record of ours.
    """
    with reading(directory):
        return _Check(directory, quick=quick, portion=portion, known=known or Known(), on_event=on_event).run()


def fingerprint(directory: Path) -> str:
    """What the files of a backup look like now, without reading them; empty when its inventory cannot say."""
    seen = Fingerprint()
    try:
        _add_own(seen, directory)
        with plain.opened(directory / fmt.INVENTORY) as lines:
            while line := lines.readline(fmt.LINE_LIMIT):
                if found := fmt.file_fields(line):
                    path = fmt.contained(found[0])
                    seen.add(path, _identity_at(directory / path))
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError):
        return ""
    return seen.hexdigest()


def _add_own(seen: Fingerprint, directory: Path) -> None:
    for name in fmt.OWN_FILES:
        seen.add(name, _identity_at(directory / name))


def _identity_at(path: Path) -> Identity | None:
    try:
        found = lstat(str(path))
    except OSError:
        return None
    return _identity(found) if stat.S_ISREG(found.st_mode) else None


def _identity(found: os.stat_result) -> Identity:
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Check:
    """One verification under way: collects findings, never stops at one."""

    def __init__(
        self, directory: Path, *, quick: bool, portion: Portion | None, known: Known, on_event: OnEvent
    ) -> None:
        self._directory = directory
        self._quick = quick
        self._portion = portion or Portion()
        self._level = "quick" if quick else "part" if portion else "full"
        self._known = known
        self._on_event = Teller(on_event)
        self._findings: list[Finding] = []
        self._expected = {_key(name) for name in fmt.OWN_FILES}
        """Of the listed paths."""
        self._folders: set[int] = set()
        """Of the folders they lie in."""
        self._fingerprint = Fingerprint()
        self._walked = 0
        """Files that were given to be looked at."""
        self._chosen = 0
        """Bytes of those to be read."""
        self._listed = False
        """Whether a list of what should be there was read to its end."""
        self._files = 0
        self._bytes = 0
        self._judged = 0
        self._covered = 0
        self._read = 0
        self._left = 0
        self._left_files = 0
        self._snapshots: set[str] = set()
        """Paths of the collection snapshots."""
        self._proved: set[str] = set()
        """Those whose bytes were read and are right."""
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
        _add_own(self._fingerprint, self._directory)
        record = self._record()
        trusted = self._own_files(record)
        if record:
            self._snapshots = {c.path for c in record.qdrant.collections} if record.qdrant else set()
            self._on_event(RunStarted(self._to_read(record), 0, 0))
        with Crew() as crew:
            self._check_all(record, trusted, crew)
        if self._listed:
            self._find_unexpected(trusted)
        if record and not self._quick:
            self._check_snapshots(record)
        return self._result(record)

    def _to_read(self, record: Record) -> int:
        """Bytes, before the first is read."""
        if self._quick:
            return 0
        left = max(0, record.totals.bytes - self._portion.before)
        return left if self._portion.bytes is None else min(left, self._portion.bytes)

    def _result(self, record: Record | None) -> Verification:
        return Verification(
            directory=self._directory,
            id=record.id if record else "",
            level=self._level,
            findings=tuple(self._findings),
            files=self._files,
            bytes=self._bytes,
            omissions=record.omissions if record else (),
            notes=record.notes if record else (),
            covered=self._covered,
            read=self._read,
            left=self._left,
            left_files=self._left_files,
            reached=self._judged - self._left_files,
            fingerprint=self._fingerprint.hexdigest(),
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
            if not os.path.lexists(self._directory):
                raise NoSuchBackup(
                    f"{self._directory} is gone", hint="`docmind-backup list` shows what is there"
                ) from None
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
        observed = self._seen(observe(self._directory, name, self._copier, self._known, hashed=True))
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
            with plain.opened(self._directory / trusted) as lines:
                while line := lines.readline(fmt.LINE_LIMIT):
                    entry = read(line)
                    if _key(entry.path) not in self._expected:
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
        """Every listed file, on all cores; of a whole backup the largest first: the end is not spent waiting for one.

        Of a part in order: what it reached is one place in the inventory.
        """
        self._window, large = crew.window(self._tell), _Large(self._look, crew.window(self._tell))
        try:
            if self._level == "full":
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
            if _key(taken.path) not in self._expected:
                yield FileEntry(taken.path, size=taken.size, sha256=taken.sha256, mtime_ns=0, mode=0)

    def _check(self, entry: Entry, large: _Large) -> None:
        assert self._window
        self._expect(entry.path)
        if large.has(entry.path):
            self._window.later(lambda: self._judge(entry, self._seen(large.take(entry.path))))
            return
        hashed = isinstance(entry, FileEntry) and self._chooses(entry)
        size = entry.size if hashed and isinstance(entry, FileEntry) else 0
        self._window.give(
            partial(self._look, entry.path, hashed=hashed),
            lambda result: self._judge(entry, self._seen(result())),
            max(0, size),
            light=0 <= size <= LIGHT and self._level != "part",  # of a part none may overtake another
        )

    def _expect(self, path: str) -> None:
        self._expected.add(_key(path))
        for parent in map(_key, _parents(path)):
            if parent in self._folders:
                break
            self._folders.add(parent)

    def _chooses(self, entry: FileEntry) -> bool:
        """Whether its content is to be read; empty files cost nothing and wait for no other run."""
        nth, self._walked = self._walked, self._walked + 1
        most = self._portion.bytes
        if self._quick or nth < self._portion.begin or (most is not None and self._chosen >= most and entry.size):
            return False
        self._chosen += max(0, entry.size)
        return True

    def _look(self, path: str, copier: Copier, *, hashed: bool = True) -> Observed | Unreadable | None:
        """From several threads."""
        in_time = hashed and not self._portion.late()
        return observe(self._directory, path, copier, self._known, hashed=in_time)

    def _judge(self, entry: Entry, observed: Observed | None) -> None:
        if isinstance(entry, FileEntry):
            self._count(entry, observed)
        if observed is not None and observed.kind == "unreadable":
            return
        if isinstance(entry, FileEntry) and entry.size < 0:
            entry = sized(entry, observed)
        finding = compare(entry, observed)
        if finding:
            self._findings.append(finding)
        if isinstance(entry, FileEntry):
            self._files += 1
            self._bytes += entry.size

    def _count(self, entry: FileEntry, observed: Observed | None) -> None:
        """How far it got. A part reaches to the first file that is left, whatever was read behind it."""
        nth, self._judged = self._judged, self._judged + 1
        self._fingerprint.add(entry.path, observed.identity if observed else None)
        size = max(0, entry.size)
        self._read += observed.read if observed else 0
        if entry.path in self._snapshots and observed and observed.sha256 == entry.sha256:
            self._proved.add(entry.path)
        if nth < self._portion.begin:
            return
        left = observed is not None and observed.kind in ("file", "unreadable") and not observed.sha256
        if not left and not (self._left_files and self._level == "part"):
            self._covered += size if observed and observed.sha256 else 0
        else:
            self._left += size
            self._left_files += 1

    def _seen(self, observed: Observed | Unreadable | None) -> Observed | None:
        """As observed; kind `unreadable` (and a finding) when the operating system would not say."""
        if isinstance(observed, Unreadable):
            self._findings.append(observed)
            return Observed("unreadable", identity=_identity_at(self._directory / observed.path))
        return observed

    def _tell(self, count: int) -> None:
        self._on_event(Advanced(count))

    def _find_unexpected(self, trusted: str) -> None:
        """What no list names. SHA256SUMS names no links and no folders: by it they cannot be judged."""
        unjudged = () if trusted == fmt.INVENTORY else ("link", "directory")
        for path, kind in _below(self._directory, self._findings):
            key = _key(path)
            if key in self._expected:
                continue
            if key not in self._folders:
                if kind not in unjudged:
                    self._findings.append(Unexpected(path))
            elif kind != "directory":
                self._findings.append(Altered(path, f"it is a {kind}, not a directory"))

    def _check_snapshots(self, record: Record) -> None:
        """Collection snapshots whose bytes were read and are right are read to their last tar block."""
        for taken in record.qdrant.collections if record.qdrant else ():
            if taken.snapshot_name and taken.path in self._proved:
                self._findings += snapshot_findings(self._directory, taken.path, self._known)
                self._on_event(StepFinished(taken.name, 1, taken.size))


class _Large:
    """The largest files of a backup, looked at before all others."""

    def __init__(self, look: Callable[[str, Copier], Observed | Unreadable | None], window: Window) -> None:
        self.window = window
        self._look = look
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

    def _keep(self, path: str, result: Callable[[], Observed | Unreadable | None]) -> None:
        self._seen[path] = result()


def _large(directory: Path, trusted: str) -> Iterator[tuple[int, str]]:
    """(size, path) of the files whose hashing takes long; SHA256SUMS does not say which."""
    if trusted != fmt.INVENTORY:
        return
    with (
        suppress(ValueError, KeyError, TypeError, AttributeError, OSError, RecursionError),
        plain.opened(directory / trusted) as lines,
    ):
        while line := lines.readline(fmt.LINE_LIMIT):
            found = fmt.file_fields(line)
            if found and found[1] >= LARGE:
                yield found[1], fmt.contained(found[0])


def observe(directory: Path, path: str, copier: Copier, known: Known, *, hashed: bool) -> Observed | Unreadable | None:
    """What lies at `path`; None: nothing; Unreadable when the operating system would not say."""
    try:
        return _observed(directory / path, copier, known, hashed=hashed)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return Unreadable(path, error.strerror or "cannot be read")


def _observed(path: Path, copier: Copier, known: Known, *, hashed: bool) -> Observed:
    found = lstat(str(path))
    if stat.S_ISLNK(found.st_mode):
        with near(str(path)) as (folder, name):
            return Observed("link", target=os.readlink(name, dir_fd=folder))
    if stat.S_ISDIR(found.st_mode):
        return Observed("directory")
    if not stat.S_ISREG(found.st_mode):
        return Observed("other")
    if not hashed:
        return Observed("file", found.st_size, identity=_identity(found))
    if sha256 := known.digest(found):
        copier.on_bytes(found.st_size)
        return Observed("file", found.st_size, sha256, identity=_identity(found))
    return _read(path, copier, known)


def snapshot_findings(directory: Path, path: str, known: Known) -> Iterator[Finding]:
    """What is wrong with the structure of a collection snapshot, read to its last tar block."""
    try:
        found = (directory / path).lstat()
        if known.is_whole(found):
            return
        problems = tuple(snapshot_tar.check(directory / path))
        yield from (Altered(path, f"collection snapshot: {problem}") for problem in problems)
        if not problems:
            known.is_found_whole(found)
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


def sized(entry: FileEntry, observed: Observed | None) -> FileEntry:
    """An entry that does not say its size, with the one that was found."""
    size = observed.size if observed else 0
    return FileEntry(entry.path, size=size, sha256=entry.sha256, mtime_ns=0, mode=0)


def _read(path: Path, copier: Copier, known: Known) -> Observed:
    """Stat and digest of the same open file."""
    with near(str(path)) as (folder, name):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        found = os.fstat(fd)
        sha256, count = copier.hash(fd, copier.on_bytes)
        if found.st_nlink > 1 and _version(os.fstat(fd)) == _version(found):
            known.learn(found, sha256)
        return Observed("file", found.st_size, sha256, identity=_identity(found), read=count)
    finally:
        os.close(fd)


def _key(path: str) -> int:
    """Stands for a path where a million are held: a third of its memory, and 128 bits of Python's keyed hash."""
    return hash(path) << 64 ^ hash(f"{path}/")


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
            with scandir(f"{top}/{folder}") as entries:
                for entry in entries:
                    path, kind = f"{folder}{entry.name}", _kind(entry)
                    yield path, kind
                    if kind == "directory":
                        pending.append(f"{path}/")
        except OSError as error:
            findings.append(Unreadable(folder or ".", error.strerror or "cannot be listed"))


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "directory"
    return "file" if entry.is_file(follow_symlinks=False) else "other"
