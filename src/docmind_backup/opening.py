"""Open a backup to restore from, whoever made it. Another tool's is read, and never written to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from docmind_backup import durable, foreign, plain
from docmind_backup.catalog import read_limited
from docmind_backup.copying import Copier, SourceError, open_source
from docmind_backup.core import format as fmt
from docmind_backup.core import restorable
from docmind_backup.core.foreign import Foreign
from docmind_backup.core.model import Advanced, Backup, Entry, OnEvent, Record, RunStarted
from docmind_backup.core.proposing import command
from docmind_backup.errors import DamageFound
from docmind_backup.looking import Look, show

Papers = Callable[[Path], None]
"""Puts what a way back needs of the backup into a run's folder."""
RECORD_COPY = "record.json"
"""In a run's folder: the backup's record, for a way back when the backup is out of reach. Put there last."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A backup that a restore can read."""

    backup: Backup
    foreign: Foreign | None = None
    """None when it is ours."""

    def narrowed(self, record: Record) -> Opened:
        """With only what `record` says."""
        return replace(self, backup=replace(self.backup, record=record))

    @property
    def wrong(self) -> tuple[str, ...]:
        """Damage that shows at once."""
        return tuple(restorable.wrong(self.foreign, self.backup.record)) if self.foreign else ()

    @property
    def digest(self) -> str:
        """Of what it says of itself: a plan in a file is of this one."""
        if self.foreign:
            return restorable.fingerprint(self.foreign)
        return fmt.record_digest(read_limited(self.backup.directory / fmt.RECORD))


def open_backup(look: Look, text: str) -> Opened:
    """One backup by `latest`, id, prefix, name in the root or path. NoSuchBackup, or DamageFound."""
    directory = look.catalog.find(text, now=look.clock())
    try:
        found = foreign.look(directory)
    except (foreign.NotUsable, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DamageFound(
            f"{directory} was made by another tool and cannot be read: {why}", hint=command("verify", directory)
        ) from error
    if found is None:
        return Opened(show(look, text))
    return Opened(Backup(directory, restorable.worth(found)), found)


def entries(opened: Opened) -> Iterable[Entry] | None:
    """Everything in it; None where the inventory tells."""
    return opened.foreign.entries if opened.foreign else None


def ready(opened: Opened, on_event: OnEvent) -> tuple[Backup, Papers]:
    """The backup with an inventory that has a sum of everything wanted; and what a run puts into its folder.

    Reads all files of which nobody wrote down a sum. Raises DamageFound as check_inventory.
    """
    backup = opened.backup
    if opened.foreign is None:
        check_inventory(backup)
        return backup, lambda folder: _put_record(folder, read_limited(backup.directory / fmt.RECORD))
    measured = dict(_measure(opened, opened.foreign, on_event))
    record, lines = restorable.described(opened.foreign, backup.record, measured)

    def put(folder: Path) -> None:
        durable.replace(folder / fmt.INVENTORY, b"".join(lines))
        _put_record(folder, fmt.record_bytes(record))

    return replace(backup, record=record), put


def check_inventory(backup: Backup) -> None:
    """DamageFound unless it is the one that the record describes: what lacks a line in it would be left out unsaid."""
    path = backup.directory / fmt.INVENTORY
    try:
        right = plain.sha256(path) == backup.record.digests.get(fmt.INVENTORY)
        problem = "" if right else "it is not the one that the record describes"
    except OSError as error:
        problem = error.strerror or "it cannot be read"
    if problem:
        raise DamageFound(
            f"{path} cannot be used: {problem}",
            hint=f"restore another backup; `{command('verify', backup.directory)}`",
        )


def put_nothing(_folder: Path) -> None:
    """For a run whose folder has its papers."""


def _put_record(folder: Path, record: bytes) -> None:
    durable.replace(folder / RECORD_COPY, record)


def _measure(opened: Opened, found: Foreign, on_event: OnEvent) -> Iterator[tuple[str, tuple[int, str]]]:
    """What cannot be read is left out: it is named when it is to be copied."""
    wanted = tuple(restorable.unsummed(found, opened.backup.record))
    on_event(RunStarted(sum(max(0, size) for _, size in wanted), 0, 0))
    copier = Copier(lambda count: on_event(Advanced(count)))
    for path, _ in wanted:
        try:
            fd = open_source(opened.backup.directory / path)
        except SourceError:
            continue
        try:
            sha256, size = copier.hash(fd, copier.on_bytes)
            yield path, (size, sha256)
        except OSError:
            continue
        finally:
            os.close(fd)
