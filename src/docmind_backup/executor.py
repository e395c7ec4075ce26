"""Carry out a backup plan: stage, prove, record last, flush, publish. Absent or whole, never torn."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from queue import Empty, SimpleQueue
from threading import Lock

from docmind_backup import durable, embedded
from docmind_backup.capture import capture
from docmind_backup.catalog import Catalog, name_of, remove
from docmind_backup.collection import Room, capture_collection, embedded_record
from docmind_backup.consistency import together
from docmind_backup.copying import BUFFER
from docmind_backup.core.model import (
    Advanced,
    ArtifactProof,
    Backup,
    DownloadStarted,
    Entry,
    Event,
    FileEntry,
    Kind,
    Omission,
    OnEvent,
    Part,
    Reason,
    Record,
    RunStarted,
    StepFinished,
    StepStarted,
)
from docmind_backup.core.planner import BackupPlan, CollectionStep, FileStep, Watch
from docmind_backup.core.server import CollectionServer
from docmind_backup.core.sharing import Held
from docmind_backup.crew import Crew, Teller, side_by_side
from docmind_backup.errors import BackupError, Interrupted, NoSpace, QdrantError, Stopped
from docmind_backup.ledger import Ledger
from docmind_backup.records import SPOOLS, StepResult, write_records
from docmind_backup.sharing import Sharing
from docmind_backup.starting import unbroken


class SourcesMoved(Exception):
    """What was captured, or shared with, is no longer what it was: make it all again."""


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
    late_wait_s: float
    """How long a collection snapshot whose creation was not answered is looked for."""
    min_free: int
    """Bytes that stay free on the destination."""
    published: Callable[[Backup], None]
    """Told of the backup with its publication: no signal comes between the two."""
    fingerprints: Callable[[], dict[str, str]]
    last_try: bool
    """The sources moved once already: if they do again, say so and publish."""
    downloads: int = 1
    """Collections at once, at most."""


def execute(plan: BackupPlan, run: Execution) -> Backup:
    """Make the backup and publish it. Holding the catalog's lock.

    Raises NoSpace before touching anything when it cannot fit, BackupError when the destination fails,
    QdrantError when Qdrant was required and failed, SourcesMoved when it has to be planned again. Whatever is
    raised, nothing of the run is left, and nothing is published - but for a signal that comes with `run.published`.
    """
    check_space(plan, run.catalog.root, run.min_free)
    collections = sum(isinstance(step, CollectionStep) for step in plan.steps)
    servers = [run.server.another() for _ in range(min(run.downloads, collections))] if run.server else []
    teller = Teller(run.on_event, lambda error: _stop(servers, error))
    teller(RunStarted(plan.copy_bytes, plan.download_bytes, collections))
    with durable.destination_errors(run.catalog.root), Sharing() as sharing, Crew() as crew:
        flusher = durable.Flusher(run.catalog.root)
        staging = run.catalog.new_staging(plan.id)
        try:
            with _failures_of(run.catalog.root, teller):  # while the disk is as it was then
                captured = _Capture(plan, run, staging, sharing, crew, teller, servers)
                results = captured.all()
                proof = captured.held_together(results)
                record = write_records(
                    plan, results, staging, fingerprints=run.fingerprints(), proof=proof, finished_at=run.clock()
                )
                flusher.flush(staging)
                backup = _published(staging, record, run)
        except BaseException:
            with suppress(OSError):
                remove(staging)
            raise
        finally:
            flusher.close()
    return backup


@contextmanager
def _failures_of(root: Path, teller: Teller) -> Iterator[None]:
    """What made the others stop, and errors of the destination in words."""
    with durable.destination_errors(root):
        try:
            yield
        except Stopped:
            if teller.failure:
                raise teller.failure from None
            raise


def _published(staging: Path, record: Record, run: Execution) -> Backup:
    """Published and told of, or neither."""
    with unbroken():
        final = run.catalog.publish(staging, name_of(record.id, complete=record.complete))
        backup = Backup(final, record)
        run.published(backup)
    return backup


def _stop(servers: Iterable[CollectionServer], error: BaseException) -> None:
    """Nobody waits for bytes any more. A snapshot that is being made is waited for, to be deleted, but at a signal."""
    for server in servers:
        server.stop(at_once=isinstance(error, Interrupted | KeyboardInterrupt))


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

TURN_S = 0.2
"""How often who waits for its turn looks whether the run is ending."""
ROOM_EVERY = 64 * 1024 * 1024
"""Bytes after which the space is looked at again: how much has to be copied is known only by copying."""


class _Turn:
    """A thread's own way to the server, and its leave to have a snapshot made there."""

    def __init__(self, server: CollectionServer, making: Lock, teller: Teller) -> None:
        self.server = server
        self._making = making
        self._teller = teller
        self._held = False

    def take(self) -> None:
        """Returns when it is ours; Stopped when the run ends. What a signal may leave locked is not waited for."""
        if self._held:
            return
        while not self._making.acquire(timeout=TURN_S):
            self._check()
        self._held = True
        self._check()

    def give(self) -> None:
        if self._held:
            self._held = False
            self._making.release()

    def _check(self) -> None:
        if self._teller.failure:
            raise Stopped


