"""Look at a catalog: one backup, all of them, those to verify. For what needs no settings but the catalog's place."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from docmind_backup import catalog as catalogs
from docmind_backup.catalog import Catalog
from docmind_backup.core import format as fmt
from docmind_backup.core.model import Backup, BrokenBackup
from docmind_backup.core.proposing import command
from docmind_backup.errors import BackupError, DamageFound, FormatTooNew, NoSuchBackup

if TYPE_CHECKING:
    from docmind_backup.ledger import Begun

LISTED = "`docmind-backup list` shows what is there"


@dataclass(frozen=True, slots=True)
class Look:
    """What looking and verifying work on."""

    catalog: Catalog
    clock: Callable[[], datetime]
    ticks: Callable[[], float] = time.monotonic
    """Seconds that no clock change touches, for deadlines."""


def show(look: Look, text: str) -> Backup:
    """One backup by `latest`, id, prefix or path."""
    directory = look.catalog.find(text, now=look.clock())
    return read(look, directory)


def word_for(look: Look, directory: Path, identity: str) -> str:
    """What a command that looks in this catalog finds the backup by: its id, else its path."""
    try:
        found = look.catalog.find(identity, now=look.clock())
        known = found.samefile(directory) and found.parent.samefile(look.catalog.root)
    except (BackupError, OSError):
        known = False
    return identity if known else str(directory)


def left_by(look: Look, backup: Backup) -> tuple[Begun, ...]:
    """What the run that made it could not clean up on the server, and wrote down."""
    from docmind_backup.ledger import Ledger

    notes = Ledger(beside(look, backup.directory).servers).pending()
    return tuple(note for note in notes if note.backup_id == backup.id)


def beside(look: Look, directory: Path) -> Catalog:
    """The catalog that `directory` lies in: where it is held, sealed and pruned."""
    return look.catalog if directory.parent == look.catalog.root else Catalog(directory.parent)


def read(look: Look, directory: Path) -> Backup:
    """The backup in a folder that was found. NoSuchBackup where it went meanwhile, DamageFound, FormatTooNew."""
    try:
        return beside(look, directory).read(directory)
    except FormatTooNew:
        raise
    except FileNotFoundError as error:
        if not os.path.lexists(directory):
            raise NoSuchBackup(f"{directory} is gone", hint=LISTED) from error
        raise NoSuchBackup(
            f"{directory} was not made by this tool: it has no {fmt.RECORD}",
            hint=LISTED,
        ) from error
    except (ValueError, OSError) as error:
        raise DamageFound(
            f"the record of {directory} cannot be used: {error}", hint=command("verify", directory)
        ) from error


def find_all(look: Look) -> tuple[Path, ...]:
    """Every directory in the catalog that claims to be a backup of ours, newest first."""
    found = tuple(i.directory for i in look.catalog.items() if isinstance(i, Backup | BrokenBackup))
    if not found:
        raise NoSuchBackup(f"no backups in {look.catalog.root}", hint="`docmind-backup create` makes the first")
    return found


def find_to_verify(look: Look, text: str) -> tuple[Path, ...]:
    """What `verify TEXT` looks at; of `latest`: each newer folder whose record is broken, too."""
    if text != "latest":
        return (look.catalog.find(text, now=look.clock()),)
    broken = broken_newer(look)
    try:
        return (*broken, look.catalog.find("latest", now=look.clock()))
    except NoSuchBackup:
        if broken:
            return broken
        raise


def broken_newer(look: Look) -> tuple[Path, ...]:
    """Folders that are called a backup, newer by their name than the newest usable one, and cannot be read."""
    items = look.catalog.items()
    newest = max((_made_at(item.directory) for item in items if isinstance(item, Backup)), default="")
    found = (item.directory for item in items if isinstance(item, BrokenBackup) and not item.too_new)
    return tuple(directory for directory in found if _made_at(directory) >= newest)


def _made_at(directory: Path) -> str:
    """`YYYYMMDD_HHMMSS`, from the name: all that a broken record leaves."""
    match = catalogs.NAME.match(directory.name)
    return match["id"][:15] if match else ""
