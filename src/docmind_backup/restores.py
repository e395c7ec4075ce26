"""Plan a restore, carry it out, finish, undo or accept it: the operations, without a terminal."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from docmind_backup import deep, durable, scripting
from docmind_backup.belonging import check_belonging
from docmind_backup.catalog import read_limited, reading
from docmind_backup.core import format as fmt
from docmind_backup.core import restorable
from docmind_backup.core.foreign import Foreign, Maker
from docmind_backup.core.journal import Checked, Journal, Notes, Phase, Piece
from docmind_backup.core.model import IN_FLIGHT, Backup, OnEvent, Part, Record, Seen, Source, SourceRecord, ignore
from docmind_backup.core.planner import folder_name
from docmind_backup.core.proof import Proof, unknown_to_engine
from docmind_backup.core.proposing import command
from docmind_backup.core.qdrant_rest import same_address
from docmind_backup.core.restore import NO_PLACE, Action, Place, RestorePlan, Target, placed, plan_restore
from docmind_backup.core.selection import Selection, Verdict, compare_env, narrow, partial, read_selection
from docmind_backup.core.server import RestoreTarget
from docmind_backup.errors import (
    BackupError,
    DamageFound,
    Interrupted,
    Locked,
    NoSpace,
    NoSuchBackup,
    PlanOutdated,
    QdrantError,
    UsageError,
)
from docmind_backup.journal import FOLDER, RestoreFolder, refuse_unfinished
from docmind_backup.looking import show, word_for
from docmind_backup.opening import RECORD_COPY, Opened, Papers, open_backup, put_nothing, ready
from docmind_backup.operations import Job, clean_server, target_of, tell_failure
from docmind_backup.restoring import Restoration, Returnings, arrived, no_collections, refuse_in_use, target_errors
from docmind_backup.returning import CollectionReturn, Prove
from docmind_backup.scratch import NoScratch
from docmind_backup.scripting import Script

GONE = "put it back there and give this again, or `docmind-backup restore --rollback` takes back what was begun"

__all__ = ["PlannedRestore", "Restored", "accept", "plan", "restore", "resume", "roll_back", "script"]


@dataclass(frozen=True, slots=True)
class PlannedRestore:
    """What would be done, and with what."""

    opened: Opened
    """Its record narrowed to what is wanted."""
    wanted: Selection
    plan: RestorePlan
    target: Target
    """As it was seen."""
    env: tuple[tuple[str, Verdict], ...] = ()
    """How the two `.env` files compare, where it is not written."""
    word: str = "latest"
    """What a command that looks where this one does finds the backup by."""

    @property
    def backup(self) -> Backup:
        return self.opened.backup

    @property
    def damaged(self) -> bool:
        """As far as it shows, and unless that is accepted."""
        return self.backup.damaged or bool(self.opened.wrong and not self.wanted.skip_damaged)

    def document(self) -> dict[str, Any]:
        """What a plan in a file has to say, and has to find again."""
        return {"selection": self.wanted.document(), "target": dict(self.plan.target)}


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore came to."""

    journal: Journal
    checks: tuple[Checked, ...] = ()
    planned: PlannedRestore | None = None
    """None when it was resumed."""
    left: tuple[str, ...] = ()
    """What stays on the server, in words."""
    came: tuple[int, int] = (0, 0)
    """Files and bytes that really came."""
    again: tuple[str, ...] = ()
    """What `restore` has to be given for the same backup at the same place; nothing when the backup is gone."""

    @property
    def exit_code(self) -> int:
        """What was taken back, or accepted, lacks nothing."""
        wrong = any(not check.right for check in self.checks)
        return 3 if self.journal.phase is Phase.DONE and (self.journal.left_out or wrong) else 0

    @property
    def arrived(self) -> tuple[Piece, ...]:
        return arrived(self.journal)


# -- plan ------------------------------------------------------------------------------------------------


