"""Restore a verified backup into scratch and hold what came against its record. Nothing live is touched.

Files go into a scratch folder, by the code that stages a restore; collections to the server, each under a name that
nothing has. What could not be tried is said, and only what was all right is remembered (docs/adr/0022).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from docmind_backup import deep, proving, uploads
from docmind_backup.bringing import Brought, bring
from docmind_backup.core.fitness import shard_problem
from docmind_backup.core.format import INVENTORY
from docmind_backup.core.journal import Journal, Phase, Piece
from docmind_backup.core.model import (
    Backup,
    CollectionRecord,
    Kind,
    OnEvent,
    Part,
    QdrantRecord,
    Reason,
    Record,
    StepFinished,
    StepStarted,
)
from docmind_backup.core.proof import PointsDigest, Proof, lack, points, unknown_to_engine
from docmind_backup.core.rehearsal import Judged, Rehearsed, judge_collection, judge_sample
from docmind_backup.core.restore import SIDECARS, TargetQdrant, server_blockers
from docmind_backup.core.returning import Expected
from docmind_backup.core.server import RestoreTarget
from docmind_backup.core.verifier import Altered, Finding, Unproved, Verdict, Verification, judge
from docmind_backup.deep import CannotProve
from docmind_backup.errors import DamageFound, NoSpace, QdrantError
from docmind_backup.restored import check_files, check_meaning
from docmind_backup.scratch import NoScratch, scratch
from docmind_backup.scratch_collections import ScratchCollection, clean, scratch_collection
from docmind_backup.uploads import Patience, Unlike, Upload

T = TypeVar("T")
SAMPLE = 10
"""Points that are looked at with all that they have: their vectors can be large."""
BLOCK = 4096
"""Bytes that a file may take beyond its size."""
NO_SERVER = "set DOCMIND_DATABASE__QDRANT_URL to a server that they may be restored to for the time of a rehearsal"


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a rehearsal takes place."""

    server: RestoreTarget | QdrantError | None
    """For collections; None when there is none, the error when it may not be used."""
    notes: Path
    """Folder of the notes about what was begun on servers."""
    folder: Path | None = None
    """Where scratch folders are made; by default TMPDIR."""
    patience: Patience = field(default_factory=Patience)


def rehearse(found: Verification, backup: Backup, stage: Stage, on_event: OnEvent) -> Verification:
    """A verification of `backup` with what restoring it came to; one that is damaged is not restored."""
    if judge(found.findings) is Verdict.DAMAGED:
        return found
    return _Rehearsal(found, backup, stage, on_event).run()


def clean_up(stage: Stage) -> None:
    """Remove what rehearsals that were killed left on the server; a silent one keeps its notes for the next run."""
    if stage.server is not None and not isinstance(stage.server, QdrantError):
        with suppress(QdrantError):
            clean(stage.notes, stage.server)


