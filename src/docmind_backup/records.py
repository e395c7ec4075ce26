"""Write what a backup says of itself, in the order that makes it one: the record comes last."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from docmind_backup import __version__, durable
from docmind_backup.core import docmind
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    CollectionRecord,
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

SPOOLS = ".spools"
"""Folder in the staging directory: one file of inventory lines for each step."""
DATABASES = {Part.CACHE: "cache_db", Part.CHAT: "chat_db"}
"""DocMind's labels in the manifest's `databases`."""


@dataclass(slots=True)
class StepResult:
    """One step's outcome; its inventory lines are in `spool`."""

    step: FileStep | CollectionStep
    spool: Path
    totals: Totals = field(default_factory=Totals)
    kept_files: int = 0
    kept_bytes: int = 0
    """Files that are shared as they were; `totals` has the others until `settle`."""
    omissions: list[Omission] = field(default_factory=list[Omission])
    notes: list[str] = field(default_factory=list[str])
    collections: list[CollectionRecord] = field(default_factory=list[CollectionRecord])

    def keep(self, size: int) -> None:
        """One more file that is shared as it was: there may be a million of them."""
        self.kept_files += 1
        self.kept_bytes += size

    def settle(self) -> None:
        self.totals += Totals(files=self.kept_files, bytes=self.kept_bytes)
        self.kept_files = self.kept_bytes = 0

    def entries(self) -> Iterator[Entry]:
        """What the step stored, streamed."""
        with self.spool.open("rb") as lines:
            for line in lines:
                yield fmt.read_entry(line)

    def files(self) -> Iterator[tuple[str, int, str]]:
        """Path, size and sha256 of each file that the step stored, streamed."""
        with self.spool.open("rb") as lines:
            yield from filter(None, map(fmt.file_fields, lines))


def write_records(
    plan: BackupPlan,
    results: Sequence[StepResult],
    staging: Path,
    *,
    fingerprints: Mapping[str, str],
    finished_at: datetime,
) -> Record:
    """Write the five files of a backup into `staging` and return its record. Not flushed. Raises OSError."""
    inventory = _write_inventory(staging, results)
    contents = _contents(results)
    record = _record(plan, results, contents, staging, fingerprints, finished_at)
    manifest = docmind.manifest_bytes(
        record,
        app_version=_app_version(plan),
        uploads=contents.uploads,
        artifacts=contents.artifacts,
        databases=contents.databases,
        active=plan.active if Part.STORAGE in record.included else "",
    )
    digests = {
        fmt.INVENTORY: inventory,
        fmt.MANIFEST: _write(staging / fmt.MANIFEST, manifest),
        fmt.README: _write(staging / fmt.README, readme(record).encode(errors="backslashreplace")),
    }
    digests[fmt.SUMS] = _write_sums(staging, results, digests)
    record = replace(record, digests=digests)
    _drop_spools(staging, results)
    durable.write_new(staging / fmt.RECORD, fmt.record_bytes(record))
    return record


def _write(path: Path, data: bytes) -> str:
    durable.write_new(path, data)
    return hashlib.sha256(data).hexdigest()


def _write_inventory(staging: Path, results: Sequence[StepResult]) -> str:
    """All steps' lines in one file; its sha256."""
    digest = hashlib.sha256()
    path = staging / fmt.INVENTORY
    with path.open("xb") as out:
        for result in results:
            with result.spool.open("rb") as lines:
                while chunk := lines.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
    path.chmod(0o400)
    return digest.hexdigest()


def _write_sums(staging: Path, results: Sequence[StepResult], own: Mapping[str, str]) -> str:
    """SHA256SUMS of every stored file and of our own files but the record; its own sha256."""
    digest = hashlib.sha256()
    path = staging / fmt.SUMS
    with path.open("xb") as out:
        for line in _sums(results, own):
            digest.update(line)
            out.write(line)
    path.chmod(0o400)
    return digest.hexdigest()


def _sums(results: Iterable[StepResult], own: Mapping[str, str]) -> Iterator[bytes]:
    for result in results:
        for path, _, sha256 in result.files():
            yield fmt.sums_line(path, sha256)
    for name, sha256 in own.items():
        yield fmt.sums_line(name, sha256)


def _drop_spools(staging: Path, results: Iterable[StepResult]) -> None:
    for result in results:
        result.spool.unlink()
    (staging / SPOOLS).rmdir()


# -- what DocMind's manifest lists ---------------------------------------------------------------


@dataclass(slots=True)
class _Contents:
    uploads: list[FileEntry] = field(default_factory=list[FileEntry])
    artifacts: list[FileEntry] = field(default_factory=list[FileEntry])
    links: list[str] = field(default_factory=list[str])
    """Links below uploads or artifacts: DocMind's checker refuses them."""
    databases: dict[str, FileEntry] = field(default_factory=dict[str, FileEntry])
    storage: dict[str, tuple[int, str]] = field(default_factory=dict[str, tuple[int, str]])
    """Files below data/storage: path relative to it -> (size, sha256)."""


def _contents(results: Iterable[StepResult]) -> _Contents:
    contents = _Contents()
    for result in results:
        if isinstance(result.step, FileStep):
            source = result.step.source
            match source.part:
                case Part.UPLOADS | Part.ARTIFACTS if str(source.stored) in (
                    "data/uploads",
                    "data/artifacts",
                ):
                    _list_files(contents, source.part, result.entries())
                case Part.CACHE | Part.CHAT:
                    _list_database(contents, source.part, str(source.stored), result.entries())
                case Part.STORAGE:
                    _list_storage(contents, result)
                case _:
                    pass
    return contents


def _list_files(contents: _Contents, part: Part, entries: Iterable[Entry]) -> None:
    listed = contents.uploads if part is Part.UPLOADS else contents.artifacts
    for entry in entries:
        if isinstance(entry, FileEntry):
            listed.append(entry)
        elif isinstance(entry, LinkEntry):
            contents.links.append(fmt.printable(entry.path))


def _list_database(contents: _Contents, part: Part, stored: str, entries: Iterable[Entry]) -> None:
    """The main file only: a `.wal` beside it is not DocMind's to list."""
    for entry in entries:
        if isinstance(entry, FileEntry) and entry.path == stored:
            contents.databases[DATABASES[part]] = entry


def _list_storage(contents: _Contents, result: StepResult) -> None:
    for path, size, sha256 in result.files():
        contents.storage[path.removeprefix("data/storage/")] = (size, sha256)


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
    taken = {collection.name for result in results for collection in result.collections}
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
    return docmind.ineligibility(
        record,
        databases=contents.databases,
        app_version=_app_version(plan),
        links=contents.links,
        corpus=docmind.corpus_hash((e.path.removeprefix("data/uploads/"), e.sha256) for e in contents.uploads),
        active=next((s for s in plan.snapshots if s.name == plan.active), None),
    )
