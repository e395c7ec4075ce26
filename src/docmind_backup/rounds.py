"""Verify backups, wholly, deep or a part each time, and remember how far it got. The longest unverified comes first."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

from docmind_backup import catalog as catalogs
from docmind_backup import foreign, proving, sharing
from docmind_backup import verify as verifying
from docmind_backup.catalog import STATE, Catalog, reading
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, OnEvent, Round, Seal, ignore
from docmind_backup.core.rotator import parse_within
from docmind_backup.core.verifier import (
    Altered,
    Unproved,
    Unread,
    Unreadable,
    Verification,
    Why,
    doubted,
    parse_budget,
    parse_percent,
    seal_after,
    urgency,
)
from docmind_backup.errors import BackupError, UsageError
from docmind_backup.looking import Look, beside
from docmind_backup.verify import Known, Portion

T = TypeVar("T")
Rehearse = Callable[[Verification, Backup, OnEvent], Verification]
"""Restores a verified backup into scratch, and adds to the verification what that came to."""
NO_REHEARSAL = "another tool's backup has no inventory to hold a restored file against"


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is verified: everything, unless one of these says otherwise. Raises UsageError for a contradiction."""

    quick: bool = False
    """Names and sizes only."""
    deep: bool = False
    """Each backup wholly, and all that an engine can open; a time to spend is then for beginning a backup."""
    percent: float | None = None
    """Of the bytes of all backups together, going on where the last part ended."""
    max_age: timedelta | None = None
    """Backups that were read wholly not longer ago, and were not touched since, are left alone."""
    budget: timedelta | None = None
    """No file is begun later than this after the start."""
    rehearse: bool = False
    """Each backup wholly, and then it is restored into scratch."""

    def __post_init__(self) -> None:
        if self.quick and (self.percent, self.max_age, self.budget) != (None, None, None):
            raise UsageError(
                "--quick reads no contents: --sample, --max-age and --time-budget have nothing to choose from",
                hint="give one or the other",
            )
        if self.deep and self.quick:
            raise UsageError("--deep reads everything and --quick nothing", hint="give one or the other")
        if self.deep and self.percent is not None:
            raise UsageError(
                "--deep opens whole backups: a share of one cannot be proved",
                hint="--time-budget and --max-age go with --deep",
            )

        if self.rehearse and (self.quick or self.percent is not None):
            raise UsageError(
                f"--rehearse restores whole backups: it contradicts {'--quick' if self.quick else '--sample'}",
                hint="--time-budget and --max-age go with --rehearse",
            )

    @property
    def chooses(self) -> bool:
        """Whether something may be left for another time: then the order matters."""
        return (self.percent, self.budget, self.max_age) != (None, None, None)

    @property
    def in_parts(self) -> bool:
        return not (self.deep or self.rehearse) and (self.percent is not None or self.budget is not None)


def parse_extent(
    *,
    quick: bool,
    deep: bool,
    sample: str | None,
    max_age: str | None,
    time_budget: str | None,
    rehearse: bool = False,
) -> Extent:
    """From the words of the command line. Raises UsageError, naming the option and what was given."""
    return Extent(
        quick,
        deep,
        _parsed("--sample", parse_percent, sample),
        _parsed("--max-age", parse_within, max_age),
        _parsed("--time-budget", parse_budget, time_budget),
        rehearse,
    )


def _parsed(option: str, parse: Callable[[str], T], text: str | None) -> T | None:
    try:
        return parse(text) if text is not None else None
    except UsageError as error:
        raise UsageError(f"{option}: {error}", hint=error.hint) from None