def plan(job: Job, text: str, wanted: Selection | None = None, *, fingerprints: bool = False) -> PlannedRestore:
    """What a restore of the backup to this environment would do; nothing is touched."""
    wanted = wanted or Selection()
    opened = open_backup(job.look, text)
    whole = opened.backup.record
    opened = opened.narrowed(narrow(whole, wanted))
    backup = opened.backup
    if wanted.skip_damaged:
        backup = replace(backup, seal=None)
    target = target_of(job, backup, fingerprints=fingerprints)
    if opened.foreign and opened.foreign.maker is Maker.AI_MEMORY:
        target = replace(target, places=(), layout=backup.record.layout)  # its logs are not DocMind's
    if wanted.to:
        target = _beside(target, backup.record, Path(wanted.to), fingerprints=fingerprints)
    write_env = wanted.wants_env and (wanted.force or not _env_is_there(target))
    decided = plan_restore(backup, target, write_env=write_env)
    if opened.foreign:
        decided = _doubted(decided, opened, opened.foreign, skip_damaged=wanted.skip_damaged)
    decided = replace(decided, warnings=(*partial(whole, opened.backup.record, wanted), *decided.warnings))
    env = () if write_env else tuple(_env(backup, target))
    word = word_for(job.look, backup.directory, backup.record.id)
    return PlannedRestore(replace(opened, backup=backup), wanted, decided, target, env, word)


def _doubted(decided: RestorePlan, opened: Opened, foreign: Foreign, *, skip_damaged: bool) -> RestorePlan:
    """With what another tool's backup cannot prove, and what is wrong with it."""
    record, wrong = opened.backup.record, opened.wrong
    blockers, warnings = (() if skip_damaged else wrong), (wrong if skip_damaged else ())
    if not any(step.action in (Action.COPY, Action.UPLOAD, Action.MERGE) for step in decided.steps):
        blockers = (*blockers, "nothing of it has a place in a DocMind environment; `--to DIR` takes it out")
    checks = (check for check in decided.checks if check.what != "files")
    return replace(
        decided,
        blockers=(*decided.blockers, *blockers),
        warnings=(*decided.warnings, *warnings, *restorable.caveats(foreign, record)),
        checks=(restorable.files_check(foreign, record), *checks),
    )


def _env_is_there(target: Target) -> bool:
    return any(place.seen.exists for place in target.places if place.seen.source.part is Part.ENV)


def _env(backup: Backup, target: Target) -> Iterator[tuple[str, Verdict]]:
    """Where both are there and can be read."""
    source = next((s for s in backup.record.sources if s.part is Part.ENV), None)
    place = next((p for p in target.places if p.seen.source.part is Part.ENV and p.seen.exists), None)
    if source and place:
        with suppress(OSError, ValueError):
            texts = (backup.directory / source.stored, place.seen.source.path)
            yield from compare_env(*(read_limited(path).decode("utf-8", "replace") for path in texts))


def _beside(target: Target, record: Record, to: Path, *, fingerprints: bool) -> Target:
    """The whole environment below another folder, each thing where it lay below the project."""
    near = next(path for path in (to, *to.parents) if path.is_dir())
    free, device = os.statvfs(near), str(near.stat().st_dev)
    places = tuple(
        Place(_unseen(source, to / _below_project(source, record)), (), device, free.f_bavail * free.f_frsize)
        for source in record.sources
    )
    if fingerprints:
        places = tuple(replace(place, fingerprint="absent") for place in places)
    return replace(target, places=places, qdrant=None)


def _below_project(source: SourceRecord, record: Record) -> PurePosixPath:
    origin = PurePosixPath(os.path.normpath(source.origin))
    inside = source.origin and origin.is_relative_to(record.project) and str(origin) != record.project
    return origin.relative_to(record.project) if inside else PurePosixPath(source.stored)


def _unseen(source: SourceRecord, path: Path) -> Seen:
    return Seen(Source(source.part, source.kind, str(path), path, PurePosixPath(source.stored)), 0, 0, exists=False)