@dataclass(frozen=True, slots=True)
class _Capture:
    """Every step of a plan, carried out into a staging folder."""

    plan: BackupPlan
    run: Execution
    staging: Path
    sharing: Sharing
    crew: Crew
    teller: Teller
    servers: Sequence[CollectionServer]
    """One for each thread that brings collections."""
    making: Lock = field(default_factory=Lock)
    """Held by who has the server make a snapshot."""
    room: Room = field(default_factory=Room)

    def all(self) -> list[StepResult]:
        plan, run = self.plan, self.run
        results = self._both()
        seen = run.watch()
        if moved := _activation_moved(plan, seen):
            if not run.last_try:
                raise SourcesMoved
            results[0].omissions.append(_moved(*moved))
        elif Part.UPLOADS in plan.scope.parts and seen.uploads != plan.watch.uploads:
            self._uploads_again(results, seen)
        self._look_at_shared()
        results[0].notes.extend(self.sharing.notes)
        return results

    def held_together(self, results: list[StepResult]) -> ArtifactProof | None:
        """What belongs together, as it was captured; what does not fit is named in the results.

        Raises SourcesMoved where another try may bring what fits.
        """
        run = self.run
        if run.server is None:
            return None
        found = together(self.plan, run.server, results, self.staging, self.teller)
        if not run.last_try and (found.again or (found.wrong and _activation_moved(self.plan, run.watch()))):
            raise SourcesMoved
        results[0].omissions.extend(found.omissions)
        results[0].notes.extend(found.notes)
        return found.proof

    def _look_at_shared(self) -> None:
        """A backup that was found damaged since the plan was made has passed that on."""
        found = [backup for backup in self.sharing.used() if self.run.catalog.is_damaged(backup)]
        if not found:
            return
        if not self.run.last_try:
            raise SourcesMoved
        raise BackupError(
            f"{found[0].id}, with which this one shares files, was found damaged meanwhile; nothing was published",
            hint="run it again: it will share nothing with that one",
        )

    def _both(self) -> list[StepResult]:
        """Collections in this thread and a few like it, where a signal interrupts the waiting; files beside them."""
        spools = self.staging / SPOOLS
        spools.mkdir(mode=0o700)
        results = [StepResult(step, spools / str(i)) for i, step in enumerate(self.plan.steps)]
        files = [result for result in results if isinstance(result.step, FileStep)]
        collections = [result for result in results if isinstance(result.step, CollectionStep)]
        side_by_side(lambda: self._collections(collections), lambda: self._steps(files), self.teller)
        return results

    def _collections(self, results: Iterable[StepResult]) -> None:
        """A few at once, in the order of the plan; what fails in one ends the others."""
        left: SimpleQueue[StepResult] = SimpleQueue()
        for result in results:
            left.put(result)
        self._bring_all(left, self.servers)

    def _bring_all(self, left: SimpleQueue[StepResult], servers: Sequence[CollectionServer]) -> None:
        """In a thread for each of the servers; this one is the first."""
        if len(servers) > 1:
            here = partial(self._bring_all, left, servers[:-1])
            side_by_side(here, partial(self._bring, left, servers[-1]), self.teller, "collections")
        elif servers:
            self._bring(left, servers[0])

    def _bring(self, left: SimpleQueue[StepResult], server: CollectionServer) -> None:
        """One after the other, as long as there are any. Whose turn it is takes the next and has its snapshot made."""
        turn = _Turn(server, self.making, self.teller)
        try:
            while True:
                turn.take()
                result = left.get_nowait()
                self._step(result, turn)
                turn.give()
        except Empty:
            return
        except BaseException as error:
            self.teller.failed(error)  # before it is somebody else's turn, who would begin something
            raise
        finally:
            turn.give()

    def _steps(self, results: Iterable[StepResult]) -> None:
        for result in results:
            self._step(result)

    def _uploads_again(self, results: list[StepResult], seen: Watch) -> None:
        """Capture the uploads once more; when they moved again, say so."""
        for i, result in enumerate(results):
            step = result.step
            if isinstance(step, FileStep) and step.source.part is Part.UPLOADS:
                with suppress(FileNotFoundError):
                    remove(self.staging / step.source.stored)
                results[i] = StepResult(step, result.spool)
                self._step(results[i])
                if self.run.watch().uploads != seen.uploads:
                    results[i].omissions.append(_moved(step.source.name, "files"))
                    return

    def _step(self, result: StepResult, turn: _Turn | None = None) -> None:
        step = result.step
        label = step.source.name if isinstance(step, FileStep) else step.state.name
        self.teller(StepStarted(label))
        with result.writing():
            if isinstance(step, FileStep):
                self._files(step, result)
            elif turn:
                self._collection(step, result, turn)
        outcome = result.omissions[0].reason if result.omissions else ""
        self.teller(StepFinished(label, result.totals.files, result.totals.bytes, outcome))

    def _files(self, step: FileStep, result: StepResult) -> None:
        stores: dict[str, FileEntry] = {}
        told = _Told(self.teller, self.staging, self.run.min_free)

        def emit(entry: Entry) -> None:
            if step.source.kind is Kind.EMBEDDED and isinstance(entry, FileEntry):
                path = PurePosixPath(entry.path)
                if path.name == embedded.STORE:
                    stores[path.parent.name] = entry
            result.add(entry)

        def keep(files: Sequence[Held]) -> None:
            result.keep(files)
            told.kept(sum(held.size for held in files))

        captured = capture(
            step.source,
            self.staging,
            emit,
            told,
            busy_wait_s=self.run.busy_wait_s,
            shelf=self.sharing.shelf(step.earlier),
            keep=keep,
            crew=self.crew,
        )
        told.kept(0, last=True)
        result.omissions += captured.omissions
        result.notes += captured.notes
        for state in self.plan.qdrant.collections if self.plan.qdrant and stores else ():
            if state.name in stores and state.name in captured.points:
                store, points = stores[state.name], captured.points[state.name]
                result.collections.append(embedded_record(state, store, points, self.run.clock()))

    def _collection(self, step: CollectionStep, result: StepResult, turn: _Turn) -> None:
        run = self.run

        def tell(event: Event) -> None:
            if isinstance(event, DownloadStarted):
                turn.give()  # while this one is fetched, the next one may be made
            self.teller(event)

        taken = capture_collection(
            turn.server,
            step,
            self.staging,
            backup_id=self.plan.id,
            ledger=Ledger(run.catalog.servers),
            on_event=tell,
            min_free=run.min_free,
            notes=result.notes,
            sharing=self.sharing,
            late_wait_s=run.late_wait_s,
            turn=turn.take,
            room=self.room,
        )
        if isinstance(taken, Omission):
            if self.plan.qdrant_required:
                raise QdrantError(f"collection {taken.source}: {taken.detail}")
            result.omissions.append(taken)
            return
        record, entry = taken
        result.collections.append(record)
        result.add(entry)


