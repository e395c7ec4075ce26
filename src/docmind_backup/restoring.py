"""Carry out a restore: stage, verify, swap by renames, check; or take it back. Old or new when it ends, never a mix."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from docmind_backup import durable
from docmind_backup.bringing import LOCKED, Brought, Damage, bring
from docmind_backup.catalog import LOCK, NAME, remove
from docmind_backup.core import format as fmt
from docmind_backup.core.journal import (
    Checked,
    Journal,
    Notes,
    Phase,
    Piece,
    Rename,
    Returning,
    Swap,
    absent,
    ahead,
    back,
    leaving,
    lost,
)
from docmind_backup.core.model import OnEvent, Record
from docmind_backup.core.restore import SIDECARS
from docmind_backup.errors import BackupError, DamageFound, Interrupted, NoSpace
from docmind_backup.inuse import Used, application_kept_out, refuse_used
from docmind_backup.journal import WAYS_OUT, RestoreFolder
from docmind_backup.opening import Papers
from docmind_backup.reach import lexists, near, walk
from docmind_backup.restored import check_files, check_meaning, check_rows, count

Returnings = Callable[[Callable[[str], Notes], Path], Sequence[Returning]]
"""Makes the collections of a restore, given each one's notes, and a folder that stays until it is taken back or
discarded."""
NAMED = 5
"""Damaged files that are named at most."""
OLD_IN_PLACE = "free some space; what was there before is in its place"
NEW_IN_PLACE = "free some space, then give it again; what was restored is still in its place"
GOING_BACK = (
    "free some space, then `docmind-backup restore --rollback` goes on; until it has ended, what was restored is in"
    " place, or a part of it"
)
BACK = "free some space, then `docmind-backup restore --rollback` ends it; what was there before is in its place"
NOT_DELETED = "free some space, then give it again; nothing was deleted"
DELETING = "free some space, then `docmind-backup restore --resume` goes on deleting"


def no_collections(_notes: Callable[[str], Notes], _folder: Path) -> Sequence[Returning]:
    """For a backup without a server's collections, or a restore without them."""
    return ()


