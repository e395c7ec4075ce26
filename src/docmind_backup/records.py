"""Write what a backup says of itself, in the order that makes it one: the record comes last."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from docmind_backup import __version__, durable
from docmind_backup.core import docmind
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    ArtifactProof,
    CollectionRecord,
    DirEntry,
    Entry,
    FileEntry,
    Layout,
    LinkEntry,
    Omission,
    Part,
    QdrantRecord,
    Reason,
    Record,
    SourceRecord,
    Totals,
)
from docmind_backup.core.planner import BackupPlan, CollectionStep, FileStep
from docmind_backup.core.readme import readme
from docmind_backup.core.sharing import Held

SPOOLS = ".spools"
"""Folder in the staging directory: one file of inventory lines for each step."""
EXAMPLES = 3
"""Of things that DocMind's checker refuses."""
DATABASES = {Part.CACHE: "cache_db", Part.CHAT: "chat_db"}
"""DocMind's labels in the manifest's `databases`."""
FOLDERS = {Part.UPLOADS: "data/uploads", Part.ARTIFACTS: "data/artifacts"}
"""What the manifest lists file by file."""


class StepResult:
    """One step's outcome. What it stored is in two files: inventory lines, and what other lists take of them."""

    def __init__(self, step: FileStep | CollectionStep, spool: Path) -> None:
        self.step = step
        self.spool = spool
        """The inventory lines."""
        self.omissions: list[Omission] = []
        self.notes: list[str] = []
        self.collections: list[CollectionRecord] = []
        self.links: list[str] = []
        """The first of the links that were stored: examples."""
        self._counts = {FileEntry: 0, LinkEntry: 0, DirEntry: 0}
        self._bytes = self._own_bytes = 0
        self._listed = spool.with_suffix(".files")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within it things can be added. What was added before is forgotten."""
        with self.spool.open("wb") as lines, self._listed.open("wb") as listed:
            self._line, self._list = lines.write, listed.write
            yield

    def add(self, entry: Entry) -> None:
        """One more stored thing."""
        self._line(fmt.entry_line(entry))
        self._counts[type(entry)] += 1
        match entry:
            case FileEntry():
                listed = _listed(entry.path, entry.size, entry.sha256)
                self._list(listed.encode(errors="surrogateescape"))
                self._bytes += entry.size
                self._own_bytes += 0 if entry.shared else entry.size
            case LinkEntry() if len(self.links) < EXAMPLES:
                self.links.append(fmt.printable(entry.path))
            case _:
                pass

    def keep(self, files: Sequence[Held]) -> None:
        """More files, shared as an earlier backup has them: there may be a million of them."""
        listed = "".join([_listed(held.path, held.size, held.fields["sha256"]) for held in files])
        self._line(b"".join([held.line for held in files]))
        self._list(listed.encode(errors="surrogateescape"))
        self._counts[FileEntry] += len(files)
        self._bytes += sum([held.size for held in files])

    @property
    def totals(self) -> Totals:
        counts = self._counts
        return Totals(counts[FileEntry], self._bytes, counts[LinkEntry], counts[DirEntry], self._own_bytes)

    def files(self) -> Iterator[docmind.Listed]:
        """Path, size and sha256 of each file that the step stored, streamed in the order of the inventory."""
        rest = b""
        with self._listed.open("rb") as listed:
            while chunk := listed.read(1 << 20):
                *files, rest = (rest + chunk).split(b"\0")
                for file in files:
                    sha256, size, path = file.split(b" ", 2)
                    yield path.decode(errors="surrogateescape"), int(size), sha256.decode()

    def digest(self) -> str:
        """sha256 of all that was stored: of files by path and content, of links by their number."""
        with self._listed.open("rb") as listed:
            digest = hashlib.file_digest(listed, "sha256")
        digest.update(str(self.totals.links).encode())
        return digest.hexdigest()

    def drop(self) -> None:
        """Its two files are not needed any more."""
        self.spool.unlink()
        self._listed.unlink()


def _listed(path: str, size: int, sha256: str) -> str:
    return f"{sha256} {size} {path}\0"


def write_records(
    plan: BackupPlan,
    results: Sequence[StepResult],
    staging: Path,
    *,
    fingerprints: Mapping[str, str],
    proof: ArtifactProof | None,
    finished_at: datetime,
) -> Record:
    """Write the five files of a backup into `staging` and return its record. Not flushed. Raises OSError."""
    inventory = _write(staging / fmt.INVENTORY, _inventory(results))
    contents = _contents(results)
    record = replace(_record(plan, results, contents, staging, fingerprints, finished_at), artifact_proof=proof)
    manifest = docmind.manifest_chunks(
        record,
        app_version=_app_version(plan),
        uploads=contents.listed(Part.UPLOADS),
        artifacts=contents.listed(Part.ARTIFACTS),
        databases=contents.databases,
        active=plan.active if Part.STORAGE in record.included else "",
    )
    digests = {
        fmt.INVENTORY: inventory,
        fmt.MANIFEST: _write(staging / fmt.MANIFEST, manifest),
        fmt.README: _write(staging / fmt.README, [readme(record).encode(errors="backslashreplace")]),
    }
    digests[fmt.SUMS] = _write(staging / fmt.SUMS, _sums(results, digests))
    record = replace(record, digests=digests)
    _drop_spools(staging, results)
    durable.write_new(staging / fmt.RECORD, fmt.record_bytes(record))
    return record


def _write(path: Path, chunks: Iterable[bytes]) -> str:
    """A new file, read-only; its sha256."""
    digest = hashlib.sha256()
    with path.open("xb", buffering=1 << 20) as out:
        for chunk in chunks:
            digest.update(chunk)
            out.write(chunk)
    path.chmod(0o400)
    return digest.hexdigest()


def _inventory(results: Iterable[StepResult]) -> Iterator[bytes]:
    """All steps' lines."""
    for result in results:
        with result.spool.open("rb") as lines:
            yield from iter(lambda: lines.read(1 << 20), b"")


