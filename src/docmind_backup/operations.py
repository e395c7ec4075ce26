"""What the tool does, without a terminal: create, prune, hold. Each reads like the README."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, tzinfo
from pathlib import Path

from docmind_backup import leftovers as lying
from docmind_backup import scan as scanning
from docmind_backup import scratch_collections
from docmind_backup.catalog import Catalog, next_sequence
from docmind_backup.core import rotator
from docmind_backup.core.environment import Choices, Environment
from docmind_backup.core.fitness import salt_of
from docmind_backup.core.model import Backup, OnEvent, Part, Reason, Seen, ignore
from docmind_backup.core.planner import BackupPlan, CollectionStep, Watch, collections_known, plan_backup
from docmind_backup.core.restore import SIDECARS, Place, Target, TargetQdrant
from docmind_backup.core.rotator import RetentionPolicy, Verdict
from docmind_backup.core.server import RestoreTarget
from docmind_backup.errors import (
    BackupError,
    Interrupted,
    NoSuchBackup,
    QdrantError,
    SourceMissing,
)
from docmind_backup.events import EventLog
from docmind_backup.executor import Execution, SourcesMoved, check_space, execute
from docmind_backup.journal import clear_killed, refuse_unfinished
from docmind_backup.ledger import Candidate, Ledger, candidates, clean_up
from docmind_backup.leftovers import Leftovers
from docmind_backup.looking import Look, beside, read, show

Server = RestoreTarget | QdrantError | None
"""A Qdrant server; the error when its address may not be used; None when Qdrant is off or embedded."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every operation works on."""

    environment: Environment
    choices: Choices
    retention: RetentionPolicy
    catalog: Catalog
    server: Server
    clock: Callable[[], datetime]
    zone: tzinfo
    """Local time, for the retention's days and weeks."""
    events: EventLog
    lock_wait_s: float = 0
    busy_wait_s: float = 5
    late_wait_s: float = 300
    min_free: int = 64 * 1024 * 1024
    downloads: int = 2
    """Collections at once, at most."""

    @property
    def look(self) -> Look:
        return Look(self.catalog, self.clock)

    @property
    def reached(self) -> RestoreTarget | None:
        """The server, where one is configured and answered."""
        return None if isinstance(self.server, QdrantError) else self.server


@dataclass(frozen=True, slots=True)
class Pruned:
    """What retention decided, and what came of it."""

    verdicts: tuple[Verdict, ...]
    removed: tuple[Backup, ...] = ()
    refused: tuple[tuple[Backup, str], ...] = ()
    """Those that could not be removed, each with the reason."""
    others: int = 0
    """Backups of other environments in the same root: not judged."""


