"""DocMind's own formats, read and written: index snapshot manifests, corpus hash, backup manifest. Pure.

Formulas: docs/manifest.md, checked against DocMind 2.0.1's files in tests/data/recordings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from docmind_backup.core.consistency import other_deployment
from docmind_backup.core.format import TOOL
from docmind_backup.core.model import DOCMIND_LABEL, FORMAT, IndexSnapshot, Part, Record

INDEX_SNAPSHOT_NAME = re.compile(r"\A\d{8}T\d{6}-[0-9a-f]{8}\Z")
Listed = tuple[str, int, str]
"""Path, size in bytes and sha256 of a file, as the manifest lists it."""
_AS_JSON = json.JSONEncoder(ensure_ascii=False).encode
STALE_UPLOADS = "uploads changed since DocMind indexed them last"
"""Why a backup is not eligible."""
INDEX_MANIFESTS = ("manifest.jsonl", "manifest.meta.json", "manifest.checksum")


def index_snapshot(name: str, meta: bytes) -> IndexSnapshot:
    """What `manifest.meta.json` says; a `problem` instead of an exception when it says nothing usable."""
    try:
        data = json.loads(meta)
        collections = {str(k): str(v) for k, v in data.get("collections", {}).items()}
        return IndexSnapshot(
            name,
            schema_version=str(data.get("schema_version", "")),
            app_version=str(data.get("versions", {}).get("app", "")),
            collections=collections,
            collection_metadata={str(k): dict(v) for k, v in data.get("collection_metadata", {}).items()},
            corpus_hash=str(data.get("corpus_hash", "")),
            graph_store_type=str(data.get("graph_store_type", "")),
            problem="" if data.get("complete", True) is True else "its manifest says it is not complete",
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return IndexSnapshot(name, problem="its manifest.meta.json cannot be read")


def index_snapshot_problems(
    files: Mapping[str, tuple[int, str]], manifest: bytes, meta: bytes, checksum: bytes
) -> tuple[str, ...]:
    """Why an index snapshot is not what its own manifest says; empty when it is.

    `files`: path relative to the snapshot -> (size in bytes, sha256), the three manifest files left out.
    A v1 snapshot (schema 1.0) hashes differently: only its file list is compared.
    """
    try:
        lines = [json.loads(line) for line in manifest.splitlines()]
        meta_data, stated = json.loads(meta), json.loads(checksum)
        listed = {str(line["path"]): (int(line["size_bytes"]), str(line["sha256"])) for line in lines}
        version = str(meta_data.get("schema_version", ""))
        expected = str(stated.get("manifest_sha256", ""))
        stated_version = str(stated.get("schema_version", version))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ("its manifest cannot be read",)
    problems = [f"{path} is missing" for path in sorted(listed.keys() - files.keys())]
    problems += [f"{path} is not in its manifest" for path in sorted(files.keys() - listed.keys())]
    problems += [f"{p} is not what its manifest says" for p in sorted(listed) if files.get(p, listed[p]) != listed[p]]
    if stated_version != version:
        problems.append("manifest.checksum is of another schema than manifest.meta.json")
    elif version.startswith("2") and expected != _manifest_sha256(lines, meta_data):
        problems.append("manifest.checksum does not match")
    return tuple(problems)


def _manifest_sha256(entries: Sequence[Any], meta: Any) -> str:
    """v2: every entry in compact canonical JSON and a newline, then the meta with default separators."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
    digest.update(json.dumps(meta, sort_keys=True, ensure_ascii=False).encode())
    return digest.hexdigest()