def _sums(results: Iterable[StepResult], own: Mapping[str, str]) -> Iterator[bytes]:
    """SHA256SUMS of every stored file and of our own files but the record."""
    for result in results:
        for path, _, sha256 in result.files():
            yield fmt.sums_line(path, sha256)
    for name, sha256 in own.items():
        yield fmt.sums_line(name, sha256)


def _drop_spools(staging: Path, results: Iterable[StepResult]) -> None:
    for result in results:
        result.drop()
    (staging / SPOOLS).rmdir()


# -- what DocMind's manifest lists ---------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    steps: dict[Part, StepResult] = field(default_factory=dict[Part, StepResult])
    """Uploads and artifacts."""
    databases: dict[str, docmind.Listed] = field(default_factory=dict[str, docmind.Listed])
    storage: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    """Files below data/storage: path relative to it -> (size, sha256)."""

    def listed(self, part: Part) -> Iterator[docmind.Listed]:
        """The files of a part, by their path below its folder; streamed."""
        root = f"{FOLDERS[part]}/"
        for path, size, sha256 in self.steps[part].files() if part in self.steps else ():
            yield path.removeprefix(root), size, sha256

    @property
    def links(self) -> list[str]:
        """Examples of links below uploads or artifacts: DocMind's checker refuses them."""
        return [link for step in self.steps.values() for link in step.links]


def _contents(results: Iterable[StepResult]) -> _Contents:
    contents = _Contents()
    for result in results:
        if isinstance(result.step, FileStep):
            source = result.step.source
            match source.part:
                case Part.UPLOADS | Part.ARTIFACTS if str(source.stored) == FOLDERS[source.part]:
                    contents.steps[source.part] = result
                case Part.CACHE | Part.CHAT:  # the main file only: a `.wal` beside it is not DocMind's to list
                    main = [file for file in result.files() if file[0] == str(source.stored)]
                    contents.databases.update((DATABASES[source.part], file) for file in main)
                case Part.STORAGE:
                    contents.storage.update((p.removeprefix("data/storage/"), (n, sha)) for p, n, sha in result.files())
                case _:
                    pass
    return contents


# -- the record ----------------------------------------------------------------------------------