def script(planned: PlannedRestore) -> Script:
    """The plan as a shell script for a machine without this tool. Taking its lines raises DamageFound."""
    if planned.opened.foreign:
        raise UsageError(
            f"a script is made from an inventory, and {planned.backup.directory} has none",
            hint=f"`{command('restore', planned.backup.directory)}`",
        )
    return scripting.made(planned.backup, planned.target, planned.plan)


def read_plan(path: Path) -> tuple[str, Selection, dict[str, Any]]:
    """(directory of the backup, what was wanted, all of it) of a plan that `restore-plan --out` wrote."""
    try:
        data = json.loads(read_limited(path))
        if not isinstance(data.get("target", {}), dict):
            raise TypeError("target")
        return str(data["directory"]), read_selection(data["selection"]), data
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else "is not a plan"
        raise UsageError(f"{path} {why}", hint="`docmind-backup restore-plan --out FILE` writes one") from error


def write_plan(path: Path, document: dict[str, Any]) -> None:
    """A plan in a file: 0600, the old one or the new."""
    with target_errors(path.parent):
        durable.replace(Path(os.path.abspath(path)), (json.dumps(document, indent=2) + "\n").encode())


def refuse_outdated(planned: dict[str, Any], now: dict[str, Any]) -> None:
    """PlanOutdated when the target, the backup or what would be done is not as in the plan; nothing was written."""
    old, new = planned.get("target") or {}, now["target"]
    changed = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    if not old:
        changed = ["the plan says nothing of the target"]
    for key in ("backup", "record_sha256", "steps", "selection"):
        if planned.get(key) != now[key] and not changed:
            changed = [f"its {key}"]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise PlanOutdated(
            f"the plan no longer fits, changed since: {', '.join(changed[:3])}{more}; nothing was written",
            hint="plan again: `docmind-backup restore-plan --out FILE`",
        )


# -- carry out ---------------------------------------------------------------------------------------------


def refuse(job: Job, planned: PlannedRestore, *, later: bool = False) -> None:
    """A BackupError with the exit code of what stands in the way, as far as it shows before anything is written.

    `later`: it is not going to be carried out now, and who uses the environment may be stopped until then.
    """
    _, journal = _prepared(job, planned)
    if not later:
        refuse_in_use(journal.pieces)


def _prepared(job: Job, planned: PlannedRestore) -> tuple[Path, Journal]:
    """Where the journal is going to lie, and what will stand in it first."""
    _refuse_blocked(planned)
    _refuse_nothing(planned)
    home = _home(job, planned.wanted)
    with target_errors(home):
        refuse_unfinished(home)
        _refuse_folder(job, home, planned)
        journal = _journal(job, planned, home)
        _refuse_places(job, planned, journal, home)
    return home, journal


def _refuse_blocked(planned: PlannedRestore) -> None:
    decided = planned.plan
    if not decided.blockers:
        return
    text = f"this cannot be restored: {'; '.join(decided.blockers)}"
    if planned.damaged:
        raise DamageFound(text, hint="restore another one, or give --skip-damaged to leave damaged files out")
    if any(space.needed > space.free for space in decided.space):
        raise NoSpace(text, hint="free some space: what is there now is kept beside what comes")
    if set(decided.blockers) == set(decided.astray):
        raise UsageError(f"{text}; nothing was changed", hint="`--only PART` restores the rest")
    kind = QdrantError if all("Qdrant" in blocker for blocker in decided.blockers) else BackupError
    raise kind(text, hint="remove what blocks; `--only PART` restores the rest")


