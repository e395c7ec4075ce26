"""Decide whether what lies in a backup is what its record says, and what of that is remembered. No I/O."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from docmind_backup.core.model import Deep, DirEntry, Entry, FileEntry, LinkEntry, Omission, Round, Seal
from docmind_backup.errors import UsageError

if TYPE_CHECKING:
    from docmind_backup.core.proof import Deepened
    from docmind_backup.core.rehearsal import Rehearsed


@dataclass(frozen=True, slots=True)
class Missing:
    """Recorded, not there."""

    path: str


@dataclass(frozen=True, slots=True)
class Altered:
    """There, and not what was recorded."""

    path: str
    what: str


@dataclass(frozen=True, slots=True)
class Unexpected:
    """There, and not recorded."""

    path: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There, and could not be read: nothing is known of it."""

    path: str
    why: str


Finding = Missing | Altered | Unexpected | Unreadable


@dataclass(frozen=True, slots=True)
class Unproved:
    """There and readable, and nothing could be found to hold it against, or no engine to open it with."""

    what: str
    """A path, or a collection."""
    why: str
    hint: str = ""


Identity = tuple[int, int, int]
"""(ino, size, mtime_ns) of a stored file. Not its ctime: another backup that shares the file changes that."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One thing as it lies there."""

    kind: str
    """`file`, `link`, `directory` or `other`."""
    size: int = 0
    sha256: str = ""
    """Empty when nobody knows the content."""
    target: str = ""
    identity: Identity | None = None
    """Of a file: as it was when its content was read, if it was."""
    read: int = 0
    """Bytes that were read from the disk for it."""


def compare(entry: Entry, observed: Observed | None) -> Finding | None:
    """None when `observed` is what `entry` says, as far as it was looked at."""
    if observed is None:
        return Missing(entry.path)
    kinds: dict[type[Entry], str] = {FileEntry: "file", LinkEntry: "link", DirEntry: "directory"}
    expected = kinds[type(entry)]
    if observed.kind != expected:
        return Altered(entry.path, f"it is a {observed.kind}, not a {expected}")
    if isinstance(entry, FileEntry):
        return _compare_file(entry, observed)
    if isinstance(entry, LinkEntry) and observed.target != entry.target:
        return Altered(entry.path, "the link points elsewhere")
    return None


def _compare_file(entry: FileEntry, observed: Observed) -> Finding | None:
    if observed.size != entry.size:
        return Altered(entry.path, f"it has {observed.size:,} bytes, not {entry.size:,}")
    if observed.sha256 and observed.sha256 != entry.sha256:
        return Altered(entry.path, "its content changed (sha256)")
    return None


class Verdict(StrEnum):
    INTACT = "intact"
    DAMAGED = "damaged"
    UNCHECKED = "not fully checked"


EXIT_CODES = {Verdict.INTACT: 0, Verdict.DAMAGED: 4, Verdict.UNCHECKED: 5}


@dataclass(frozen=True, slots=True)
class Verification:
    """What verifying one backup came to."""

    directory: Path
    id: str
    """Empty when the record could not be read."""
    level: str
    """`deep`: every byte, and all that an engine can open; `full`: every byte; `part`: some of them; `quick`: names and
    sizes only. Names and sizes always of all files."""
    findings: tuple[Finding, ...]
    files: int
    bytes: int
    omissions: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    covered: int = 0
    """Bytes of the files whose content was held against the record, one after the other."""
    read: int = 0
    """Bytes read for that: less where a file is shared with a backup that was read before in the same run."""
    left: int = 0
    """Bytes that are still to be covered in this round."""
    left_files: int = 0
    reached: int = 0
    """Files of the inventory, from its first line on, that are covered in this round."""
    fingerprint: str = ""
    """Of the stored files as they were found; empty when no list could be trusted."""
    since: datetime | None = None
    """When the round began that this is a part of; None for a whole verification."""
    damaged_at: datetime | None = None
    """When an earlier verification found damage that this part does not disprove."""
    remembered: bool = False
    made_by: str = ""
    """Another tool and its version; empty for our own."""
    unproved: tuple[Unproved, ...] = ()
    deep: Deepened | None = None
    """What the engines said; None when they were not asked."""
    rehearsed: Rehearsed | None = None
    """What restoring it into scratch came to; None when that was not done."""
    also_damaged: tuple[str, ...] = ()
    """Ids of the backups that share an altered file: it is the same bytes on the disk."""

    @property
    def verdict(self) -> Verdict:
        verdict = Verdict.DAMAGED if self.damaged_at else judge(self.findings)
        return Verdict.UNCHECKED if verdict is Verdict.INTACT and self.unproved else verdict

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


class Why(StrEnum):
    """Why a backup was not looked at."""

    FRESH = "verified not long ago"
    NO_TIME = "no time left"


@dataclass(frozen=True, slots=True)
class Unread:
    """A backup that was to be verified and was not looked at."""

    directory: Path
    id: str
    """Empty when the record could not be read."""
    why: Why
    left: int
    """Bytes that are still to be covered in its round."""
    seal: Seal | None

    @property
    def exit_code(self) -> int:
        """What was found damaged stays so until it is read again."""
        return EXIT_CODES[Verdict.DAMAGED if self.seal and not self.seal.intact else Verdict.INTACT]


