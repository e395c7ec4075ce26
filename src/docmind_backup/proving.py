"""Have the engines open what a verified backup holds, and hold what they find against its record. Writes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from docmind_backup import deep, plain
from docmind_backup.catalog import read_limited
from docmind_backup.core import docmind
from docmind_backup.core import format as fmt
from docmind_backup.core.foreign import Counts, Foreign
from docmind_backup.core.model import (
    CollectionRecord,
    FileEntry,
    Kind,
    Layout,
    OnEvent,
    Part,
    Reason,
    Record,
    SourceRecord,
    StepFinished,
    StepStarted,
    ignore,
)
from docmind_backup.core.proof import (
    Deepened,
    Proof,
    ProvedCollection,
    ProvedDatabase,
    lack,
    points,
    shard_words,
    unknown_to_engine,
)
from docmind_backup.core.restore import SIDECARS
from docmind_backup.core.verifier import Altered, Finding, Unexpected, Unproved, Unreadable, Verification
from docmind_backup.deep import CannotProve, Rows
from docmind_backup.errors import DamageFound, NoSpace
from docmind_backup.scratch import NoScratch

T = TypeVar("T")
UPLOADS = "data/uploads"


def deepen(found: Verification, *, on_event: OnEvent = ignore) -> Verification:
    """A full verification of a backup of ours, with what the engines say of all that it did not find damaged."""
    try:
        record = fmt.read_record(read_limited(found.directory / fmt.RECORD))
    except (OSError, ValueError):
        return found
    proving = _Proving(found, record, on_event)
    return proving.run(lambda: _uploads(found.directory))


def deepen_foreign(found: Verification, foreign: Foreign, *, on_event: OnEvent = ignore) -> Verification:
    """The same of another tool's backup: what an engine has proved no longer wants for a sum."""
    proving = _Proving(found, foreign.record, on_event, foreign.counts)
    return proving.run(lambda: (entry for entry in foreign.below(UPLOADS) if isinstance(entry, FileEntry)))


def _uploads(directory: Path) -> Iterator[FileEntry]:
    """By the inventory, of which only their lines are parsed."""
    with plain.opened(directory / fmt.INVENTORY) as lines:
        while line := lines.readline(fmt.LINE_LIMIT):
            if UPLOADS.encode() in line:
                entry = fmt.read_entry(line)
                if isinstance(entry, FileEntry) and entry.path.startswith(f"{UPLOADS}/"):
                    yield entry