def _refuse_nothing(planned: PlannedRestore) -> None:
    """A restore that would bring nothing is not meant: where `.env` is all, it comes only when it is asked for."""
    actions = {step.action for step in planned.plan.steps}
    if actions & {Action.COPY, Action.UPLOAD}:
        return
    if Action.MERGE not in actions:
        why, hint = "what was asked for is empty in the backup", f"`{command('show', planned.word)}`"
    elif _env_is_there(planned.target):
        asked = "" if planned.wanted.wants_env else "--include-env "
        why, hint = "there is a .env, which is never merged", f"{asked}--force replaces it; the old one is kept"
    else:
        why, hint = "a .env comes back only when it is asked for", "--include-env"
    raise UsageError(f"nothing would be restored: {why}; nothing was changed", hint=hint)


def restore(
    job: Job, planned: PlannedRestore, *, on_event: OnEvent = ignore, again: Callable[[], object] | None = None
) -> Restored:
    """Carry out the plan. Raises a BackupError when the target is as it was before.

    `again` is called when nobody else can come between any more: it raises what stands in the way by then.
    """
    folder = RestoreFolder(_prepared(job, planned)[0])
    with _ours(job, folder, planned.backup.directory):
        _, journal = _prepared(job, planned)
        if again:
            again()
        clean_server(job)
        backup, papers = ready(planned.opened, on_event)
        journal = _numbered(journal.listing(backup.record.sources), folder)
        restoration = Restoration(folder, journal, _collections(job, backup, on_event), on_event)
        checks = (*restoration.run(backup.record, papers), *_afterwards(job, journal, backup.record, on_event))
    done = _restored(restoration, checks, planned)
    _announce(job, "backup_restored", done, complete=done.exit_code == 0)
    return done


def _restored(
    restoration: Restoration, checks: tuple[Checked, ...] = (), planned: PlannedRestore | None = None
) -> Restored:
    left = () if restoration.journal.phase is Phase.DISCARDING else restoration.left_behind()
    return Restored(restoration.journal, checks, planned, left, restoration.came)


def _taken_back(job: Job, restoration: Restoration, to: Path | None) -> Restored:
    journal, beside = restoration.journal, ("--to", str(to)) if to else ()
    done = _restored(restoration)
    _announce(job, "restore_taken_back", done)
    word = word_for(job.look, Path(journal.directory), journal.backup_id)
    return replace(done, again=(word, *beside) if os.path.isdir(journal.directory) else ())


def _afterwards(job: Job, journal: Journal, record: Record, on_event: OnEvent) -> Iterator[Checked]:
    """What can only be said once all is in place, and only of some backups."""
    yield from _belonging(job, record, on_event)
    yield from _of_another_tool(job, journal, record)


def _belonging(job: Job, record: Record, on_event: OnEvent) -> tuple[Checked, ...]:
    """Where collections of the server came back, alone or with the files."""
    if record.qdrant is None or record.qdrant.embedded or job.reached is None:
        return ()
    return check_belonging(record, job.environment, job.reached, on_event)


def _of_another_tool(job: Job, journal: Journal, record: Record) -> Iterator[Checked]:
    """What was left out, and how many points came where nobody had counted them."""
    if not journal.inventory:
        return
    for what, why in journal.stays_out:
        yield Checked(what, why, right=False)
    qdrant, server = record.qdrant, job.reached
    if qdrant is None or server is None:
        return
    for taken in qdrant.collections:
        if taken.points_min != taken.points_max:
            yield _uncounted(f"points in {taken.name}", server, taken.name)


def _uncounted(what: str, server: RestoreTarget, name: str) -> Checked:
    try:
        return Checked(what, f"{server.describe(name).points:,}; nobody had counted them")
    except QdrantError as error:
        return Checked(what, f"could not be counted: {error}", right=False)


def _stays_out(planned: PlannedRestore) -> Iterator[tuple[str, str]]:
    """Of another tool's backup: what is damaged or gone, and what has no place here."""
    if planned.opened.foreign is None:
        return
    for words in planned.opened.wrong:
        what, _, why = words.partition(": ")
        yield what, f"{why} in the backup"
    for source, place in placed(planned.backup.record, planned.target):
        if place is None:
            yield source.stored, NO_PLACE