def _record(
    plan: BackupPlan,
    results: Sequence[StepResult],
    contents: _Contents,
    staging: Path,
    fingerprints: Mapping[str, str],
    finished_at: datetime,
) -> Record:
    problems, index_notes = _index_problems(plan, contents, staging)
    shrunk = [
        f"{s.part}: {s.before:,} {s.what} in the last good backup, {s.now:,} now"
        + ("" if plan.shrink_accepted else "; nothing is pruned until `create --accept-shrink`")
        for s in plan.shrinks
    ]
    record = Record(
        id=plan.id,
        sequence=plan.sequence,
        started_at=plan.started_at,
        finished_at=finished_at,
        host=platform.node(),
        tool_version=__version__,
        scope=plan.scope,
        layout=plan.layout,
        project=str(plan.environment.project),
        included=_included(results),
        totals=sum((r.totals for r in results), Totals()),
        sources=tuple(_sources(results)),
        omissions=(*plan.omissions, *(o for r in results for o in r.omissions), *problems),
        notes=(*plan.notes, *shrunk, *(n for r in results for n in r.notes), *index_notes),
        shrinks=plan.shrinks,
        shrink_accepted=plan.shrink_accepted,
        absent_accepted=plan.absent_accepted,
        index_snapshots=tuple(_index_snapshots(plan, results)),
        qdrant=_qdrant(plan, results),
        key_fingerprints=fingerprints,
    )
    return replace(record, ineligible=_ineligible(plan, record, contents))


def _included(results: Iterable[StepResult]) -> tuple[Part, ...]:
    """Parts that really hold something, or an empty folder that was there."""
    there = {_part(r) for r in results if r.totals.files or r.totals.directories or r.totals.links}
    return tuple(part for part in Part if part in there)


def _part(result: StepResult) -> Part:
    return result.step.source.part if isinstance(result.step, FileStep) else Part.QDRANT


def _sources(results: Iterable[StepResult]) -> Iterator[SourceRecord]:
    offset = 0
    for result in results:
        length = result.spool.stat().st_size
        if isinstance(result.step, FileStep):
            source = result.step.source
            lines = (offset, length)
            yield SourceRecord(source.part, str(source.stored), str(source.path), source.kind, result.totals, lines)
        offset += length


def _qdrant(plan: BackupPlan, results: Iterable[StepResult]) -> QdrantRecord | None:
    state = plan.qdrant
    if state is None:
        return None
    taken = tuple(collection for result in results for collection in result.collections)
    return QdrantRecord(state.url, state.version, state.embedded, taken) if taken else None


def _index_snapshots(plan: BackupPlan, results: Iterable[StepResult]) -> Iterator[Mapping[str, object]]:
    taken = {
        name
        for result in results
        for collection in result.collections
        for name in (collection.name, *collection.state.aliases)
    }
    for snapshot in plan.snapshots:
        yield {
            "name": snapshot.name,
            "active": snapshot.name == plan.active,
            "schema_version": snapshot.schema_version,
            "collections": dict(snapshot.collections),
            "collections_captured": set(snapshot.collections.values()) <= taken,
        }


def _index_problems(
    plan: BackupPlan, contents: _Contents, staging: Path
) -> tuple[tuple[Omission, ...], tuple[str, ...]]:
    """Index snapshots against their own manifests, by the hashes just taken: (active one's damage, others')."""
    omissions: list[Omission] = []
    notes: list[str] = []
    for snapshot in plan.snapshots:
        folder = f"{snapshot.name}/"
        files = {
            path.removeprefix(folder): found
            for path, found in contents.storage.items()
            if path.startswith(folder) and path.removeprefix(folder) not in docmind.INDEX_MANIFESTS
        }
        manifests = [_read(staging / "data" / "storage" / snapshot.name / m) for m in docmind.INDEX_MANIFESTS]
        problems = docmind.index_snapshot_problems(files, *manifests)
        if problems and snapshot.name == plan.active:
            detail = f"{'; '.join(problems[:3])}; saved as it is"
            omissions.append(Omission(Part.STORAGE, f"data/storage/{snapshot.name}", Reason.DAMAGED, detail))
        elif problems:
            notes.append(f"data/storage/{snapshot.name} is damaged in the source: {problems[0]}; saved as it is")
    return tuple(omissions), tuple(notes)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _app_version(plan: BackupPlan) -> str:
    return next((s.app_version for s in plan.snapshots if s.name == plan.active), "")


def _ineligible(plan: BackupPlan, record: Record, contents: _Contents) -> tuple[str, ...]:
    if plan.layout is Layout.V1:
        return ("a v1 environment: DocMind 2 does not take v1 backups for recovery points",)
    active = next((s for s in plan.snapshots if s.name == plan.active), None)
    return docmind.ineligibility(
        record,
        databases=contents.databases,
        app_version=_app_version(plan),
        links=contents.links,
        corpus=docmind.corpus_hash((p, sha) for p, _, sha in contents.listed(Part.UPLOADS)) if active else "",
        active=active,
    )