class Restoration:
    """One restore under way, from whatever its journal says. Holding the lock of its folder."""

    def __init__(self, folder: RestoreFolder, journal: Journal, collections: Returnings, on_event: OnEvent) -> None:
        self.folder = folder
        self.journal = journal
        self.came = (0, 0)
        """Files and bytes that really came."""
        self._on_event = on_event
        beside = folder.path / journal.run / "collections"
        self._returning = tuple(collections(lambda name: _Notes(self, name), beside))
        if not journal.collections:
            self.journal = replace(journal, collections=tuple(one.name for one in self._returning))

    # -- forwards

    def run(self, record: Record, papers: Papers) -> tuple[Checked, ...]:
        """Finish it, and say what was checked; whatever is raised, what was there is there again.

        Only an environment in use leaves an interrupted restore as it is. `record`: what of the backup comes back;
        `papers` puts what has to be known of it into the run's folder.
        """
        _refuse_lost(self.journal)
        refuse_in_use(self.journal.pieces)
        try:
            with target_errors(self.folder.home):
                if self.journal.phase is Phase.STAGING:
                    self._stage(papers)
                with application_kept_out(_lockable(self.journal.pieces)):
                    refuse_used(_used(self.journal.pieces))
                    self._swap()
                    for one in self._returning:
                        one.apply()
                    checks = self._check(record)
                self._end()
        except BaseException as error:
            self._give_up(error)
            raise
        return checks

    def write(self, journal: Journal) -> None:
        """Remember how far it got; on the disk when this returns."""
        self.journal = journal
        self.folder.write(journal)

    def _stage(self, papers: Papers) -> None:
        """Everything is beside its place, verified and on the disk, when this returns."""
        journal = self.journal
        self.write(journal)
        for path in journal.made:
            Path(path).mkdir(exist_ok=True)
        for path in journal.folders:
            Path(path).mkdir(mode=0o700, exist_ok=True)
            _remove_tree(Path(path, "new"))
        papers(self.folder.path / journal.run)
        with ExitStack() as stack:
            flushers = [(durable.Flusher(folder), folder) for folder in map(Path, journal.folders)]
            for flusher, _ in flushers:
                stack.callback(flusher.close)
            brought = bring(Path(journal.directory), Path(journal.listed_in), journal.pieces, self._on_event)
            self._refuse_damage([damage for one in brought for damage in one.damaged])
            for flusher, folder in flushers:
                flusher.flush(folder)
        for path in journal.made:
            durable.fsync_directory(Path(path).parent)
        for one in self._returning:
            one.prepare()
        left_out = tuple(damage.path for one in brought for damage in one.damaged)
        self.journal = replace(self.journal, swaps=tuple(_swaps(brought)), left_out=left_out)

    def _refuse_damage(self, damaged: Sequence[Damage]) -> None:
        if damaged and not self.journal.skip_damaged:
            more = f" and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
            raise DamageFound(
                f"the backup is damaged: {'; '.join(map(str, damaged[:NAMED]))}{more}; nothing was changed",
                hint="restore another one, or give --skip-damaged to leave these files out",
            )

    def _swap(self) -> None:
        """All old things leave, then all new ones come: at no moment are some of each in place."""
        if self.journal.phase is Phase.STAGING:
            had = tuple(replace(swap, had=os.path.lexists(swap.live)) for swap in self.journal.swaps)
            self.write(replace(self.journal, phase=Phase.SWAPPING, swaps=had))
        swaps = self.journal.swaps
        _rename_all(step for swap in swaps if (step := ahead(swap, os.path.lexists)) and step.new == swap.kept)
        _rename_all(step for swap in swaps if (step := ahead(swap, os.path.lexists)))

    def _check(self, record: Record) -> tuple[Checked, ...]:
        journal = self.journal
        pieces = arrived(journal)
        self.came = count(journal, pieces)
        wrong = check_files(journal, pieces, self._on_event)
        if wrong:
            raise BackupError(
                f"what was restored is not right where it lies: {'; '.join(map(str, wrong[:NAMED]))}",
                hint="is the disk sound? What was there before is back",
            )
        how = "each read again: sha256, mode and time" if journal.read_back else "mode and time; hashed when copied"
        read = (Checked("files", f"{self.came[0]:,} as in the backup ({how})"),) if pieces else ()
        asked = (check for one in self._returning for check in one.check())
        meaning = check_meaning(record, pieces, Path(journal.listed_in))
        return (*read, *meaning, *check_rows(record, pieces), *asked)

    def _end(self) -> None:
        journal = replace(self.journal, phase=Phase.DONE)
        if journal.aside:
            self.journal = journal
            self._remove_folders()
            self.folder.forget()
            return
        for folder in journal.folders:
            _remove_tree(Path(folder, "new"))
        self.journal = journal
        self.folder.finish(journal)

    # -- back

    def _give_up(self, error: BaseException) -> None:
        """After a failure within the run: nobody has used what came, so nothing of it is kept."""
        try:
            self._return()
            self._clear()
        except Interrupted as second:
            second.hint = WAYS_OUT
            raise
        except Exception as second:
            why = "" if str(second) in str(error) else f": {second}"
            failed = BackupError(
                f"{error}; and what was there could not be brought back{why}",
                hint="`docmind-backup restore --rollback` tries again",
            )
            failed.exit_code = error.exit_code if isinstance(error, BackupError | Interrupted) else failed.exit_code
            raise failed from error

    def take_back(self) -> None:
        """What was there before is there again. Raises Locked while the environment is in use.

        BackupError, and nothing is changed, where what was kept is not there any more.
        """
        _refuse_lost(self.journal)
        was_done = self.journal.was_done or self.journal.phase is Phase.DONE
        self.came = count(self.journal, arrived(self.journal))
        with target_errors(self.folder.home, full=GOING_BACK), application_kept_out(_lockable(self.journal.pieces)):
            refuse_used(_used(self.journal.pieces))
            self.journal = replace(self.journal, was_done=was_done)
            self._return()
        with target_errors(self.folder.home, full=BACK):
            if not was_done or not any(swap.leaves for swap in self.journal.swaps):
                self._clear()
                return
            for folder in self.journal.folders:
                _remove_tree(Path(folder, "old"))
                _remove_tree(Path(folder, "collections"))
            self._remove_made()
            self.journal = replace(self.journal, phase=Phase.UNDONE)
            self.folder.finish(self.journal)

    def _return(self) -> None:
        if self.journal.phase in (Phase.SWAPPING, Phase.DONE):
            swaps = tuple(leaving(swap, os.path.lexists) for swap in self.journal.swaps)
            with target_errors(self.folder.home, full=NEW_IN_PLACE):
                self.write(replace(self.journal, phase=Phase.RETURNING, swaps=swaps))
        for one in reversed(self._returning):
            one.roll_back()
        if self.journal.phase is Phase.RETURNING:
            swaps = self.journal.swaps
            _rename_all(step for swap in swaps if (step := back(swap, os.path.lexists)) and step.new == swap.staged)
            _rename_all(step for swap in swaps if (step := back(swap, os.path.lexists)))

    def _clear(self) -> None:
        """Nothing is left of it."""
        self._remove_folders()
        self._remove_made()
        self.folder.forget()

    def _remove_made(self) -> None:
        for path in reversed(self.journal.made):
            with suppress(OSError):
                Path(path).rmdir()

    # -- when it is accepted

    def discard(self) -> None:
        """Delete what it keeps. Refuses when a catalog of backups is in there."""
        _refuse_absent(self.journal)
        for folder in self.journal.folders:
            _refuse_catalog(Path(folder))
        self.came = count(self.journal, arrived(self.journal))
        with target_errors(self.folder.home, full=NOT_DELETED):
            if self.journal.phase is Phase.DONE:
                self.write(replace(self.journal, phase=Phase.DISCARDING))
            elif self.journal.phase is Phase.UNDONE:
                self._returning = ()  # rolling back left nothing to discard
                self.write(replace(self.journal, phase=Phase.DISCARDING, collections=()))
        with target_errors(self.folder.home, full=DELETING):
            for one in self._returning:
                one.discard()
            self._remove_folders()
            self.folder.forget()

    def left_behind(self) -> tuple[str, ...]:
        """What stays on a server, in words."""
        return tuple(words for one in self._returning for words in one.left_behind())

    # -- what it works on

    def _remove_folders(self) -> None:
        for folder in self.journal.folders:
            _remove_tree(Path(folder))