def _home(job: Job, wanted: Selection) -> Path:
    """Where the journal lies."""
    return Path(wanted.to) if wanted.to else Path(os.path.realpath(job.environment.data_dir))


def _refuse_folder(job: Job, home: Path, planned: PlannedRestore) -> None:
    """A folder beside has to be new or empty, and in nothing that lives or is kept."""
    if not planned.wanted.to:
        return
    hint = "give --to a new folder"
    if home == Path("/"):
        raise UsageError("/ is the root of the file system", hint=hint)
    if home.is_symlink() or (home.exists() and not home.is_dir()):
        raise UsageError(f"{home} is a {'link' if home.is_symlink() else 'file'}", hint=hint)
    if home.is_dir() and any(name != FOLDER for name in os.listdir(home)):
        raise UsageError(f"{home} is not empty, and nothing in it is known", hint=hint)
    real = Path(os.path.realpath(home))
    for path in in_use(job, planned.backup.directory):
        if real.is_relative_to(os.path.realpath(path)):
            raise UsageError(f"{home} lies in {path}, which is in use itself", hint=hint)


def in_use(job: Job, backup: Path) -> tuple[Path, ...]:
    """What lives and what is kept: nothing that is put beside it may lie in one of these."""
    e = job.environment
    return e.data_dir, e.artifacts, e.cache_db.parent, job.catalog.root, backup


@contextmanager
def _ours(job: Job, folder: RestoreFolder, backup: Path) -> Iterator[None]:
    """No other restore, no create or prune in the catalog, and nobody removes the backup."""
    with _failure_told(job), ExitStack() as stack:
        if os.path.isdir(job.catalog.root) and os.access(job.catalog.root, os.W_OK):
            stack.enter_context(job.catalog.lock(job.lock_wait_s))
        stack.enter_context(reading(backup))
        stack.enter_context(folder.lock())
        yield


def _collections(job: Job, backup: Backup, on_event: OnEvent = ignore) -> Returnings:
    """The server's collections that come back with the files. Raises QdrantError when there is no server for them."""
    qdrant, server = backup.record.qdrant, job.server
    if qdrant is None or qdrant.embedded or not qdrant.collections:
        return no_collections
    if isinstance(server, QdrantError):
        raise server
    if server is None:
        raise QdrantError(
            "collections of a Qdrant server come back too, and none is configured",
            hint="set DOCMIND_DATABASE__QDRANT_URL",
        )

    def made(notes: Callable[[str], Notes], folder: Path) -> tuple[CollectionReturn, ...]:
        return tuple(
            CollectionReturn(
                server,
                taken,
                backup.directory / taken.path,
                folder / folder_name(taken.name),
                notes(taken.name),
                on_event,
                backup_id=backup.id,
                made_with=qdrant.version or None,
                prove=_prover(qdrant.version),
                min_free=job.min_free,
            )
            for taken in qdrant.collections
        )

    return made


def _prover(made_with: str) -> Prove | None:
    """Qdrant's own engine, where the extra is installed and has to be able to open what that version made."""
    if deep.missing("qdrant-edge-py") or unknown_to_engine(made_with):
        return None
    return _proved


def _proved(snapshot: Path) -> Proof | None:
    """None where it was not given the time or the room: the server counts the points later."""
    try:
        return deep.prove_snapshot(snapshot)
    except (deep.CannotProve, NoScratch, NoSpace):
        return None


def _journal(job: Job, planned: PlannedRestore, home: Path) -> Journal:
    now, record = job.clock(), planned.backup.record
    run = _free_name(home, f"rollback-{now:%Y%m%dT%H%M%SZ}-{_plain(record.id)}")
    sources = {source.stored: source for source in record.sources}
    pieces = tuple(
        _piece(sources[step.what], Path(step.target), home, run)
        for step in planned.plan.steps
        if step.action is Action.COPY
    )
    return Journal(
        run=run,
        backup_id=record.id,
        directory=str(planned.backup.directory),
        taken_at=record.started_at.isoformat(),
        began_at=now.isoformat(),
        phase=Phase.STAGING,
        pieces=pieces,
        folders=tuple(dict.fromkeys((str(home / FOLDER / run), *(piece.folder for piece in pieces)))),
        made=tuple(_missing(pieces, home)),
        stays_out=tuple(_stays_out(planned)),
        skip_damaged=planned.wanted.skip_damaged,
        read_back=planned.wanted.read_back,
        aside=bool(planned.wanted.to),
        inventory=str(home / FOLDER / run / fmt.INVENTORY) if planned.opened.foreign else "",
        server=_server_of(job, record),
    )