class _Proving:
    """One backup under way."""

    def __init__(self, found: Verification, record: Record, on_event: OnEvent, counts: Counts = Counts.EXACT) -> None:
        self._found = found
        self._directory = found.directory
        self._record = record
        self._counts = counts
        self._on_event = on_event
        self._spoiled = {finding.path for finding in found.findings if not isinstance(finding, Unexpected)}
        self._findings: list[Finding] = []
        self._unproved: list[Unproved] = []
        self._collections: list[ProvedCollection] = []
        self._databases: list[ProvedDatabase] = []
        self._remarks: list[str] = []

    def run(self, uploads: Callable[[], Iterable[FileEntry]]) -> Verification:
        for source in self._record.sources:
            if source.kind in SIDECARS:
                self._database(source)
        for taken in self._record.qdrant.collections if self._record.qdrant else ():
            self._collection(taken)
        self._corpus(uploads)
        found = self._found
        proved = {one.path for one in self._databases} | {one.path for one in self._collections}
        unproved = (*(one for one in found.unproved if one.what not in proved), *self._unproved)
        return replace(
            found,
            level="deep" if found.level == "full" and not unproved else found.level,
            findings=(*found.findings, *self._findings),
            unproved=unproved,
            deep=Deepened(tuple(self._collections), tuple(self._databases), tuple(self._remarks)),
        )

    def _tried(self, path: str, prove: Callable[[], T], doubt: str = "") -> T | None:
        """What `prove` gives; None when it is damaged or could not be judged, which is noted.

        `doubt`: why the engine need not be able to read it.
        """
        self._on_event(StepStarted(path))
        outcome = "opened"
        try:
            return prove()
        except DamageFound as error:
            outcome = "not proved" if doubt else "damaged"
            if doubt:
                self._unproved.append(Unproved(path, f"{error}; {doubt}"))
            else:
                self._findings.append(Altered(path, str(error)))
        except (CannotProve, NoScratch, NoSpace) as error:
            outcome = "not proved"
            self._unproved.append(Unproved(path, str(error), error.hint))
        except OSError as error:
            outcome = "unreadable"
            self._findings.append(Unreadable(path, error.strerror or "cannot be read"))
        finally:
            self._on_event(StepFinished(path, 1, _size(self._directory / path), outcome))
        return None

    # -- databases

    def _database(self, source: SourceRecord) -> None:
        path = self._directory / source.stored
        if self._knows_damage(source.part, source.stored) or self._is_spoiled(path):
            return
        found = self._tried(source.stored, lambda: open_database(path, source.kind))
        if found:
            self._databases.append(ProvedDatabase(source.stored, found.rows, found.engine))
            self._remarks += [f"{source.stored} was saved with a broken foreign key: {one}" for one in found.orphans]

    def _knows_damage(self, part: Part, path: str) -> bool:
        """It was broken in the source already, is kept as it was, and the backup says so."""
        known = any(o.part is part and o.reason is Reason.DAMAGED for o in self._record.omissions)
        if known:
            self._remarks.append(f"{path} was damaged in its source already and was not opened")
        return known

    def _is_spoiled(self, path: Path) -> bool:
        """Itself or a file beside it is not as recorded, or it is not there."""
        names = [path.name, *(path.name + suffix for suffixes in SIDECARS.values() for suffix in suffixes)]
        folder = path.relative_to(self._directory).parent
        return any(str(folder / name) in self._spoiled for name in names) or not path.is_file()

    # -- collections

    def _collection(self, taken: CollectionRecord) -> None:
        path = self._directory / taken.path
        if taken.path in self._spoiled or not path.is_file():
            return
        embedded = self._record.qdrant is not None and self._record.qdrant.embedded
        if embedded and self._knows_damage(Part.QDRANT, taken.path):
            return
        prove = prove_embedded if embedded else deep.prove_snapshot
        doubt = "" if embedded else unknown_to_engine(self._record.qdrant.version if self._record.qdrant else "")
        proof = self._tried(taken.path, lambda: prove(path), doubt)
        if proof:
            self._collections.append(ProvedCollection(taken.name, taken.path, proof))
            self._judge(taken, proof)

    def _judge(self, taken: CollectionRecord, proof: Proof) -> None:
        """The points against the record, as far as that says how many."""
        if elsewhere := shard_words(proof):
            words = f"it holds {points(proof.points)} in {elsewhere}: the record's number cannot be held against them"
            self._unproved.append(Unproved(taken.path, words))
        match self._counts:
            case Counts.EXACT:
                problem = lack(taken, proof)
            case Counts.ESTIMATE:
                problem = self._lacks_by_estimate(taken, proof)
            case Counts.NONE:
                problem = ""
                self._unproved.append(Unproved(taken.path, f"{points(proof.points)}: nobody wrote down how many"))
        if problem:
            self._findings.append(Altered(taken.path, problem))

    def _lacks_by_estimate(self, taken: CollectionRecord, proof: Proof) -> str:
        """An estimate is up to twice the number of points while Qdrant optimizes, never less."""
        if 2 * proof.points < taken.points_max or 2 * proof.in_segments < taken.points_max:
            return f"it has {points(min(proof.points, proof.in_segments))}, its manifest says {taken.points_max:,}"
        if proof.points != taken.points_max:
            words = f"it has {points(proof.points)}, its manifest says {taken.points_max:,}, which is Qdrant's estimate"
            self._unproved.append(Unproved(taken.path, words))
        return ""

    # -- uploads

    def _corpus(self, uploads: Callable[[], Iterable[FileEntry]]) -> None:
        """The uploads against the hash in the active index snapshot, which was made of them."""
        record = self._record
        name = next((str(one["name"]) for one in record.index_snapshots if one["active"]), "")
        expected = self._corpus_hash(name) if name and Part.UPLOADS in record.included else ""
        spoiled = any(path.startswith(UPLOADS) or path == fmt.INVENTORY for path in self._spoiled)
        if not expected or spoiled:
            return
        files = [(e.path.removeprefix(f"{UPLOADS}/"), e) for e in uploads()]
        if record.layout is Layout.V1:
            same = expected == docmind.corpus_hash_v1((path, e.size, e.mtime_ns) for path, e in files)
        else:
            same = expected == docmind.corpus_hash((path, e.sha256) for path, e in files)
        if same:
            self._remarks.append(f"the uploads are those that index snapshot {name} was made of")
        elif record.layout is Layout.V2 and not self._knows_stale():
            what = f"together they are not those that index snapshot {name} was made of (corpus hash)"
            self._findings.append(Altered(UPLOADS, what))
        else:
            self._remarks.append(f"the uploads are not those that index snapshot {name} was made of: index them again")

    def _corpus_hash(self, name: str) -> str:
        meta = f"data/storage/{name}/manifest.meta.json"
        if meta in self._spoiled:
            return ""
        try:
            return docmind.index_snapshot(name, read_limited(self._directory / meta)).corpus_hash
        except (OSError, ValueError):
            return ""

    def _knows_stale(self) -> bool:
        record = self._record
        missed = any(o.part in (Part.UPLOADS, Part.STORAGE) for o in record.omissions)
        return missed or docmind.STALE_UPLOADS in record.ineligible


def open_database(path: Path, kind: Kind) -> Rows:
    """With the sidecars that hold something. Raises as `deep.prove_sqlite` and `deep.prove_duckdb`."""
    beside = tuple(s for s in SIDECARS[kind] if s != "-shm" and _size(path.with_name(path.name + s)))
    return deep.prove_sqlite(path, beside) if kind is Kind.SQLITE else deep.prove_duckdb(path, beside)


def prove_embedded(path: Path) -> Proof:
    """Its pickles are never unpickled: they are programs."""
    found = deep.prove_sqlite(path)
    count = found.rows.get("points", 0)
    return Proof(count, "", count, engine=found.engine)


def _size(path: Path) -> int:
    """0 where there is none."""
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0