class _Notes:
    """One collection's part of the journal."""

    def __init__(self, restoration: Restoration, name: str) -> None:
        self._restoration = restoration
        self._name = name

    def get(self) -> dict[str, object]:
        return dict(self._restoration.journal.notes.get(self._name, {}))

    def put(self, state: Mapping[str, object]) -> None:
        self._restoration.write(self._restoration.journal.noting(self._name, state))


def arrived(journal: Journal) -> tuple[Piece, ...]:
    """Those that are swapped in: without a database that stayed out as a whole."""
    come = {swap.live for swap in journal.swaps if swap.comes}
    return tuple(piece for piece in journal.pieces if piece.live in come)


def _swaps(brought: Iterable[Brought]) -> Iterator[Swap]:
    """A database leaves with every sidecar it may have, also with those that are not there yet."""
    for one in brought:
        piece, came = one.piece, [suffix for suffix in one.suffixes if "/" not in suffix]
        for suffix in dict.fromkeys(("", *SIDECARS.get(piece.kind, ()), *came)) if one.whole else ():
            live = f"{piece.live}{suffix}"
            yield Swap(live, piece.staged(suffix), piece.kept(suffix), comes=suffix in came, had=False)


# -- who uses it -----------------------------------------------------------------------------------


def refuse_in_use(pieces: Sequence[Piece]) -> None:
    """Raises Locked, naming who uses what these replace and what to stop. Only looks."""
    with application_kept_out(_lockable(pieces)):
        refuse_used(_used(pieces))


def _used(pieces: Iterable[Piece]) -> list[Used]:
    return [Used(Path(piece.live), piece.kind) for piece in pieces]


def _lockable(pieces: Iterable[Piece]) -> Iterator[Path]:
    """Trees that the application locks, wherever they are now: the swap renames the locked files away."""
    for piece in pieces:
        if piece.part in LOCKED:
            yield from map(Path, (piece.staged(), piece.live, piece.kept()))


# -- what is kept ----------------------------------------------------------------------------------


def _refuse_lost(journal: Journal) -> None:
    """Before anything is written: what has to move lies where the journal has it."""
    _refuse_absent(journal)
    if gone := lost(journal, os.path.lexists):
        done = journal.phase is Phase.DONE
        raise BackupError(
            f"what was at {', '.join(gone[:NAMED])} before is not where it was kept; nothing was changed",
            hint="`docmind-backup restore --discard-rollback` accepts what is in place"
            if done
            else "put it back there",
        )


def _refuse_absent(journal: Journal) -> None:
    for folder in absent(journal, os.path.lexists):
        raise BackupError(
            f"{folder} is not there, in which this restore keeps what it moved; nothing was changed",
            hint="mount its file system; where that is gone for good, make an empty folder of that name",
        )


# -- deeds on the disk -----------------------------------------------------------------------------------


def _rename_all(steps: Iterable[Rename]) -> None:
    """One after the other, each on the disk before the next: `steps` looks at what is there as it goes."""
    for step in steps:
        old, new = Path(step.old), Path(step.new)
        new.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.path.lexists(new):
            raise BackupError(f"{new} appeared while it was being replaced", hint="who made it? Move it away")
        old.rename(new)
        durable.fsync_directory(old.parent)
        durable.fsync_directory(new.parent)


def _remove_tree(path: Path) -> None:
    """A folder of ours, also with folders in it that may not be written."""
    if not os.path.lexists(path):
        return
    for folder, _, _ in walk(str(path)):
        with suppress(OSError), near(folder) as (above, name):
            if not stat.S_IMODE(os.stat(name, dir_fd=above).st_mode) & stat.S_IWUSR:
                os.chmod(name, 0o700, dir_fd=above)
    remove(path)


def _refuse_catalog(folder: Path) -> None:
    """Backups are deleted by prune and by nobody else."""
    for here, folders, files in walk(str(folder)):
        if LOCK in files or any(NAME.match(n) and lexists(f"{here}/{n}/{fmt.RECORD}") for n in folders):
            raise BackupError(
                f"{here} holds backups: what this restore keeps is not deleted",
                hint="move the backups elsewhere, then give the command again",
            )


@contextmanager
def target_errors(home: Path, *, full: str = OLD_IN_PLACE) -> Iterator[None]:
    """Errors of the target's disks in the tool's words; `full`: what to do when one is full, and how things stand."""
    try:
        yield
    except OSError as error:
        where = error.filename or home
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"the disk is full at {where}", hint=full) from error
        raise BackupError(
            f"cannot restore: {where}: {error.strerror or type(error).__name__}",
            hint="check the permissions and the health of that file system",
        ) from error