def _server_of(job: Job, record: Record) -> str:
    qdrant = record.qdrant
    to_server = qdrant is not None and not qdrant.embedded and bool(qdrant.collections)
    return job.reached.url if to_server and job.reached is not None else ""


def _numbered(journal: Journal, folder: RestoreFolder) -> Journal:
    """After every restore that can still be taken back. Holding the lock."""
    return replace(journal, number=1 + max((kept.number for kept in folder.finished()), default=0))


def _plain(name: str) -> str:
    """What another tool called its folder, as a part of the run's name."""
    return re.sub(r"[^0-9a-z_]+", "_", name.lower())[:64] or "_"


def _free_name(home: Path, name: str) -> str:
    taken = [name, *(f"{name}-{number}" for number in range(2, 1000))]
    return next(one for one in taken if not os.path.lexists(home / FOLDER / one))


def _piece(source: SourceRecord, live: Path, home: Path, run: str) -> Piece:
    near = _nearest(live.parent)
    here = _file_system(near) == _file_system(_nearest(home))
    folder = home / FOLDER / run if here else near / f".{run}"
    totals = source.totals
    return Piece(
        source.part, source.kind, source.stored, str(live), str(folder), source.lines, totals.files, totals.bytes
    )


def _nearest(path: Path) -> Path:
    return next(one for one in (path, *path.parents) if os.path.isdir(one))


def _file_system(path: Path) -> tuple[int, str]:
    """Two paths with the same can be renamed into each other: the device, and the mount where it can be told."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount = ""
        with suppress(OSError):
            lines = Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines()
            mount = next((line for line in lines if line.startswith("mnt_id:")), "")
        return os.fstat(fd).st_dev, mount
    finally:
        os.close(fd)


def _missing(pieces: Sequence[Piece], home: Path) -> Iterator[str]:
    """Folders that places lie in and that are not there, parents first."""
    made = dict.fromkeys(
        str(parent)
        for piece in pieces
        for parent in reversed(Path(piece.live).parents)
        if not os.path.lexists(parent) and not home.is_relative_to(parent)
    )
    yield from made


def _refuse_places(job: Job, planned: PlannedRestore, journal: Journal, home: Path) -> None:
    """Before anything is written: places that a restore must not touch, or cannot."""
    backup, named = planned.backup, {str(place.seen.source.path) for place in planned.target.places}
    kept = [home, job.environment.project, job.catalog.root, backup.directory]
    for piece in journal.pieces:
        live = Path(piece.live)
        origin = next(s.origin for s in backup.record.sources if s.stored == piece.stored)
        known = piece.live in named or _known(job, live, home) or piece.stored in IN_FLIGHT
        if piece.live == origin and not known:
            raise UsageError(
                f"the settings of this environment have no place for {piece.stored}, which came from {live}",
                hint="give --qdrant-path, set the path in .env, or leave it out with --only",
            )
        for path in kept:
            if Path(os.path.realpath(path)).is_relative_to(live):
                raise UsageError(f"{live} would be replaced, and {path} lies in it", hint="correct the settings")
        if live.is_dir() and _file_system(live) != _file_system(live.parent):
            raise BackupError(
                f"{live} is a mount point: it cannot be swapped",
                hint="mount its file system one level higher, or restore with --to DIR and copy",
            )
        near = _nearest(live.parent)
        if not os.access(near, os.W_OK):
            raise BackupError(f"cannot write to {near}; nothing was changed", hint="check its permissions")


def _known(job: Job, live: Path, home: Path) -> bool:
    """Whether it lies where this environment is; the record's own word is not enough."""
    e = job.environment
    named = (e.project, home, e.cache_db.parent, e.artifacts, e.analytics_db.parent, e.log_file, e.telemetry)
    inside = any(live.is_relative_to(os.path.realpath(path)) for path in named)
    return inside or (job.choices.qdrant_path is not None and live == Path(os.path.realpath(job.choices.qdrant_path)))