class Verifier:
    """One run over some backups, to be verified in `order`."""

    def __init__(
        self, look: Look, directories: Sequence[Path], extent: Extent, rehearse: Rehearse | None = None
    ) -> None:
        self._look = look
        self._extent = extent
        self._rehearse = rehearse
        self._known = Known()
        self._deadline = look.ticks() + extent.budget.total_seconds() if extent.budget else math.inf
        self._share: int | None = None
        """Bytes that are still to be covered in this run; None: no share was asked for."""
        self.order = tuple(directories)
        if extent.chooses:
            self._choose()

    def _choose(self) -> None:
        found = {directory: _found(self._look, directory) for directory in self.order}
        seals = {directory: backup.seal if backup else None for directory, backup in found.items()}
        self.order = tuple(sorted(self.order, key=lambda directory: self._urgency(seals[directory])))
        if self._extent.percent is not None:
            total = sum(backup.record.totals.bytes for backup in found.values() if backup)
            self._share = max(1, math.ceil(total * self._extent.percent / 100))

    def _urgency(self, seal: Seal | None) -> tuple[float, bool]:
        return urgency(seal, self._extent.deep, rehearse=self._extent.rehearse)

    def verify(self, directory: Path, on_event: OnEvent = ignore) -> Verification | Unread:
        """Read one backup back, as far as it is its turn, and remember the outcome beside it where that can be written.

        Raises FormatTooNew and CannotCheck.
        """
        backup = _found(self._look, directory)
        if self._late():
            return _unread(directory, backup, Why.NO_TIME)
        if backup and self._is_fresh(backup):
            return _unread(directory, backup, Why.FRESH)
        if not backup and (found := self._foreign(directory, on_event)):
            return found
        started = self._look.clock()
        digest = _record_digest(directory)  # before the check: a record replaced meanwhile is not sealed
        seal = backup.seal if backup else None
        under_way = self._under_way(directory, seal)
        with reading(directory):
            found = verifying.verify(
                directory,
                quick=self._extent.quick or self._share == 0,
                portion=self._portion(under_way),
                known=self._known,
                on_event=on_event,
            )
            if self._extent.deep:
                found = proving.deepen(found, on_event=on_event)
            if self._rehearse and backup:
                found = self._rehearse(found, backup, on_event)
        if self._share is not None:
            self._share = max(0, self._share - found.covered)
        if self._extent.in_parts:
            found = _in_round(found, seal, under_way, started)
        return self._sealed(found, digest, seal_after(found, digest, before=seal, under_way=under_way, now=started))

    def _foreign(self, directory: Path, on_event: OnEvent) -> Verification | None:
        """Another tool's backup: always the whole of it, and nothing is remembered. None when it is none."""
        try:
            looked = foreign.look(directory)
        except foreign.NotUsable as error:
            return foreign.unusable(directory, str(error))
        except OSError:
            return None
        if looked is None:
            return None
        found = foreign.verify(directory, looked, quick=self._extent.quick, on_event=on_event)
        if self._extent.rehearse:
            cannot = Unproved("a rehearsal", NO_REHEARSAL, "`docmind-backup restore-plan` shows what can be restored")
            found = replace(found, unproved=(*found.unproved, cannot))
        return proving.deepen_foreign(found, looked, on_event=on_event) if self._extent.deep else found

    def _late(self) -> bool:
        return self._look.ticks() >= self._deadline

    def _is_fresh(self, backup: Backup) -> bool:
        """Read wholly and found intact not long ago, and no stored file looks otherwise now."""
        seal, most = backup.seal, self._extent.max_age
        if most is None or seal is None or not (seal.intact and seal.verified_at and seal.fingerprint):
            return False
        if seal.unread_at:
            return False
        at: datetime | None = seal.verified_at
        if self._extent.deep:
            at = seal.deep.proved_at if seal.deep else None
        if self._extent.rehearse:
            at = min(at, seal.rehearsed_at) if at and seal.rehearsed_at else None
        if at is None:
            return False
        age = self._look.clock() - at
        return timedelta() <= age <= most and verifying.fingerprint(backup.directory) == seal.fingerprint

    def _under_way(self, directory: Path, seal: Seal | None) -> Round | None:
        """The round to go on with; None when there is none, or somebody touched what was read."""
        under_way = seal.round if seal and self._extent.in_parts else None
        if under_way and self._share != 0 and verifying.fingerprint(directory) != under_way.fingerprint:
            return None
        return under_way

    def _portion(self, under_way: Round | None) -> Portion | None:
        if not self._extent.in_parts or self._share == 0:
            return None
        files, done = (under_way.files, under_way.bytes) if under_way else (0, 0)
        return Portion(files, done, self._share, self._late)

    def _sealed(self, found: Verification, digest: str, seal: Seal | None) -> Verification:
        if not digest or seal is None:
            also = tuple(b.id for b in _also_damaged(self._look, found, Seal("", self._look.clock(), "full", False)))
            return replace(found, also_damaged=also)
        also = tuple(b.id for b in _also_damaged(self._look, found, seal))
        _doubt_sharers(self._look, found)
        return replace(found, remembered=_remember(self._look, found.directory, seal), also_damaged=also)


def _found(look: Look, directory: Path) -> Backup | None:
    """None when its record cannot be used: verifying it says why."""
    try:
        return beside(look, directory).read(directory)
    except (BackupError, ValueError, OSError):
        return None


def _unread(directory: Path, backup: Backup | None, why: Why) -> Unread:
    total = backup.record.totals.bytes if backup else 0
    seal = backup.seal if backup else None
    left = 0 if why is Why.FRESH else total - (seal.round.bytes if seal and seal.round else 0)
    return Unread(directory, backup.id if backup else "", why, left, seal)


def _in_round(found: Verification, seal: Seal | None, under_way: Round | None, started: datetime) -> Verification:
    """With what only the seal knows: when the round began, and damage that this part says nothing of."""
    unproved = found.left_files > 0 and seal is not None and not seal.intact
    return replace(
        found,
        since=None if found.level == "quick" else under_way.started_at if under_way else started,
        damaged_at=seal.verified_at if seal and unproved else None,
    )


def _also_damaged(look: Look, found: Verification, seal: Seal) -> tuple[Backup, ...]:
    """The backups that share an altered file: damaged as well, and remembered as such."""
    altered = [f.path for f in found.findings if isinstance(f, Altered) and f.path not in fmt.OWN_FILES]
    if not altered:
        return ()
    also = sharing.sharers(found.directory, altered, beside(look, found.directory).backups())
    for backup in also:
        _remember(look, backup.directory, replace(seal, record_sha256=_record_digest(backup.directory)))
    return also


def _doubt_sharers(look: Look, found: Verification) -> None:
    """The backups that share a file which the disk refuses cannot be read wholly either, until one of them can."""
    refused = [f.path for f in found.findings if isinstance(f, Unreadable)]
    for backup in sharing.sharers(found.directory, refused, beside(look, found.directory).backups()) if refused else ():
        seal = doubted(backup.seal, _record_digest(backup.directory), look.clock())
        _remember(look, backup.directory, seal)


def _record_digest(directory: Path) -> str:
    """What a seal holds on to."""
    try:
        return fmt.record_digest(catalogs.read_limited(directory / fmt.RECORD))
    except (OSError, ValueError):
        return ""


def _remember(look: Look, directory: Path, seal: Seal) -> bool:
    root = directory.parent
    if root != look.catalog.root and not os.path.isdir(root / STATE):
        return False
    return Catalog(root).remember(directory, seal)
