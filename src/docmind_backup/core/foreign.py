"""Read other tools' backups as if they were ours: DocMind's own (v2 and v1) and ai-memory's. No I/O.

What lies there and what its manifest says come in; out come a Record and the lines an inventory would have, with what
none of it can prove. Layouts: as DocMind 2.0.1 and ai-memory 2.0.6 wrote them (tests/data/recordings).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from docmind_backup.core import docmind
from docmind_backup.core import format as fmt
from docmind_backup.core.model import (
    DOCMIND_LABEL,
    CollectionRecord,
    CollectionState,
    DirEntry,
    Entry,
    FileEntry,
    Kind,
    Layout,
    LinkEntry,
    Omission,
    Part,
    QdrantRecord,
    Reason,
    Record,
    Scope,
    SourceRecord,
    Totals,
)

MANIFEST = fmt.MANIFEST
_NEEDED = (Part.CACHE, Part.STORAGE, Part.IDENTITY, Part.UPLOADS, Part.QDRANT, Part.CHAT)
"""What DocMind's own recovery points hold at least."""
_PARTS = {label: part for part, label in DOCMIND_LABEL.items()}
_DUCKDB_SIDECARS = (".wal", ".wal.checkpoint", ".wal.recovery")
_SQLITE_SIDECARS = ("-wal", "-shm", "-journal")
_CONTAINERS = frozenset(("cache", "data", "data/analytics", "qdrant"))
"""Folders that belong to no source by themselves."""


class Maker(StrEnum):
    """Whose backup it is."""

    DOCMIND = "DocMind"
    AI_MEMORY = "ai-memory"


class Counts(StrEnum):
    """What the number of points in its record is worth."""

    EXACT = "exact"
    ESTIMATE = "estimate"
    """What Qdrant gave as a collection's points: up to twice as many while it optimizes."""
    NONE = "none"
    """Not recorded: the zeros in the record mean nothing."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What lies in the directory."""

    name: str
    """Of the directory."""
    manifest: bytes
    listing: tuple[Entry, ...]
    """Everything below it but the manifest, parents first; files without sha256."""
    texts: Mapping[str, bytes] = field(default_factory=dict[str, bytes])
    """Path to content: CURRENT, and the three manifests of each index snapshot."""
    snapshots: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    """Path of each collection snapshot to the JSON documents at the top of it."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """Another tool's backup in our words."""

    maker: Maker
    record: Record
    """`sources`, `qdrant`, `omissions`, ... as in a record of ours. `id` is the directory's name, `origin` of a source
    is empty (nobody wrote down where it was), `lines` are (0, 0): the entries are here."""
    entries: tuple[Entry, ...]
    """What belongs to it: as its manifest says where it says so, else as it lies there, then `sha256` is empty."""
    counts: Counts
    problems: tuple[tuple[str, str], ...] = ()
    """(path, what is wrong) where the files that describe it contradict each other."""
    stray: tuple[str, ...] = ()
    """Paths of what belongs to nothing that its manifest knows."""
    unproved: tuple[tuple[str, str], ...] = ()
    """(what, why): what nothing in it can be held against."""

    def below(self, stored: str) -> Iterator[Entry]:
        """The entries of one source, a database's sidecars with it."""
        return (e for e in self.entries if (root := _root_of(e.path, self.maker)) and root[2] == stored)


def maker_of(manifest: Any) -> Maker | None:
    """Who wrote such a manifest; None when it is nobody known, or this tool."""
    if not isinstance(manifest, Mapping):
        return None
    if {"backup_date", "ai_memory_version"} <= manifest.keys():
        return Maker.AI_MEMORY
    own = manifest.get("backup")
    if {"created_at", "included", "bytes_written"} <= manifest.keys():
        return None if isinstance(own, Mapping) and own.get("tool") == fmt.TOOL else Maker.DOCMIND
    return None


def read(looked: Looked) -> Foreign | None:
    """None when it is nobody's that is known. Raises ValueError when its manifest cannot be used."""
    try:
        manifest = json.loads(looked.manifest)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    try:
        match maker_of(manifest):
            case Maker.DOCMIND:
                return _docmind(manifest, looked)
            case Maker.AI_MEMORY:
                return _ai_memory(manifest, looked)
            case None:
                return None
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not as its maker writes it: {error!r}") from error