@contextmanager
def _failure_told(job: Job) -> Iterator[None]:
    """What was begun and does not come to its end is in the events, too."""
    try:
        yield
    except (Exception, Interrupted) as error:
        tell_failure(job, "restore_failed", error)
        raise


def _announce(job: Job, event: str, done: Restored, **more: object) -> None:
    journal = done.journal
    if os.path.isdir(job.catalog.root):
        job.events.emit(event, id=journal.backup_id, path=Path(journal.directory).name, run=journal.run, **more)


def _refuse_other_server(job: Job, journal: Journal, option: str) -> None:
    """What a restore wrote down proves nothing of collections on another server, however alike they are."""
    server = job.reached
    if not journal.server or server is None:
        return
    if not same_address(journal.server, server.url):
        raise QdrantError(
            f"the collections came back to {journal.server}, and the settings name {server.url}; nothing was changed",
            hint=f"put DOCMIND_DATABASE__QDRANT_URL={journal.server} before `docmind-backup restore {option}`",
        )


# -- finish, undo, accept ------------------------------------------------------------------------------------


def resume(job: Job, to: Path | None = None, *, on_event: OnEvent = ignore) -> Restored:
    """Finish the interrupted restore; one that was being taken back is taken back."""
    folder = _folder(job, to)
    journal = folder.unfinished()
    if journal is None:
        raise UsageError(f"no restore of {folder.home} was interrupted", hint="`docmind-backup restore BACKUP`")
    if journal.phase is not Phase.DISCARDING:
        _refuse_other_server(job, journal, "--resume")
    folder.check_place(journal)
    backup = _backup_of(job, journal)
    with _ours(job, folder, backup.directory if backup else folder.home):
        _refuse_moved_on(journal, folder.unfinished())
        papers = _papers(backup, journal)
        if backup is None and journal.phase is Phase.STAGING and os.path.isdir(journal.directory):
            backup, papers = ready(_opened_again(job, journal), on_event)
            journal = journal.listing(backup.record.sources)
        collections = _collections(job, backup, on_event) if backup else no_collections
        restoration = Restoration(folder, journal, collections, on_event)
        match journal.phase:
            case Phase.RETURNING:
                restoration.take_back()
                return _taken_back(job, restoration, to)
            case Phase.DISCARDING:
                return _discarded(job, restoration)
            case _:
                if backup is None or not os.path.isdir(backup.directory):
                    raise NoSuchBackup(f"the backup is gone: {journal.directory}", hint=GONE)
                checks = (*restoration.run(backup.record, papers), *_afterwards(job, journal, backup.record, on_event))
    done = _restored(restoration, checks)
    _announce(job, "backup_restored", done, complete=done.exit_code == 0)
    return done


def _papers(backup: Backup | None, journal: Journal) -> Papers:
    """Another tool's backup was described in the run's folder before anything of it was copied."""
    if backup is None or journal.inventory or journal.phase is not Phase.STAGING or not backup.directory.is_dir():
        return put_nothing
    return ready(Opened(backup), ignore)[1]


def _opened_again(job: Job, journal: Journal) -> Opened:
    """Another tool's, when the run was killed before it had described it."""
    opened = open_backup(job.look, journal.directory)
    return opened.narrowed(_coming_back(opened.backup.record, journal))


