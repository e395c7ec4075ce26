"""Carry out a backup plan: stage, prove, record last, flush, publish. Absent or whole, never torn."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath

from docmind_backup import durable, embedded
from docmind_backup.capture import capture
from docmind_backup.catalog import STATE, Catalog, name_of, remove
from docmind_backup.collection import capture_collection, embedded_record
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    Advanced,
    Backup,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    Omission,
    OnEvent,
    Part,
    Reason,
    RunStarted,
    StepFinished,
    StepStarted,
    Totals,
)
from docmind_backup.core.planner import BackupPlan, CollectionStep, FileStep, Watch
from docmind_backup.core.server import CollectionServer
from docmind_backup.errors import NoSpace, QdrantError
from docmind_backup.ledger import Ledger
from docmind_backup.records import SPOOLS, StepResult, write_records


class SourcesMoved(Exception):
    """The active index snapshot or the deployment id changed while it was captured: make it all again."""


@dataclass(frozen=True, slots=True)
class Execution:
    """What carrying out a plan needs from the outside."""

    catalog: Catalog
    server: CollectionServer | None
    watch: Callable[[], Watch]
    """Looks again at what must not move during the run."""
    clock: Callable[[], datetime]
    on_event: OnEvent
    busy_wait_s: float
    min_free: int
    """Bytes that stay free on the destination."""
    fingerprints: Callable[[], dict[str, str]]
    last_try: bool
    """The sources moved once already: if they do again, say so and publish."""


def execute(plan: BackupPlan, run: Execution) -> Backup:
    """Make the backup and publish it. Holding the catalog's lock.

    Raises NoSpace before touching anything when it cannot fit, BackupError when the destination fails,
    QdrantError when Qdrant was required and failed, SourcesMoved when it has to be planned again. Whatever is
    raised, nothing is published and nothing of the run is left.
    """
    check_space(plan, run.catalog.root, run.min_free)
    run.on_event(
        RunStarted(plan.copy_bytes, plan.download_bytes, sum(isinstance(s, CollectionStep) for s in plan.steps))
    )
    with durable.destination_errors(run.catalog.root):
        flusher = durable.Flusher(run.catalog.root)
        staging = run.catalog.new_staging(plan.id)
        try:
            results = _capture(plan, run, staging)
            record = write_records(plan, results, staging, fingerprints=run.fingerprints(), finished_at=run.clock())
            flusher.flush(staging)
            final = run.catalog.publish(staging, name_of(record.id, complete=record.complete))
        except BaseException:
            with suppress(OSError):
                remove(staging)
            raise
        finally:
            flusher.close()
    return Backup(final, record)


def check_space(plan: BackupPlan, root: Path, min_free: int) -> None:
    """NoSpace when the plan cannot fit on the file system of `root` (bytes or inodes), `min_free` bytes kept free."""
    existing = next(p for p in (root, *root.parents) if os.path.exists(p))
    found = os.statvfs(existing)
    free = found.f_bavail * found.f_frsize
    hint = "free some space, `docmind-backup prune`, or choose another place with --dest"
    if plan.bytes_needed + min_free > free:
        raise NoSpace(
            f"about {plan.bytes_needed:,} bytes are needed and {free:,} are free at {root} "
            f"({min_free:,} have to stay free)",
            hint=hint,
        )
    if found.f_files and plan.files_needed > found.f_favail:
        raise NoSpace(f"{plan.files_needed:,} inodes are needed and {found.f_favail:,} are free at {root}", hint=hint)


# -- capture -------------------------------------------------------------------------------------


def _capture(plan: BackupPlan, run: Execution, staging: Path) -> list[StepResult]:
    spools = staging / SPOOLS
    spools.mkdir(mode=0o700)
    results = [_step(plan, run, staging, step, spools / str(i)) for i, step in enumerate(plan.steps)]
    seen = run.watch()
    if _activation_moved(plan, seen):
        if not run.last_try:
            raise SourcesMoved
        results[0].omissions.append(_moved("data/storage/CURRENT", "the active index snapshot or deployment id"))
    elif Part.UPLOADS in plan.scope.parts and seen.uploads != plan.watch.uploads:
        _uploads_again(plan, run, staging, results, seen)
    return results


def _activation_moved(plan: BackupPlan, seen: Watch) -> bool:
    watched = plan.scope.parts & {Part.STORAGE, Part.IDENTITY, Part.QDRANT}
    before = plan.watch
    return bool(watched) and (seen.current, seen.deployment_id) != (before.current, before.deployment_id)


def _uploads_again(plan: BackupPlan, run: Execution, staging: Path, results: list[StepResult], seen: Watch) -> None:
    """Capture the uploads once more; when they moved again, say so."""
    for i, result in enumerate(results):
        step = result.step
        if isinstance(step, FileStep) and step.source.part is Part.UPLOADS:
            with suppress(FileNotFoundError):
                remove(staging / step.source.stored)
            results[i] = _step(plan, run, staging, step, result.spool)
            if run.watch().uploads != seen.uploads:
                results[i].omissions.append(_moved(step.source.name, "files"))
                return


def _moved(source: str, what: str) -> Omission:
    part = Part.STORAGE if "storage" in source else Part.UPLOADS
    return Omission(part, source, Reason.MOVED, f"{what} changed each time it was captured")


def _step(plan: BackupPlan, run: Execution, staging: Path, step: FileStep | CollectionStep, spool: Path) -> StepResult:
    result = StepResult(step, spool)
    label = step.source.name if isinstance(step, FileStep) else step.state.name
    run.on_event(StepStarted(label))
    with spool.open("wb") as lines:
        emit = partial(_emit, result, lines.write)
        if isinstance(step, FileStep):
            _capture_files(plan, run, staging, step, result, emit)
        else:
            _capture_collection(plan, run, staging, step, result, emit)
    outcome = result.omissions[0].reason if result.omissions else ""
    run.on_event(StepFinished(label, result.totals.files, result.totals.bytes, outcome))
    return result


def _emit(result: StepResult, write: Callable[[bytes], int], entry: Entry) -> None:
    """One more stored thing: its inventory line, and its share of the totals."""
    write(fmt.entry_line(entry))
    match entry:
        case FileEntry():
            result.totals += Totals(files=1, bytes=entry.size, own_bytes=entry.size)
        case LinkEntry():
            result.totals += Totals(links=1)
        case DirEntry():
            result.totals += Totals(directories=1)


def _capture_files(
    plan: BackupPlan,
    run: Execution,
    staging: Path,
    step: FileStep,
    result: StepResult,
    emit: Callable[[Entry], None],
) -> None:
    stores: dict[str, FileEntry] = {}

    def emit_and_keep(entry: Entry) -> None:
        path = PurePosixPath(entry.path)
        if step.source.kind is Kind.EMBEDDED and isinstance(entry, FileEntry) and path.name == embedded.STORE:
            stores[path.parent.name] = entry
        emit(entry)

    captured = capture(
        step.source, staging, emit_and_keep, lambda n: run.on_event(Advanced(n)), busy_wait_s=run.busy_wait_s
    )
    result.omissions += captured.omissions
    result.notes += captured.notes
    for state in plan.qdrant.collections if plan.qdrant and stores else ():
        if state.name in stores and state.name in captured.points:
            result.collections.append(
                embedded_record(state, stores[state.name], captured.points[state.name], run.clock())
            )


def _capture_collection(
    plan: BackupPlan,
    run: Execution,
    staging: Path,
    step: CollectionStep,
    result: StepResult,
    emit: Callable[[Entry], None],
) -> None:
    assert run.server is not None
    taken = capture_collection(
        run.server,
        step,
        staging,
        backup_id=plan.id,
        ledger=Ledger(run.catalog.root / STATE / "servers"),
        on_event=run.on_event,
        min_free=run.min_free,
        notes=result.notes,
    )
    if isinstance(taken, Omission):
        if plan.qdrant_required:
            raise QdrantError(f"collection {taken.source}: {taken.detail}")
        result.omissions.append(taken)
        return
    record, entry = taken
    result.collections.append(record)
    emit(entry)