# -- DocMind -------------------------------------------------------------------------------------

Sums = dict[str, tuple[int, str]]
"""Path to size and sha256, -1 and empty where nobody said."""


def _docmind(manifest: Mapping[str, Any], looked: Looked) -> Foreign:
    v2 = bool({"activation", "databases", "complete"} & manifest.keys())
    activation = manifest.get("activation") or {}
    collections = tuple(_docmind_collections(manifest, looked))
    sums, problems = _index_sums(looked)
    sums |= _docmind_sums(manifest, collections) if v2 else _collection_sums(collections)
    active = str(activation.get("snapshot", "")) or _active_v1(looked)
    if v2 and active not in _index_names(looked):
        problems = (*problems, (f"data/storage/{active}", "the active index snapshot is not there"))
    record = _record(looked, _time(manifest["created_at"]), f"DocMind {manifest.get('app_version', '')}".strip())
    record = replace(
        record,
        layout=Layout.V2 if v2 else Layout.V1,
        included=tuple(part for part in Part if DOCMIND_LABEL[part] in manifest["included"]),
        omissions=tuple(_docmind_omissions(manifest)) if v2 else (),
        notes=tuple(str(one) for key in ("warnings", "maintenance_warnings") for one in manifest.get(key) or ()),
        index_snapshots=tuple(_index_snapshots(looked, active, collections)),
        qdrant=_qdrant(manifest.get("qdrant"), collections),
    )
    scope = _scope(record, str(activation.get("deployment_id", "")))
    counts = Counts.EXACT if v2 else Counts.NONE
    return _foreign(Maker.DOCMIND, replace(record, scope=scope), looked, sums, counts, problems, closed=v2)


def _docmind_sums(manifest: Mapping[str, Any], collections: Iterable[CollectionRecord]) -> Sums:
    """All that a v2 manifest says of files: the two that hold one word are known by what that word is."""
    sums = _collection_sums(collections)
    for root in ("uploads", "artifacts"):
        for listed in (manifest.get(root) or {}).get("files") or ():
            sums[fmt.contained(f"data/{root}/{listed['path']}")] = _sum(listed)
    for listed in (manifest.get("databases") or {}).values():
        sums[fmt.contained(str(listed["path"]))] = _sum(listed)
    activation = manifest.get("activation") or {}
    for path, word in (("data/storage/CURRENT", "snapshot"), ("data/.deployment-id", "deployment_id")):
        if activation.get(word):
            line = f"{activation[word]}\n".encode()
            sums[path] = len(line), hashlib.sha256(line).hexdigest()
    return sums


def _sum(listed: Mapping[str, Any]) -> tuple[int, str]:
    return _count(listed["size_bytes"]), str(listed["sha256"])


def _collection_sums(collections: Iterable[CollectionRecord]) -> Sums:
    return {taken.path: (taken.size, taken.sha256) for taken in collections}


def _docmind_collections(manifest: Mapping[str, Any], looked: Looked) -> Iterator[CollectionRecord]:
    roles = {
        str(name): str(role) for role, name in ((manifest.get("activation") or {}).get("collections") or {}).items()
    }
    there = {entry.path for entry in looked.listing}
    for taken in (manifest.get("qdrant") or {}).get("collections") or ():
        name, file = str(taken["collection"]), str(taken.get("filename") or taken["snapshot_name"])
        places = (file, f"qdrant/{file}", f"qdrant/{name}/{file}")
        path = fmt.contained(next((place for place in places if place in there), file))
        checksum, points = str(taken.get("checksum") or ""), _count(taken.get("point_count") or 0)
        yield CollectionRecord(
            name=name,
            role=roles.get(name, ""),
            taken_at=str(manifest["created_at"]),
            points_min=points,
            points_max=points,
            path=path,
            size=_count(taken["size_bytes"]) if "size_bytes" in taken else -1,
            sha256=checksum,
            snapshot_name=str(taken["snapshot_name"]),
            server_checksum=checksum,
            state=_state(name, roles.get(name, ""), points, looked.snapshots.get(path, {})),
        )