def _backup_of(job: Job, journal: Journal) -> Backup | None:
    """With only what is coming back, from the copy of its record if it is gone; None when nothing was begun yet.

    Another tool's: always from the copy, which says more than it does itself.
    """
    try:
        if journal.inventory:
            raise NoSuchBackup(journal.directory)
        backup = show(job.look, journal.directory)
    except BackupError:
        try:
            record = fmt.read_record(read_limited(Path(journal.folders[0], RECORD_COPY)))
        except (OSError, ValueError, BackupError):
            return None
        backup = Backup(Path(journal.directory), record)
    return replace(backup, record=_coming_back(backup.record, journal))


def _coming_back(record: Record, journal: Journal) -> Record:
    """Only what this restore brings."""
    stored = {piece.stored for piece in journal.pieces}
    qdrant = record.qdrant
    if qdrant and not qdrant.embedded:
        chosen = tuple(taken for taken in qdrant.collections if taken.name in journal.collections)
        qdrant = replace(qdrant, collections=chosen) if chosen else None
    sources = tuple(source for source in record.sources if source.stored in stored)
    return replace(record, sources=sources, qdrant=qdrant)


def roll_back(job: Job, to: Path | None = None, *, on_event: OnEvent = ignore) -> Restored:
    """Take back the interrupted restore, or else the newest one whose old state is kept."""
    folder = _folder(job, to)
    journal = _newest(folder)
    if journal is None:
        raise UsageError(f"no restore of {folder.home} can be taken back", hint="nothing is kept of an earlier state")
    if journal.phase is Phase.DISCARDING:
        raise UsageError("what it kept is being deleted already", hint="`docmind-backup restore --resume` ends that")
    _refuse_other_server(job, journal, "--rollback")
    folder.check_place(journal)
    backup = _backup_of(job, journal)
    with _ours(job, folder, backup.directory if backup else folder.home):
        _refuse_moved_on(journal, _newest(folder))
        collections = _collections(job, backup, on_event) if backup else no_collections
        restoration = Restoration(folder, journal, collections, on_event)
        restoration.take_back()
    return _taken_back(job, restoration, to)


def _newest(folder: RestoreFolder) -> Journal | None:
    """What there is to take back."""
    return folder.unfinished() or next((j for j in reversed(folder.finished()) if j.phase is Phase.DONE), None)


def _refuse_moved_on(before: Journal | tuple[Journal, ...], now: Journal | tuple[Journal, ...] | None) -> None:
    """What was read before the locks were held is not how things stand."""
    if now != before:
        raise Locked(
            "another command went on with this restore while this one waited; nothing was changed",
            hint="see what it came to, then give the command again if it is still meant",
        )


def kept(job: Job) -> tuple[Journal, ...]:
    """Those whose folders `accept` would delete; UsageError when there are none."""
    folder = _folder(job, None)
    refuse_unfinished(folder.home)
    journals = folder.finished()
    if not journals:
        raise UsageError(f"nothing is kept of earlier restores in {folder.path}")
    return journals


def accept(job: Job, shown: tuple[Journal, ...]) -> tuple[Restored, ...]:
    """Delete what finished restores keep. Refuses while one has not ended, and what is not as it was `shown`."""
    folder, done = _folder(job, None), list[Restored]()
    for journal in shown:
        folder.check_place(journal)
    with _failure_told(job), folder.lock():
        refuse_unfinished(folder.home)
        _refuse_moved_on(shown, folder.finished())
        for journal in shown:
            backup = _backup_of(job, journal)
            collections = _collections(job, backup) if backup else no_collections
            restoration = Restoration(folder, journal, collections, ignore)
            done.append(_discarded(job, restoration))
    return tuple(done)


def _discarded(job: Job, restoration: Restoration) -> Restored:
    restoration.discard()
    done = _restored(restoration)
    _announce(job, "rollback_discarded", done)
    return done


def _folder(job: Job, to: Path | None) -> RestoreFolder:
    return RestoreFolder(to or Path(os.path.realpath(job.environment.data_dir)))