def judge(findings: Iterable[Finding]) -> Verdict:
    """Damage outweighs what could not be checked; nothing found is intact."""
    kinds = {type(finding) for finding in findings}
    if kinds - {Unreadable}:
        return Verdict.DAMAGED
    return Verdict.UNCHECKED if kinds else Verdict.INTACT


# -- what is remembered --------------------------------------------------------------------------


class Fingerprint:
    """What the stored files look like, in the order of the inventory: the same as long as nobody touched one."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, path: str, identity: Identity | None) -> None:
        """None: there is no file."""
        self._digest.update(f"{path}\0{identity}\n".encode(errors="surrogateescape"))

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def seal_after(
    found: Verification, digest: str, *, before: Seal | None, under_way: Round | None, now: datetime
) -> Seal | None:
    """What is known of a backup after it was verified; None: nothing new.

    `digest`: of its record; `under_way`: the round that `found` went on with; `now`: when it began. A round that is
    through is a full verification as old as the first byte of it.
    """
    match judge(found.findings):
        case Verdict.DAMAGED:
            return Seal(digest, now, found.level, intact=False)
        case Verdict.UNCHECKED:
            part = _after_reading(found, digest, before, under_way, now) if found.level == "part" else None
            return doubted(part or before, digest, now)
        case Verdict.INTACT:
            return None if found.level == "quick" else _after_reading(found, digest, before, under_way, now)


def doubted(seal: Seal | None, digest: str, now: datetime) -> Seal:
    """What is known, and that a file could not be read: till then it was what the seal says."""
    return replace(seal or Seal(digest, None, "part", intact=True), unread_at=now)


def _after_reading(
    found: Verification, digest: str, before: Seal | None, under_way: Round | None, now: datetime
) -> Seal | None:
    """Of what could be read, and was right."""
    deep = _deep(found, now) or (before.deep if before else None)
    proven = found.rehearsed is not None and found.rehearsed.whole
    rehearsed = now if proven else before.rehearsed_at if before else None
    if under_way and under_way.fingerprint != found.fingerprint:  # touched while it was read: what was read when?
        return replace(before, round=None) if before else None
    started = under_way.started_at if under_way else now
    if not found.left_files:
        level = "deep" if found.level == "deep" else "full"
        sealed = Seal(digest, started, level, True, found.fingerprint, deep=deep, rehearsed_at=rehearsed)
        return None if judge(found.findings) is Verdict.UNCHECKED else sealed
    if not found.covered:
        return None
    done = found.covered + (under_way.bytes if under_way else 0)
    reached = Round(started, found.reached, done, found.fingerprint)
    return replace(before or Seal(digest, None, "part", intact=True), round=reached)


def _deep(found: Verification, now: datetime) -> Deep | None:
    """What the engines proved, when they proved all there is to prove."""
    if found.level != "deep" or not found.deep:
        return None
    return Deep(now, {proved.name: (proved.proof.points, proved.proof.digest) for proved in found.deep.collections})


def urgency(seal: Seal | None, deep: bool = False, *, rehearse: bool = False) -> tuple[float, bool]:
    """Sorts what was longest unverified (`deep`: by its engines; `rehearse`: not restored) first; of what never was,
    what is half done."""
    if seal is None:
        return 0, True
    if rehearse:
        return seal.rehearsed_at.timestamp() if seal.rehearsed_at else 0, False
    if deep:
        return seal.deep.proved_at.timestamp() if seal.deep else 0, False
    return seal.verified_at.timestamp() if seal.verified_at else 0, seal.round is None


# -- how much ------------------------------------------------------------------------------------

_BUDGET = {
    "d": timedelta(days=1),
    "h": timedelta(hours=1),
    "m": timedelta(minutes=1),
    "s": timedelta(seconds=1),
}


def parse_percent(text: str) -> float:
    """`10%` as 10.0. Raises UsageError, naming the text."""
    match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%", text, re.ASCII)
    if not match or not 0 < float(match[1]) <= 100:
        raise UsageError(f"not a share: {text!r}", hint="write it as 10%: more than 0%, at most 100%")
    return float(match[1])


def parse_budget(text: str) -> timedelta:
    """`5m`, `1h30m`, `45s`: m is minutes here. Raises UsageError, naming the text."""
    amounts = re.findall(r"([0-9]+)([dhms])", text)
    if not re.fullmatch(r"([0-9]{1,6}[dhms])+", text, re.ASCII) or len({unit for _, unit in amounts}) < len(amounts):
        raise UsageError(
            f"not a time to spend: {text!r}", hint="write it as 5m or 1h30m: d, h, m (minutes), s, each once"
        )
    budget = sum((int(amount) * _BUDGET[unit] for amount, unit in amounts), timedelta())
    if not budget:
        raise UsageError(f"no time to spend: {text!r}", hint="write it as 5m or 1h30m")
    return budget