def _docmind_omissions(manifest: Mapping[str, Any]) -> Iterator[Omission]:
    """What a v2 backup that calls itself incomplete does not hold."""
    if manifest.get("complete") is True and not manifest.get("warnings"):
        return
    lacking = [part for part in _NEEDED if DOCMIND_LABEL[part] not in manifest["included"]]
    for part in lacking:
        yield Omission(part, DOCMIND_LABEL[part], Reason.MISSING, "DocMind did not save it")
    if not lacking:
        warnings = "; ".join(str(one) for one in manifest.get("warnings") or ()) or "it does not say why"
        yield Omission(Part.STORAGE, MANIFEST, Reason.MISSING, f"DocMind calls it incomplete: {warnings}")


def _index_sums(looked: Looked) -> tuple[Sums, tuple[tuple[str, str], ...]]:
    """By the manifests of the index snapshots; and which of these cannot be believed."""
    sums: Sums = {}
    problems: list[tuple[str, str]] = []
    for name in _index_names(looked):
        folder = f"data/storage/{name}"
        texts = [looked.texts.get(f"{folder}/{file}", b"") for file in docmind.INDEX_MANIFESTS]
        listed = _listed(texts[0])
        if wrong := docmind.index_snapshot_problems(listed, *texts):
            problems.append((folder, wrong[0]))
        sums.update({fmt.contained(f"{folder}/{path}"): found for path, found in listed.items()})
        for file, text in zip(docmind.INDEX_MANIFESTS, texts, strict=True):
            sums[f"{folder}/{file}"] = len(text), hashlib.sha256(text).hexdigest()
    return sums, tuple(problems)


def _listed(manifest: bytes) -> Sums:
    """Empty when it cannot be read: `index_snapshot_problems` says so."""
    try:
        lines = [json.loads(line) for line in manifest.splitlines()]
        return {str(line["path"]): _sum(line) for line in lines}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def _index_names(looked: Looked) -> list[str]:
    names = {path.split("/")[2] for path in looked.texts if path.startswith("data/storage/") and path.count("/") == 3}
    return sorted(name for name in names if docmind.INDEX_SNAPSHOT_NAME.match(name))


def _active_v1(looked: Looked) -> str:
    """What CURRENT names; where there is none, the newest."""
    named = looked.texts.get("data/storage/CURRENT", b"").decode(errors="replace").strip()
    return named or next(iter(reversed(_index_names(looked))), "")


def _index_snapshots(
    looked: Looked, active: str, collections: Iterable[CollectionRecord]
) -> Iterator[Mapping[str, Any]]:
    taken = {collection.name for collection in collections}
    for name in _index_names(looked):
        found = docmind.index_snapshot(name, looked.texts.get(f"data/storage/{name}/manifest.meta.json", b""))
        yield {
            "name": name,
            "active": name == active,
            "schema_version": found.schema_version,
            "collections": dict(found.collections),
            "collections_captured": set(found.collections.values()) <= taken,
        }


# -- ai-memory -----------------------------------------------------------------------------------


def _ai_memory(manifest: Mapping[str, Any], looked: Looked) -> Foreign:
    collections = tuple(_ai_memory_collections(manifest, looked))
    made_by = f"ai-memory {manifest['ai_memory_version']}"
    record = _record(looked, _time(manifest["backup_date"]), made_by)
    there = {entry.path.split("/")[0] for entry in looked.listing}
    held = {Part.QDRANT: bool(collections), Part.ENV: "config" in there, Part.LOGS: "logs" in there}
    url = f"http://{manifest.get('qdrant_host', '')}:{manifest.get('qdrant_port', '')}"
    record = replace(
        record,
        included=tuple(part for part in Part if held.get(part)),
        qdrant=_qdrant({"url": url}, collections),
    )
    sums = _collection_sums(collections)
    listed = [fmt.contained(f"config/{name}") for name in manifest.get("config_files") or ()]
    sums |= dict.fromkeys(listed, (-1, ""))
    return _foreign(
        Maker.AI_MEMORY, replace(record, scope=_scope(record, "")), looked, sums, Counts.ESTIMATE, (), closed=False
    )