class _Told:
    """Tells of bytes as they are captured, a few MB at a time, and keeps an eye on the space that is left."""

    def __init__(self, teller: Teller, staging: Path, min_free: int) -> None:
        self._teller = teller
        self._staging = staging
        self._min_free = min_free
        self._kept = 0
        self._copied = 0

    def __call__(self, count: int) -> None:
        """From several threads: one that looks at the space too late or once more does no harm."""
        self._teller(Advanced(count))
        self._copied += count
        if self._copied >= ROOM_EVERY:
            self._copied = 0
            _check_room(self._staging, self._min_free)

    def kept(self, count: int, *, last: bool = False) -> None:
        """So many bytes are shared: told of now and then, a file of some is a matter of microseconds."""
        self._kept += count
        if self._kept >= BUFFER or (last and self._kept):
            self._teller(Advanced(self._kept))
            self._kept = 0


def _check_room(staging: Path, min_free: int) -> None:
    """NoSpace when copying has eaten into what has to stay free."""
    free = shutil.disk_usage(staging).free
    if free < min_free:
        raise NoSpace(
            f"more has changed than fits: {free:,} bytes are left at {staging.parent} ({min_free:,} have to stay free)",
            hint="free some space, `docmind-backup prune`, or choose another place with --dest",
        )


def _activation_moved(plan: BackupPlan, seen: Watch) -> tuple[str, str] | None:
    """What, and of what kind; None where all stands as it stood."""
    watched = plan.scope.parts & {Part.STORAGE, Part.IDENTITY, Part.QDRANT}
    before = plan.watch
    if seen.restores != before.restores:
        return "the environment", "what a restore put into its place"
    if watched and (seen.current, seen.deployment_id) != (before.current, before.deployment_id):
        return "data/storage/CURRENT", "the active index snapshot or deployment id"
    return None


def _moved(source: str, what: str) -> Omission:
    part = Part.STORAGE if "storage" in source else Part.UPLOADS
    return Omission(part, source, Reason.MOVED, f"{what} changed each time it was captured")
