"""Decide whether what lies in a backup is what its record says. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from docmind_backup.core.model import DirEntry, Entry, FileEntry, LinkEntry, Omission


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
class Observed:
    """One thing as it lies there."""

    kind: str
    """`file`, `link`, `directory` or `other`."""
    size: int = 0
    sha256: str = ""
    """Empty when the content was not read."""
    target: str = ""


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
    """`full`: every byte read; `quick`: names and sizes only."""
    findings: tuple[Finding, ...]
    files: int
    bytes: int
    omissions: tuple[Omission, ...] = ()
    notes: tuple[str, ...] = ()
    remembered: bool = False
    also_damaged: tuple[str, ...] = ()
    """Ids of the backups that share an altered file: it is the same bytes on the disk."""

    @property
    def verdict(self) -> Verdict:
        return judge(self.findings)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.verdict]


def judge(findings: Iterable[Finding]) -> Verdict:
    """Damage outweighs what could not be checked; nothing found is intact."""
    kinds = {type(finding) for finding in findings}
    if kinds - {Unreadable}:
        return Verdict.DAMAGED
    return Verdict.UNCHECKED if kinds else Verdict.INTACT