def _ai_memory_collections(manifest: Mapping[str, Any], looked: Looked) -> Iterator[CollectionRecord]:
    for key, taken in manifest["collections"].items():
        name, path = str(taken.get("name", key)), fmt.contained(f"qdrant/{taken['snapshot_file']}")
        points = _count(taken["records"])
        yield CollectionRecord(
            name=name,
            role="",
            taken_at=str(taken.get("created_at") or manifest["backup_date"]),
            points_min=points,
            points_max=points,
            path=path,
            size=_count(taken["size_bytes"]),
            sha256="",
            snapshot_name=str(taken["snapshot_file"]),
            state=_state(name, "", points, looked.snapshots.get(path, {})),
        )


# -- both ----------------------------------------------------------------------------------------


def _record(looked: Looked, made_at: datetime, made_by: str) -> Record:
    nothing = Scope("", "", frozenset(), frozenset())
    return Record(
        id=looked.name,
        sequence=0,
        started_at=made_at,
        finished_at=made_at,
        host="",
        tool_version=made_by,
        scope=nothing,
        layout=Layout.V2,
        project="",
        included=(),
        totals=Totals(),
        sources=(),
    )


def _time(text: Any) -> datetime:
    moment = fmt.moment(str(text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _count(value: Any) -> int:
    return fmt.count(int(value))


def _scope(record: Record, deployment_id: str) -> Scope:
    taken = record.qdrant.collections if record.qdrant else ()
    names = frozenset(f"role:{c.role}" if c.role else f"name:{c.name}" for c in taken)
    return Scope("", deployment_id, frozenset(record.included), names)


def _qdrant(said: Mapping[str, Any] | None, collections: tuple[CollectionRecord, ...]) -> QdrantRecord | None:
    if not collections:
        return None
    return QdrantRecord(str((said or {}).get("url", "")), str((said or {}).get("version", "")), False, collections)


def _state(name: str, role: str, points: int, documents: Mapping[str, Any]) -> CollectionState:
    """What the snapshot's own files say of the collection; its aliases are in no snapshot."""
    config = _mapping(documents.get("config.json"))
    params = _mapping(config.get("params"))
    shards = params.get("shard_number")
    return CollectionState(
        name,
        role,
        points=points,
        vectors=_mapping(params.get("vectors")),
        sparse_vectors=_mapping(params.get("sparse_vectors")),
        payload_schema=_indexes(_mapping(_mapping(documents.get("payload_index.json")).get("schema"))),
        metadata=_mapping(config.get("metadata")),
        shards=fmt.count(shards) if isinstance(shards, int) else 1,
        sharding=str(params.get("sharding_method") or "auto"),
        config=config,
    )


def _indexes(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """As a server describes what a snapshot has as `"keyword"`, or as `{"type": "keyword", ...}` with its options."""
    return {
        name: {"data_type": kind["type"], "params": kind} if "type" in _mapping(kind) else {"data_type": kind}
        for name, kind in schema.items()
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _foreign(
    maker: Maker,
    record: Record,
    looked: Looked,
    sums: Sums,
    counts: Counts,
    problems: tuple[tuple[str, str], ...],
    *,
    closed: bool,
) -> Foreign:
    """`closed`: uploads, artifacts and databases that the manifest does not list do not belong there."""
    entries: list[Entry] = []
    stray: list[str] = []
    for entry in looked.listing:
        if _belongs(entry, maker, sums, closed=closed):
            entries.append(_as_said(entry, sums))
        else:
            stray.append(entry.path)
    there = {entry.path for entry in looked.listing}
    gone = [FileEntry(p, size=n, sha256=sha, mtime_ns=0, mode=0) for p, (n, sha) in sums.items() if p not in there]
    entries += gone
    sources, totals = _sources(entries, maker)
    return Foreign(
        maker,
        replace(record, sources=sources, totals=totals),
        tuple(entries),
        counts,
        problems,
        tuple(stray),
        tuple(_unproved(entries, maker, there)),
    )


def _as_said(entry: Entry, sums: Sums) -> Entry:
    if entry.path not in sums:
        return entry
    size, sha256 = sums[entry.path]
    if not isinstance(entry, FileEntry):
        return FileEntry(entry.path, size=size, sha256=sha256, mtime_ns=0, mode=0)
    return replace(entry, size=size if size >= 0 else entry.size, sha256=sha256)


Root = tuple[Part, Kind, str]
"""Part, kind and stored root of the source that a path belongs to."""


def _root_of(path: str, maker: Maker) -> Root | None:
    """None when it belongs to no source of files."""
    steps = path.split("/")
    top, below = steps[0], "/".join(steps[:2])
    if maker is Maker.AI_MEMORY:
        rows = {"config": (Part.ENV, Kind.TREE, "config"), "logs": (Part.LOGS, Kind.TREE, "logs")}
        return rows.get(top)
    trees = {
        "data/storage": Part.STORAGE,
        "data/uploads": Part.UPLOADS,
        "data/artifacts": Part.ARTIFACTS,
    }
    if below in trees:
        return trees[below], Kind.TREE, below
    match steps:
        case [".env"]:
            return Part.ENV, Kind.FILE, path
        case ["logs", *_]:
            return Part.LOGS, Kind.TREE, "logs"
        case ["data", ".deployment-id"]:
            return Part.IDENTITY, Kind.FILE, path
        case ["cache", _]:
            return Part.CACHE, Kind.DUCKDB, _main(path, _DUCKDB_SIDECARS)
        case ["data", "analytics", _]:
            return Part.ANALYTICS, Kind.DUCKDB, _main(path, _DUCKDB_SIDECARS)
        case ["data", name] if _main(name, _SQLITE_SIDECARS).endswith((".db", ".sqlite", ".sqlite3")):
            return Part.CHAT, Kind.SQLITE, _main(path, _SQLITE_SIDECARS)
    return None


def _main(path: str, suffixes: Iterable[str]) -> str:
    """The database that a sidecar belongs to; itself when it is none."""
    return next((path.removesuffix(suffix) for suffix in suffixes if path.endswith(suffix)), path)


def _belongs(entry: Entry, maker: Maker, sums: Sums, *, closed: bool) -> bool:
    path = entry.path
    if isinstance(entry, DirEntry):
        return path in _CONTAINERS or path.startswith("qdrant/") or _root_of(path, maker) is not None
    if path.startswith("qdrant/") or _in_index_snapshot(path):
        return path in sums and isinstance(entry, FileEntry)
    root = _root_of(path, maker)
    if root is None:
        return False
    listed_only = closed and root[0] in (Part.UPLOADS, Part.ARTIFACTS, Part.CACHE, Part.CHAT)
    return path in sums if listed_only else True


def _in_index_snapshot(path: str) -> bool:
    steps = path.split("/")
    return steps[:2] == ["data", "storage"] and len(steps) > 3 and bool(docmind.INDEX_SNAPSHOT_NAME.match(steps[2]))


def _sources(entries: Iterable[Entry], maker: Maker) -> tuple[tuple[SourceRecord, ...], Totals]:
    """Of what is there, in the order of the parts; and all of it together."""
    totals: dict[Root, Totals] = {}
    other = Totals()
    for entry in entries:
        root = _root_of(entry.path, maker)
        if root:
            totals[root] = totals.get(root, Totals()) + _one(entry)
        elif isinstance(entry, FileEntry):
            other += _one(entry)
    order = list(Part)
    rows = sorted(totals.items(), key=lambda row: (order.index(row[0][0]), row[0][2]))
    records = tuple(SourceRecord(part, stored, "", kind, found) for (part, kind, stored), found in rows)
    return records, sum(totals.values(), other)


def _one(entry: Entry) -> Totals:
    match entry:
        case FileEntry():
            return Totals(1, max(0, entry.size), own_bytes=max(0, entry.size))
        case LinkEntry():
            return Totals(links=1)
        case DirEntry():
            return Totals(directories=1)


def _unproved(entries: Iterable[Entry], maker: Maker, there: set[str]) -> Iterator[tuple[str, str]]:
    """By source: files of which nobody wrote down a sum."""
    counts: dict[str, int] = {}
    for entry in entries:
        if isinstance(entry, FileEntry) and not entry.sha256 and entry.path in there:
            root = _root_of(entry.path, maker)
            stored = root[2] if root else entry.path
            counts[stored] = counts.get(stored, 0) + 1
    for stored, files in counts.items():
        yield stored, f"{maker} wrote down no sum of {'it' if files == 1 else f'its {files:,} files'}"