def corpus_hash(uploads: Iterable[tuple[str, str]]) -> str:
    """v2: sha256 over `[path, sha256]` of every upload, sorted by path; no delimiter."""
    digest = hashlib.sha256()
    for path, sha256 in sorted(uploads):
        digest.update(json.dumps([path, sha256], separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace"))
    return digest.hexdigest()


def corpus_hash_v1(uploads: Iterable[tuple[str, int, int]]) -> str:
    """v1: sha256 over path, size in bytes and mtime_ns of every upload, sorted by path; no delimiter."""
    digest = hashlib.sha256()
    for path, size, mtime_ns in sorted(uploads):
        digest.update(f"{path}{size}{mtime_ns}".encode("utf-8", "replace"))
    return digest.hexdigest()


def manifest_chunks(
    record: Record,
    *,
    app_version: str,
    uploads: Iterable[Listed],
    artifacts: Iterable[Listed],
    databases: Mapping[str, Listed],
    active: str,
) -> Iterator[bytes]:
    """`manifest.json`: a superset of what DocMind 2.0.1's backup service writes, so that its checker accepts it.

    `databases`: `cache_db` and `chat_db` to their stored file; `active`: the name in CURRENT.
    Streamed: its size grows with uploads and artifacts, about 150 bytes each.
    """
    fields = {
        "created_at": record.started_at.isoformat(),
        "app_version": app_version,
        "complete": record.complete,
        "included": _labels(record),
        "bytes_written": record.totals.bytes,
        "databases": {
            label: {"path": path, "size_bytes": size, "sha256": sha256}
            for label, (path, size, sha256) in databases.items()
        },
        "activation": _activation(record, active),
        "warnings": [_warning(record, i) for i in range(len(record.omissions))],
        "maintenance_warnings": [*record.notes, *record.ineligible],
        "backup": {"tool": TOOL, "format": FORMAT, "id": record.id, "record": "backup.json"},
    }
    if record.qdrant and not record.qdrant.embedded:
        fields["qdrant"] = _qdrant(record)
    yield b"{\n"
    for key in sorted(fields):
        value = json.dumps(fields[key], indent=2, sort_keys=True, ensure_ascii=False).replace("\n", "\n  ")
        yield f'  "{key}": {value},\n'.encode(errors="backslashreplace")
    yield from _file_list("artifacts", artifacts)
    yield b",\n"
    yield from _file_list("uploads", uploads)
    yield b"\n}\n"


def _file_list(key: str, files: Iterable[Listed]) -> Iterator[bytes]:
    yield f'  "{key}": {{\n    "files": ['.encode()
    comma = ""
    for path, size, sha256 in files:
        text = f'{comma}\n      {{"path": {_AS_JSON(path)}, "sha256": "{sha256}", "size_bytes": {size}}}'
        yield text.encode(errors="backslashreplace")
        comma = ","
    yield b"\n    ]\n  }"


def _labels(record: Record) -> list[str]:
    """DocMind's labels; an embedded Qdrant has a label of its own, because DocMind's restore cannot use it."""
    embedded = record.qdrant is not None and record.qdrant.embedded
    return ["qdrant_embedded" if p is Part.QDRANT and embedded else DOCMIND_LABEL[p] for p in record.included]


def _warning(record: Record, index: int) -> str:
    omission = record.omissions[index]
    return f"{omission.part}: {omission.source}: {omission.reason}" + (
        f" ({omission.detail})" if omission.detail else ""
    )


def _activation(record: Record, active: str) -> dict[str, Any]:
    collections: Mapping[str, str] = {}
    for stored in record.index_snapshots:
        if stored["name"] == active:
            collections = stored["collections"]
    return {"snapshot": active, "collections": dict(collections), "deployment_id": record.scope.deployment_id}


def _qdrant(record: Record) -> dict[str, Any]:
    qdrant = record.qdrant
    assert qdrant is not None
    return {
        "url": qdrant.url,
        "version": qdrant.version,
        "collections": [
            {
                "collection": taken.name,
                "snapshot_name": taken.snapshot_name,
                "filename": taken.path,
                "size_bytes": taken.size,
                "checksum": taken.sha256,
                "point_count": taken.points_max,
                "point_count_min": taken.points_min,
            }
            for taken in qdrant.collections
        ],
    }


def ineligibility(
    record: Record,
    *,
    databases: Iterable[str],
    app_version: str,
    links: Sequence[str],
    corpus: str,
    active: IndexSnapshot | None,
) -> tuple[str, ...]:
    """Why DocMind's own checker would refuse this backup as a recovery point (read in DocMind 2.0.1).

    `databases`: labels captured; `links`: stored links below uploads or artifacts; `corpus`: hash of the stored
    uploads. Rows of one table: (what is wrong, whether it is).
    """
    needed = {Part.CACHE, Part.STORAGE, Part.CHAT, Part.UPLOADS, Part.IDENTITY, Part.QDRANT}
    qdrant = record.qdrant
    rows: tuple[tuple[str, bool], ...] = (
        ("it is incomplete", not record.complete),
        (f"it does not hold {_words(needed - set(record.included))}", not needed <= set(record.included)),
        ("its databases are not exactly the cache and the chats", set(databases) != {"cache_db", "chat_db"}),
        ("Qdrant is embedded (a folder), DocMind expects a server", qdrant is not None and qdrant.embedded),
        ("the version of the application is unknown", not app_version),
        (f"uploads or artifacts hold links: {', '.join(links[:3])}", bool(links)),
        ("there is no deployment id", not record.scope.deployment_id),
        ("there is no active index snapshot", active is None),
        *(_activation_rows(record, active, corpus) if active else ()),
    )
    return tuple(reason for reason, applies in rows if applies)


def _activation_rows(record: Record, active: IndexSnapshot, corpus: str) -> tuple[tuple[str, bool], ...]:
    """What has to fit together: the active index snapshot, its two collections, the uploads it was made of."""
    captured = {c.role: c for c in record.qdrant.collections} if record.qdrant else {}
    names = {role: taken.name for role, taken in captured.items()}
    metadata = {role: taken.state.metadata for role, taken in captured.items()}
    return (
        (
            "the collections are not exactly those of the active index snapshot",
            names.keys() != {"text", "image"} or names != dict(active.collections),
        ),
        (STALE_UPLOADS, active.corpus_hash != corpus),
        (
            "the active index snapshot is of another deployment than data/.deployment-id",
            other_deployment(active, record.scope.deployment_id),
        ),
        (
            "a collection's metadata is not what the active index snapshot says",
            any(found != active.collection_metadata.get(role, {}) for role, found in metadata.items()),
        ),
    )


def _words(parts: Iterable[Part]) -> str:
    return ", ".join(sorted(parts))