@dataclass(frozen=True, slots=True)
class Created:
    """What a create came to; `backup` is None for a dry run."""

    plan: BackupPlan
    backup: Backup | None = None
    pruned: Pruned | None = None
    """None when nothing was pruned, because this backup does not count or it was not wanted."""
    candidates: tuple[Candidate, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 done, 3 with a named shortfall, 14 when a source is missing that was there last time."""
        omissions = self.backup.record.omissions if self.backup else self.plan.omissions
        if any(o.reason in (Reason.GONE, Reason.EMPTIED) for o in omissions):
            return 14
        refused = bool(self.pruned and self.pruned.refused)
        shrunk = bool(self.plan.shrinks) and not self.plan.shrink_accepted
        return 3 if omissions or refused or shrunk else 0


# -- create --------------------------------------------------------------------------------------


def create(job: Job, *, on_event: OnEvent = ignore, prune_after: bool = True) -> Created:
    """Make a backup, then remove what the retention rules no longer keep - if this one counts.

    Raises a BackupError when nothing was published; the catalog is then as it was before.
    """
    started = job.clock()
    _check_data_dir(job)
    refuse_unfinished(job.environment.data_dir)
    with _failure_told(job) as made, job.catalog.lock(job.lock_wait_s):
        _cleared(job)
        clean_server(job)

        def published(backup: Backup) -> None:
            made.append(backup)
            _announce(job, backup, started)

        plan, backup = _made(job, on_event, published)
        candidates = _candidates(job)
        pruned = _prune(job) if prune_after and _may_prune(backup) else None
    return Created(plan, backup, pruned, candidates)


@contextmanager
def _failure_told(job: Job) -> Iterator[list[Backup]]:
    """A create that fails says so in the events: the last one and the exit code agree.

    Once a backup is in the list, it is published: what can fail is what comes after it.
    """
    made: list[Backup] = []
    try:
        yield made
    except (Exception, Interrupted) as error:
        if made and isinstance(error, BackupError | Interrupted):
            error.hint = error.hint or f"{made[0].directory.name} was made; `docmind-backup prune` does what is left"
        tell_failure(job, "prune_failed" if made else "backup_failed", error)
        raise


def tell_failure(job: Job, event: str, error: Exception | Interrupted) -> None:
    """In the events, where there is a root. Of what nobody expected the kind alone: its words may hold anything."""
    if os.path.isdir(job.catalog.root):
        words, code = type(error).__name__, 1
        if isinstance(error, BackupError | Interrupted):
            words, code = str(error), error.exit_code
        job.events.emit(event, error=words, exit_code=code)


def plan(job: Job) -> Created:
    """What `create` would do now: nothing is written, no lock is taken."""
    _check_data_dir(job)
    decided = _plan(job)
    check_space(decided, job.catalog.root, job.min_free)
    return Created(decided)


def _check_data_dir(job: Job) -> None:
    """Before anything is made: the catalog's default place lies in the data directory."""
    data_dir = str(job.environment.data_dir)
    if not os.path.isdir(job.environment.data_dir) and any(
        b.record.scope.data_dir == data_dir for b in job.catalog.backups()
    ):
        raise SourceMissing(
            f"the data directory {data_dir} is gone; nothing was published, the earlier backups are untouched",
            hint="is its disk mounted?",
        )
    scanning.check_places(job.environment, job.choices, job.catalog.root)


def _plan(job: Job) -> BackupPlan:
    now = job.clock()
    backups = job.catalog.backups()
    known = collections_known(backups, str(job.environment.data_dir))
    inventory = scanning.scan(job.environment, job.choices, job.server, known)
    return plan_backup(
        inventory,
        job.choices,
        backups,
        backup_id=f"{now:%Y%m%d_%H%M%S}_{secrets.token_hex(6)}",
        sequence=next_sequence(backups),
        now=now,
    )


def _made(job: Job, on_event: OnEvent, published: Callable[[Backup], None]) -> tuple[BackupPlan, Backup]:
    """Plan and execute; both once more when the active index snapshot moved meanwhile."""
    for last_try in (False, True):
        plan = _plan(job)
        _refuse_empty(plan)
        try:
            return plan, execute(plan, _execution(job, on_event, published, last_try=last_try))
        except SourcesMoved:
            continue
    raise AssertionError("the last try publishes or raises")


def _refuse_empty(plan: BackupPlan) -> None:
    """Nothing to capture is a failure, and so is a Qdrant that was required and is not there."""
    qdrant = plan.qdrant
    if plan.qdrant_required and qdrant and (lack := _qdrant_lack(plan)):
        raise QdrantError(f"Qdrant is required and cannot be saved: {lack}", hint=qdrant.hint)
    if plan.steps:
        return
    if any(o.reason in (Reason.GONE, Reason.EMPTIED) for o in plan.omissions):
        raise SourceMissing(
            f"nothing is left of what the last backup holds: {_why(plan)}",
            hint="is the disk mounted? --accept-shrink accepts it",
        )
    if qdrant and qdrant.error:
        raise QdrantError(qdrant.error, hint=qdrant.hint)
    raise BackupError(
        "there is nothing to back up: " + (_why(plan) or "none of the wanted parts exists"),
        hint="`docmind-backup create --dry-run` shows what was looked for",
    )


def _qdrant_lack(plan: BackupPlan) -> str:
    lacking = [f"{o.source}: {o.detail or o.reason}" for o in plan.omissions if o.part is Part.QDRANT]
    steps = [s for s in plan.steps if isinstance(s, CollectionStep) or s.source.part is Part.QDRANT]
    return "; ".join(lacking) or ("" if steps else "there is no collection to save")


def _why(plan: BackupPlan) -> str:
    return "; ".join(f"{o.source}: {o.reason}" for o in plan.omissions)


def _execution(job: Job, on_event: OnEvent, published: Callable[[Backup], None], *, last_try: bool) -> Execution:
    return Execution(
        catalog=job.catalog,
        server=job.reached,
        watch=lambda: _watched(job),
        clock=job.clock,
        on_event=on_event,
        busy_wait_s=job.busy_wait_s,
        late_wait_s=job.late_wait_s,
        min_free=job.min_free,
        published=published,
        fingerprints=lambda: key_fingerprints(job.environment, secrets.token_hex(16)),
        last_try=last_try,
        downloads=job.downloads,
    )


def _watched(job: Job) -> Watch:
    """Raises Locked while a restore is under way: it may have come from another catalog, with a lock of its own."""
    refuse_unfinished(job.environment.data_dir)
    return scanning.watch(job.environment)


def key_fingerprints(environment: Environment, salt: str) -> dict[str, str]:
    """Salted scrypt fingerprints of the secrets that a restored environment needs again; never the secrets."""
    known = {"image_key": environment.image_key, "hmac_secret": environment.hmac_secret}
    prints = {
        name: hashlib.scrypt(value.encode(), salt=bytes.fromhex(salt), n=2**13, r=8, p=1, dklen=16).hex()
        for name, value in known.items()
        if value
    }
    if not prints:
        return {}
    key_id = {"image_key_id": environment.image_key_id} if environment.image_key_id else {}
    return {"kdf": "scrypt n=8192 r=8 p=1", "salt": salt, **prints, **key_id}


def _cleared(job: Job) -> None:
    """What dead runs left on this machine is gone. Raises Locked while a restore has not ended. Holding the lock."""
    refuse_unfinished(job.environment.data_dir)
    clear_killed(job.environment.data_dir)
    job.catalog.clean()


def clean_server(job: Job) -> None:
    """Remove what a dead run left on the server; a silent server keeps its notes for the next run."""
    ledger, server = Ledger(job.catalog.servers), job.reached
    if server is None:
        return
    with suppress(QdrantError):
        if ledger.pending():
            clean_up(ledger, server)
        scratch_collections.clean(job.catalog.scratch_collections, server)


def _candidates(job: Job) -> tuple[Candidate, ...]:
    """What this run, or a dead one, may have left on the server; nothing where it cannot be asked."""
    notes = Ledger(job.catalog.servers).pending()
    if job.reached is None:
        return ()
    try:
        return candidates(notes, job.reached)
    except QdrantError:
        return ()


def _announce(job: Job, backup: Backup, started: datetime) -> None:
    record = backup.record
    job.events.emit(
        "backup_created",
        path=backup.directory.name,
        id=record.id,
        included=list(record.included),
        bytes_written=record.totals.bytes,
        duration_ms=round((job.clock() - started).total_seconds() * 1000, 1),
        complete=record.complete,
        omissions=[f"{o.source}: {o.reason}" for o in record.omissions],
    )


# -- what lies on the server ---------------------------------------------------------------------


def leftovers(job: Job) -> Leftovers:
    """Snapshots on the server, ours, perhaps ours and others'; nothing is changed, no lock is taken."""
    ledger, rehearsals, server = Ledger(job.catalog.servers), job.catalog.scratch_collections, job.server
    if server is None:
        return lying.unasked(ledger, rehearsals, "", "no Qdrant server belongs to these settings")
    if isinstance(server, QdrantError):
        return lying.unasked(ledger, rehearsals, job.environment.qdrant_url, str(server))
    return lying.look(ledger, rehearsals, server)


# -- prune ---------------------------------------------------------------------------------------


def prune(job: Job, *, dry_run: bool = False) -> Pruned:
    """Remove the backups that no retention rule keeps; all renamed away first, then deleted."""
    if dry_run:
        verdicts, others = _verdicts(job)
        return Pruned(verdicts, others=others)
    if not os.path.isdir(job.catalog.root):
        raise NoSuchBackup(f"no backups in {job.catalog.root}", hint="`docmind-backup create` makes the first")
    try:
        with job.catalog.lock(job.lock_wait_s):
            _cleared(job)
            return _prune(job)
    except (Exception, Interrupted) as error:
        tell_failure(job, "prune_failed", error)
        raise


def _verdicts(job: Job) -> tuple[tuple[Verdict, ...], int]:
    """Of this environment's backups; and how many of others there are in the same root, with rules of their own."""
    data_dir = str(job.environment.data_dir)
    backups = job.catalog.backups(brief=True)
    ours = [backup for backup in backups if backup.record.scope.data_dir == data_dir]
    return rotator.apply(job.retention, ours, job.clock(), zone=job.zone), len(backups) - len(ours)


def _may_prune(backup: Backup) -> bool:
    """Only a backup that counts lets others go (design.md, invariant 4)."""
    return backup.counts and not any(o.reason is Reason.MOVED for o in backup.record.omissions)


def _prune(job: Job) -> Pruned:
    verdicts, others = _verdicts(job)
    removed, refused = job.catalog.discard([v.backup for v in verdicts if not v.keep])
    if removed or refused:
        policy = job.retention
        job.events.emit(
            "backup_pruned",
            deleted_count=len(removed),
            keep_last=policy.last,
            deleted=[b.id for b in removed],
            failed=[f"{b.id}: {why}" for b, why in refused],
        )
    return Pruned(verdicts, tuple(removed), tuple(refused), others)


# -- keep ----------------------------------------------------------------------------------------


def hold(job: Job, text: str, reason: str) -> Backup:
    """Keep a backup, whatever the retention rules say, until `release`. NoSuchBackup when it went while we waited."""
    backup = show(job.look, text)
    catalog = beside(job.look, backup.directory)
    with catalog.lock(job.lock_wait_s):
        catalog.hold(read(job.look, backup.directory), reason)
    return replace(backup, held=reason)


def release(job: Job, text: str) -> tuple[Backup, bool]:
    """Undo `hold`; False when it was not held."""
    backup = show(job.look, text)
    return backup, beside(job.look, backup.directory).release(backup)


# -- restore -------------------------------------------------------------------------------------


def target_of(job: Job, backup: Backup, *, fingerprints: bool = False) -> Target:
    """The environment as a restore of `backup` would find it; nothing is touched. Fingerprints look at every file."""
    layout, seen = scanning.places(job.environment, job.choices, backup.record.layout)
    qdrant = backup.record.qdrant
    names = [c.name for c in qdrant.collections] if qdrant and not qdrant.embedded else []
    return Target(
        environment=job.environment,
        layout=layout,
        places=tuple(_place_of(one, job.environment.project, fingerprints=fingerprints) for one in seen),
        qdrant=_target_qdrant(job, names) if names else None,
        keys=key_fingerprints(job.environment, salt) if (salt := salt_of(backup.record)) else None,
    )


def _place_of(seen: Seen, project: Path, *, fingerprints: bool) -> Place:
    path, configured = seen.source.path, project / seen.source.name
    near = next((p for p in path.parents if os.path.exists(p)), path)
    found = os.statvfs(near)
    suffixes = SIDECARS.get(seen.source.kind, ())
    return Place(
        seen,
        tuple(path.name + suffix for suffix in suffixes if os.path.lexists(f"{path}{suffix}")),
        str(near.stat().st_dev),
        found.f_bavail * found.f_frsize,
        fingerprint=scanning.fingerprint(seen) if fingerprints else "",
        link=str(configured) if os.path.islink(configured) else "",  # noqa: PTH114 - false where it cannot be looked at
    )


def _target_qdrant(job: Job, names: Sequence[str]) -> TargetQdrant | None:
    server = job.server
    if server is None:
        return None
    if isinstance(server, QdrantError):
        return TargetQdrant(job.environment.qdrant_url, error=str(server))
    try:
        states = [server.describe(name) for name in names]
        return TargetQdrant(
            server.url,
            server.version(),
            tuple(s for s in states if s.exists),
            server.aliases(),
            server.peers(),
            names=server.names(),
        )
    except QdrantError as error:
        return TargetQdrant(server.url, error=str(error))


def wants_qdrant(choices: Choices) -> bool:
    """Whether a run with these choices talks to a Qdrant server at all."""
    asked = choices.qdrant != "off" and (not choices.only or Part.QDRANT in choices.only)
    return asked and choices.qdrant_path is None