class _Rehearsal:
    """One backup under way."""

    def __init__(self, found: Verification, backup: Backup, stage: Stage, on_event: OnEvent) -> None:
        self._found = found
        self._directory = found.directory
        self._deep = backup.seal.deep if backup.seal else None
        self._record: Record = backup.record
        self._stage = stage
        self._on_event = on_event
        self._findings: list[Finding] = []
        self._unproved: list[Unproved] = []
        self._checks: list[tuple[str, str]] = []
        self._remarks: list[str] = []

    def run(self) -> Verification:
        self._files()
        qdrant = self._record.qdrant
        if qdrant and qdrant.collections and not qdrant.embedded:
            self._collections(qdrant)
        found, whole = self._found, not self._findings and not self._unproved
        return replace(
            found,
            findings=(*found.findings, *self._findings),
            unproved=(*found.unproved, *self._unproved),
            rehearsed=Rehearsed(whole, tuple(self._checks), tuple(self._remarks)),
        )

    def _tried(self, what: str, act: Callable[[], T]) -> T | None:
        """What `act` gives; None when that is damaged or could not be tried, which is noted."""
        try:
            return act()
        except DamageFound as error:
            self._findings.append(Altered(what, str(error)))
        except (CannotProve, NoScratch, NoSpace, QdrantError) as error:
            self._unproved.append(Unproved(what, f"not restored: {error}", error.hint))
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            self._unproved.append(Unproved(what, f"not restored: {where}{error.strerror or error}"))
        return None

    # -- files

    def _files(self) -> None:
        sources = [s for s in self._record.sources if s.totals.files or s.totals.directories or s.totals.links]
        if any(source.part is Part.ENV for source in sources):
            self._remarks.append(".env was not copied to scratch: it holds secrets")
        if any(source.part is not Part.ENV for source in sources):
            self._tried("files", self._bring)

    def _bring(self) -> None:
        sources = [source for source in self._record.sources if source.part is not Part.ENV]
        needed = sum(source.totals.bytes + BLOCK * source.totals.files for source in sources)
        with scratch(needed, self._stage.folder) as made:
            pieces = tuple(
                Piece(s.part, s.kind, s.stored, f"/{s.stored}", str(made.path), s.lines, s.totals.files, s.totals.bytes)
                for s in sources
            )
            brought = bring(self._directory, self._directory / INVENTORY, pieces, self._on_event)
            self._findings += [Altered(damage.path, damage.what) for one in brought for damage in one.damaged]
            self._hold([one for one in brought if one.whole])

    def _hold(self, brought: list[Brought]) -> None:
        """What lies in scratch against the inventory, and each database opened there."""
        pieces = [replace(one.piece, live=one.piece.staged()) for one in brought]
        damaged = tuple(damage.path for one in brought for damage in one.damaged)
        wrong = check_files(self._journal(pieces, damaged), pieces, self._on_event)
        for damage in wrong:
            self._unproved.append(Unproved("files", f"not right in the scratch folder: {damage}", "TMPDIR=DIR"))
        count = sum(piece.files for piece in pieces) - len(damaged) - len(wrong)
        self._checks.append(("files", f"{count:,} restored, as in the backup"))
        others = [piece for piece in pieces if piece.kind is not Kind.SQLITE]
        for checked in check_meaning(self._record, others, self._directory / INVENTORY):
            if checked.right:
                self._checks.append((checked.what, checked.found))
            else:
                self._findings.append(Altered(checked.what, f"restored, it is {checked.found}"))
        for piece in pieces:
            if piece.kind in SIDECARS:
                self._database(piece)
        self._embedded({piece.stored: piece for piece in pieces})

    def _journal(self, pieces: list[Piece], left_out: tuple[str, ...]) -> Journal:
        """All that a check of restored files asks a journal for."""
        record = self._record
        return Journal(
            "", record.id, str(self._directory), "", "", Phase.STAGING, tuple(pieces), folders=(), left_out=left_out
        )

    def _database(self, piece: Piece) -> None:
        if any(o.part is piece.part and o.reason is Reason.DAMAGED for o in self._record.omissions):
            self._remarks.append(f"{piece.stored} was damaged in its source already and was not opened")
            return
        if piece.kind is Kind.DUCKDB and (why := deep.missing("duckdb")):
            self._remarks.append(f"{piece.stored} was restored and not opened: {why} ({deep.INSTALL})")
            return
        rows = self._tried(piece.stored, lambda: proving.open_database(Path(piece.live), piece.kind))
        if rows:
            total, tables = sum(rows.rows.values()), len(rows.rows)
            words = f"opened, {total:,} row{'' if total == 1 else 's'} in {tables:,} table{'' if tables == 1 else 's'}"
            self._checks.append((piece.stored, words))

    def _embedded(self, pieces: dict[str, Piece]) -> None:
        """Collections of an embedded Qdrant, each a database below a folder that was restored."""
        qdrant = self._record.qdrant
        for taken in qdrant.collections if qdrant and qdrant.embedded else ():
            piece = next((p for stored, p in pieces.items() if taken.path.startswith(f"{stored}/")), None)
            if piece is None:
                continue
            path = Path(f"{piece.live}{taken.path[len(piece.stored) :]}")
            if proof := self._tried(taken.path, partial(proving.prove_embedded, path)):
                self._count(taken, proof)

    def _count(self, taken: CollectionRecord, proof: Proof) -> None:
        if problem := lack(taken, proof):
            self._findings.append(Altered(taken.path, f"restored, {problem}"))
        else:
            self._checks.append((taken.name, f"{points(proof.points)}, counted in its storage"))

    # -- collections of a server

    def _collections(self, qdrant: QdrantRecord) -> None:
        server = self._stage.server
        if server is None:
            self._unproved.append(Unproved("collections", "not restored: there is no Qdrant server", NO_SERVER))
        elif isinstance(server, QdrantError):
            self._unproved.append(Unproved("collections", f"not restored: {server}", server.hint))
        elif target := self._tried("collections", lambda: self._target(server)):
            for problem in server_blockers(target, made_with=qdrant.version or target.version):
                self._unproved.append(Unproved("collections", f"not restored: {problem}"))
                return
            same = _minor(qdrant.version) in (_minor(target.version), "")
            for taken in qdrant.collections:
                self._collection(_Upload(server, taken, self._directory / taken.path, same))

    def _target(self, server: RestoreTarget) -> TargetQdrant:
        """As far as something of another version or kind cannot take a snapshot; also without leftovers of ours."""
        clean_up(self._stage)
        return TargetQdrant(server.url, server.version(), peers=server.peers())

    def _collection(self, upload: _Upload) -> None:
        taken = upload.taken
        if problem := shard_problem(taken):
            self._unproved.append(Unproved(taken.path, f"not restored: {problem}"))
            return
        before = len(self._findings) + len(self._unproved)
        self._on_event(StepStarted(taken.path))
        self._tried(taken.path, lambda: self._upload(upload))
        right = len(self._findings) + len(self._unproved) == before
        self._on_event(StepFinished(taken.path, 1, taken.size, "restored" if right else "not right"))

    def _upload(self, upload: _Upload) -> None:
        server, taken = upload.server, upload.taken
        with scratch_collection(self._stage.notes, server, self._record.id) as made:
            _may_write(server, made)
            try:
                found = uploads.place(
                    server,
                    Upload(made.name, upload.path, made.file, taken.sha256, upload.expected),
                    (made.file,),
                    patience=self._stage.patience,
                    on_event=self._on_event,
                )
            except Unlike as error:
                made.answered()
                self._judged(taken, judge_collection(taken, error.found, same_version=upload.same_version))
                return
            made.answered()
            sample = server.sample(made.name, SAMPLE)
            if self._judged(taken, judge_sample(sample, SAMPLE, found)):
                words = self._payloads(upload, made) or f"{points(len(sample))} looked at with payloads and vectors"
                self._checks.append((taken.name, f"{points(found.points)}, configured as recorded; {words}"))

    def _judged(self, taken: CollectionRecord, judged: Judged) -> bool:
        """Whether nothing is wrong."""
        if judged.damage:
            self._findings.append(Altered(taken.path, judged.damage))
        if judged.doubt:
            self._unproved.append(Unproved(taken.path, judged.doubt))
        return not (judged.damage or judged.doubt)

    def _payloads(self, upload: _Upload, made: ScratchCollection) -> str:
        """Ids and payloads of all points as the engine found them in the snapshot; empty when it was not asked."""
        expected = self._digest(upload)
        if not expected:
            return ""
        digest = PointsDigest()
        for page in upload.server.scroll(made.name, None):
            for point in page:
                digest.add(point.id, point.payload)
        if digest.hexdigest() != expected:
            raise DamageFound("restored, its ids and payloads are not those that the snapshot holds")
        return "ids and payloads of all as in the snapshot"

    def _digest(self, upload: _Upload) -> str:
        """Of this run, of an earlier one, or made now; empty where there is no engine for it."""
        taken = upload.taken
        for one in self._found.deep.collections if self._found.deep else ():
            if one.name == taken.name:
                return one.proof.digest
        if self._deep and taken.name in self._deep.collections:
            return self._deep.collections[taken.name][1]
        version = self._record.qdrant.version if self._record.qdrant else ""
        if deep.missing("qdrant-edge-py") or unknown_to_engine(version):
            return ""
        with suppress(CannotProve, NoScratch, NoSpace):
            return deep.prove_snapshot(upload.path, scratch_root=self._stage.folder).digest
        return ""


@dataclass(frozen=True, slots=True)
class _Upload:
    """One collection of the backup, and where it is tried."""

    server: RestoreTarget
    taken: CollectionRecord
    path: Path
    same_version: bool
    """The server describes it as the one that it was saved from would."""

    @property
    def expected(self) -> Expected:
        return Expected((self.taken.points_min, self.taken.points_max), self.taken.state)


def _may_write(server: RestoreTarget, made: ScratchCollection) -> None:
    """A key that may only read is refused here, before any data moves."""
    try:
        server.create_collection(made.name)
    except QdrantError as error:
        made.refused = not error.may_be_done
        raise
    server.delete_collection(made.name)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
